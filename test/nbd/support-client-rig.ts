// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import type { NbdDevice } from '../../appliance/nbd/client/nbd-device.ts';
import type { NbdClientOptions } from '../../appliance/nbd/client/options.ts';
import type { TestContext } from '../support/test-scope.ts';
import {
  type BadConnection,
  type BadServer,
  type BadServerScript,
  bytesAt,
  type SeenRequest,
  startBadServer,
  u16,
  u32,
  u64,
} from './support-bad-server.ts';

/** How a scripted server answers a request. */
export type Answer = (connection: BadConnection, request: SeenRequest) => void;

/** Clients that stay with the first connection, by what they offer. */
export const STRUCTURED: NbdClientOptions = { replies: 'structured', reconnect: false, optionalMetaContexts: [] };
export const EXTENDED: NbdClientOptions = { ...STRUCTURED, replies: 'extended' };
export const SIMPLE: NbdClientOptions = { ...STRUCTURED, replies: 'simple' };

/** A client of a server that answers so. */
export async function openScripted(
  t: TestContext,
  answer: Answer,
  options: NbdClientOptions = STRUCTURED,
  script: BadServerScript = {},
): Promise<{ device: NbdDevice; server: BadServer }> {
  const server = await startBadServer(t, { onRequest: answer, ...script });
  return { device: t.use(await connectNbd(server.uri, options)), server };
}

export async function rejects(promise: Promise<unknown>, code: ErrorCode): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(hasCode(error, code), `expected ${code}, got ${String(error)}`);
    return true;
  });
}

export function data(offset: number, length: number): Buffer {
  return Buffer.concat([u64(offset), bytesAt(offset, length)]);
}

export function hole(offset: number, length: number): Buffer {
  return Buffer.concat([u64(offset), u32(length)]);
}

export function errorChunk(errno: number, message: string, offset?: number): Buffer {
  const text = Buffer.from(message);
  return Buffer.concat([u32(errno), u16(text.length), text, ...(offset === undefined ? [] : [u64(offset)])]);
}

export function status(id: number, ...extents: (readonly [number, number])[]): Buffer {
  return Buffer.concat([u32(id), ...extents.flat().map((value) => u32(value))]);
}

/** Lets the event loop turn, so that whatever could be sent has been sent. */
export async function turns(count: number = 20): Promise<void> {
  for (let index = 0; index < count; index++) await new Promise((resolve) => setImmediate(resolve));
}
