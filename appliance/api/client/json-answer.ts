// SPDX-License-Identifier: Apache-2.0
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { ApplianceError } from '../../core/errors.ts';
import { decodeError } from '../wire-error.ts';
import { responseOf } from './endpoint.ts';

/** Longest answer that is read; the findings of `check` are the longest. */
export const MAX_ANSWER_BYTES: number = 256 * 1024 * 1024;

export interface JsonAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly value: unknown;
}

/** The answer to a request. @throws the error that it tells; INTERNAL for what is no answer; what broke the connection */
export async function jsonAnswer(outgoing: ClientRequest, limitBytes: number = MAX_ANSWER_BYTES): Promise<JsonAnswer> {
  return readAnswer(await responseOf(outgoing), limitBytes);
}

/** The same of a response that has begun. */
export async function readAnswer(
  response: IncomingMessage,
  limitBytes: number = MAX_ANSWER_BYTES,
): Promise<JsonAnswer> {
  const text = await textOf(response, limitBytes);
  const { statusCode: status = 0, headers } = response;
  const value = text === '' ? null : parsed(text, status);
  if (status >= 400) throw refusalOf(value, status);
  return { status, headers, value };
}

/** What an answer with an error status says. */
function refusalOf(value: unknown, status: number): ApplianceError {
  const isOurs = typeof value === 'object' && value !== null && 'code' in value && 'message' in value;
  if (isOurs) return decodeError(value);
  return new ApplianceError('INTERNAL', `the service answered with status ${status} and no error that can be read`);
}

async function textOf(response: IncomingMessage, limitBytes: number): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > limitBytes) throw new ApplianceError('INTERNAL', `the service sent more than ${limitBytes} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

function parsed(text: string, status: number): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ApplianceError('INTERNAL', `the service answered with status ${status} and something that is not JSON`, {
      cause,
    });
  }
}
