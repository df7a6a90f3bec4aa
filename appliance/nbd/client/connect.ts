// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { MAX_STRING_BYTES } from '../protocol.ts';
import { type NbdTarget, parseNbdUri } from '../uri.ts';
import { Connection, type ConnectionOwner } from './connection.ts';
import { establish } from './establish.ts';
import { NbdDevice } from './nbd-device.ts';
import { negotiate, type Wishes } from './negotiate.ts';
import {
  DEFAULT_CONNECT_TIMEOUT_MS,
  DEFAULT_CONNECTIONS,
  DEFAULT_MAXIMUM_IN_FLIGHT_BYTES,
  DEFAULT_MAXIMUM_REQUESTS,
  DEFAULT_OPTIONAL_CONTEXTS,
  DEFAULT_RECONNECT,
  DEFAULT_REQUEST_TIMEOUT_MS,
  type NbdClientOptions,
} from './options.ts';
import { ConnectionPool } from './pool.ts';
import { planTls, type TlsPlan } from './tls-options.ts';

/**
 * Opens an export of an NBD server as a block device.
 *
 * @throws NBD_BAD_URI, BAD_ARGUMENT; NBD_CONNECT_FAILED, TIMED_OUT, ABORTED; NBD_TLS_FAILED, NBD_TLS_REQUIRED;
 *   NBD_EXPORT_UNKNOWN, NBD_REFUSED, NBD_META_CONTEXT_MISSING, NOT_SUPPORTED; NBD_CONNECTION_LOST, NBD_PROTOCOL
 */
export async function connectNbd(target: string | NbdTarget, options: NbdClientOptions = {}): Promise<NbdDevice> {
  const { server, tls, wishes } = await prepare(target, options);
  const defaultTimeoutMs = options.connectTimeoutMs ?? DEFAULT_CONNECT_TIMEOUT_MS;
  const requestTimeoutMs = options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS;
  const pool = await ConnectionPool.open(
    {
      open: async (owner: ConnectionOwner, signal: AbortSignal | undefined, timeoutMs = defaultTimeoutMs) => {
        const limitMs = Math.min(timeoutMs, defaultTimeoutMs);
        const begin = (send: (message: Buffer) => void): ReturnType<typeof negotiate> => negotiate(send, wishes);
        const { channel, result } = await establish(server, begin, { tls, timeoutMs: limitMs, signal });
        return new Connection(channel, result, owner, requestTimeoutMs);
      },
      maximumConnections: options.connections ?? DEFAULT_CONNECTIONS,
      maximumRequests: options.maximumRequests ?? DEFAULT_MAXIMUM_REQUESTS,
      maximumInFlightBytes: options.maximumInFlightBytes ?? DEFAULT_MAXIMUM_IN_FLIGHT_BYTES,
      reconnect: options.reconnect === false ? undefined : { ...DEFAULT_RECONNECT, ...options.reconnect },
    },
    options.signal,
  );
  return new NbdDevice(pool, options.strict ?? true);
}

/** What a target and options come down to; shared by everything that connects. */
export async function prepare(
  target: string | NbdTarget,
  options: NbdClientOptions,
): Promise<{ server: NbdTarget; tls: TlsPlan; wishes: Wishes }> {
  const server = typeof target === 'string' ? parseNbdUri(target) : target;
  const requiredContexts = options.metaContexts ?? [];
  const optionalContexts = options.optionalMetaContexts ?? DEFAULT_OPTIONAL_CONTEXTS;
  for (const text of [server.exportName, ...requiredContexts, ...optionalContexts]) checkString(text);
  const tls = await planTls(server, options.tls);
  const wishes: Wishes = {
    exportName: server.exportName,
    startTls: tls.startTls,
    replies: options.replies ?? 'extended',
    requiredContexts,
    optionalContexts,
  };
  return { server, tls, wishes };
}

/** What the protocol allows as a string on the wire. */
function checkString(text: string): void {
  if (text.includes('\0')) throw new ApplianceError('BAD_ARGUMENT', 'a name for the NBD server contains a NUL');
  if (Buffer.byteLength(text) <= MAX_STRING_BYTES) return;
  throw new ApplianceError('BAD_ARGUMENT', `a name for the NBD server is longer than ${MAX_STRING_BYTES} bytes`);
}
