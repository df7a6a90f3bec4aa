// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';

/** What is wrong with what came, where more can be said than that it is no HTTP; by the codes of Node's parser. */
const STATUS: Readonly<Record<string, readonly [number, string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'the headers are too large'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, 'the extensions of the chunks are too large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'the request did not arrive in time'],
};

/** Answers what is not HTTP with a problem document as well, and ends the connection: nobody knows where the next request begins. */
export function refuseConnection(error: Error, socket: Socket): void {
  const code = systemErrorCode(error) ?? '';
  if (code === 'ECONNRESET' || !socket.writable || isAnswering(socket)) {
    socket.destroy();
    return;
  }
  const [status, message] = STATUS[code] ?? [400, 'this is not an HTTP request'];
  const requestId = randomUUID();
  const problem = problemOf(new ApplianceError('BAD_ARGUMENT', message), { requestId, isLocal: false });
  const body = JSON.stringify({ ...problem, status });
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: ${requestId}`,
    'cache-control: no-store',
    'connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
}

/** An answer in the middle of another one, of a stream of events above all, would be taken for a part of it. Node asks the same way. */
function isAnswering(socket: Socket): boolean {
  const { _httpMessage: response } = socket as Socket & { readonly _httpMessage?: ServerResponse | null };
  return response?.headersSent === true;
}
