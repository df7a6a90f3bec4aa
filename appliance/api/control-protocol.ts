// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { ApplianceError } from '../core/errors.ts';
import type { Progress } from './operations.ts';
import type { WireError } from './wire-error.ts';

/*
 * How commands speak to the service (docs/cli.md, "The service"): HTTP/1.1 over the unix socket `control.sock` of the
 * state directory.
 *
 *   GET    /v1/health               ServiceHealth
 *   POST   /v1/operations/<name>    parameters as JSON; the answer is a line of JSON per message
 *   DELETE /v1/operations/<id>      aborts a running operation; its own answer then ends with its outcome
 *   POST   /v1/stop                 asks the service to end, as SIGTERM does; 202
 *
 * An answer is `started`, then any number of `progress` and `notice`, then exactly one `result` or `error`. After the
 * result of `export` the answer stays open for as long as the export lives. A client that goes away aborts its operation.
 */

/** One line of an answer; exactly one member is present. */
export interface ControlMessage {
  readonly started?: { readonly id: string };
  readonly progress?: Progress;
  readonly notice?: string;
  readonly result?: unknown;
  readonly error?: WireError;
}

export interface ServiceHealth {
  readonly pid: number;
  readonly version: string;
  /** The state directory. */
  readonly state: string;
  readonly phase: 'serving' | 'stopping';
  readonly startedAt: string;
  /** Operations that run now, by name. */
  readonly running: readonly string[];
}

export const HEALTH_PATH = '/v1/health';
export const STOP_PATH = '/v1/stop';
export const OPERATIONS_PATH = '/v1/operations';
export const CONTENT_TYPE = 'application/x-ndjson';

/** Largest request that the service reads; parameters are short. */
export const MAX_REQUEST_BYTES: number = 64 * 1024;

/** Longest line that a client reads; the findings of `check` are the longest. */
export const MAX_LINE_BYTES: number = 256 * 1024 * 1024;

export function encodeMessage(message: ControlMessage): string {
  return `${JSON.stringify(message)}\n`;
}

/** Cuts a stream of bytes into lines of JSON; an unfinished line waits for its rest. */
export class MessageParser {
  private parts: Buffer[] = [];
  private heldBytes = 0;

  /** The messages that are complete now. @throws INTERNAL for what is no message, or longer than MAX_LINE_BYTES */
  push(bytes: Buffer): ControlMessage[] {
    const messages: ControlMessage[] = [];
    let from = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, from)) {
      this.hold(bytes.subarray(from, end));
      messages.push(parseMessage(Buffer.concat(this.parts).toString('utf8')));
      this.parts = [];
      this.heldBytes = 0;
      from = end + 1;
    }
    this.hold(bytes.subarray(from));
    return messages;
  }

  private hold(bytes: Buffer): void {
    this.heldBytes += bytes.length;
    if (this.heldBytes > MAX_LINE_BYTES) throw unreadable(`a line of more than ${MAX_LINE_BYTES} bytes`);
    if (bytes.length > 0) this.parts.push(bytes);
  }
}

/** The version of this program, from its package. */
export function programVersion(): string {
  const path = new URL('../../package.json', import.meta.url);
  const content: unknown = JSON.parse(readFileSync(path, 'utf8'));
  const hasVersion = typeof content === 'object' && content !== null && 'version' in content;
  return hasVersion && typeof content.version === 'string' ? content.version : 'unknown';
}

const MESSAGE_KINDS: readonly (keyof ControlMessage)[] = ['started', 'progress', 'notice', 'result', 'error'];

function parseMessage(line: string): ControlMessage {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw unreadable('a line that is not JSON', cause);
  }
  if (typeof value !== 'object' || value === null) throw unreadable('a line that is not an object');
  const kinds = MESSAGE_KINDS.filter((kind) => Object.hasOwn(value, kind));
  if (kinds.length !== 1) throw unreadable('a line that is not exactly one message');
  return value;
}

function unreadable(what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('INTERNAL', `the service sent ${what}`, { cause });
}
