// SPDX-License-Identifier: Apache-2.0
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';

/** Where a server listens. */
export type Peer = { readonly path: string } | { readonly port: number; readonly tls: ConnectionOptions | undefined };

/** What came on one connection. */
export interface RawAnswer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Answers on the connection; 1 for one request that was read once. */
  readonly count: number;
  /** The connection ended before the answer was whole. */
  readonly isCut: boolean;
  /** The server went on sending, as streams of events do; the connection was ended here. */
  readonly isStream: boolean;
}

const STATUS_LINE = /(?:^|\r\n|[}\]\n])HTTP\/1\.[01] (\d{3}) /g;

/**
 * Sends exactly these bytes, whatever they are, and reads until the server closes the connection. Undefined when it closed it
 * without an answer; `isHung` when it did neither within the limit.
 */
export function sendRaw(peer: Peer, bytes: Buffer, limitMs = 10_000): Promise<RawAnswer | 'nothing' | 'hung'> {
  return new Promise((resolve) => {
    const socket = connectTo(peer);
    const parts: Buffer[] = [];
    let isSettled = false;
    const settle = (isHung: boolean): void => {
      if (isSettled) return;
      isSettled = true;
      clearTimeout(timer);
      socket.destroy();
      if (isHung) resolve('hung');
      else resolve(parseAnswer(Buffer.concat(parts).toString('latin1')) ?? 'nothing');
    };
    const timer = setTimeout(() => settle(true), limitMs);
    socket.on('data', (part: Buffer) => {
      parts.push(part);
      if (parts.length < 4 && isStream(Buffer.concat(parts).toString('latin1'))) settle(false);
    });
    // A server that refuses a request before it has read it all may reset the connection: what came before counts.
    socket.on('error', () => settle(false));
    socket.on('close', () => settle(false));
    socket.write(bytes);
  });
}

function connectTo(peer: Peer): Socket {
  if ('path' in peer) return connect(peer.path);
  const address = { host: '127.0.0.1', port: peer.port };
  return peer.tls === undefined ? connect(address) : connectTls({ ...address, ...peer.tls });
}

function isStream(text: string): boolean {
  const end = text.indexOf('\r\n\r\n');
  return end >= 0 && /^content-type: text\/event-stream/im.test(text.slice(0, end));
}

function parseAnswer(text: string): RawAnswer | undefined {
  const statuses = [...text.matchAll(STATUS_LINE)].filter(([, status]) => status !== '100');
  const [first] = statuses;
  if (first === undefined) return undefined;
  const begin = text.slice(first.index);
  const end = begin.indexOf('\r\n\r\n');
  const headers: Record<string, string> = {};
  for (const line of begin.slice(0, end).trim().split('\r\n').slice(1)) {
    const colon = line.indexOf(':');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  const rest = Buffer.from(begin.slice(end + 4), 'latin1');
  const body = headers['transfer-encoding'] === 'chunked' ? unchunked(rest) : rest;
  return {
    status: Number(first[1]),
    headers,
    body: body.toString('utf8'),
    count: statuses.length,
    isCut: Number(headers['content-length'] ?? 0) > body.length,
    isStream: isStream(begin),
  };
}

function unchunked(body: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < body.length; ) {
    const line = body.indexOf('\r\n', at);
    const length = Number.parseInt(body.toString('latin1', at, line), 16);
    if (line < 0 || !(length > 0)) break;
    parts.push(body.subarray(line + 2, line + 2 + length));
    at = line + 2 + length + 2;
  }
  return Buffer.concat(parts);
}
