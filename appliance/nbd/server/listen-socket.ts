// SPDX-License-Identifier: Apache-2.0
import { chmod, lstat, unlink } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { isMainThread } from 'node:worker_threads';
import { ApplianceError, systemErrorCode } from '../../core/errors.ts';

/** Where a server listens. */
export type ListenAddress =
  | { readonly kind: 'unix'; readonly path: string; readonly mode?: number }
  /** Port 0 takes any free one. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

export interface ListenEvents {
  readonly onSocket: (socket: Socket) => void;
  /** A connection could not be accepted. */
  readonly onRefused: (reason: Error) => void;
}

/** Longest path of a unix socket on Linux, without its terminating zero. (unix(7)) */
const MAX_UNIX_PATH_BYTES = 107;
const OWNER_ONLY = 0o600;
const KEEPALIVE_DELAY_MS = 60_000;

/** Whether somebody listens on an existing socket file is known at the latest after so long. */
const PROBE_MS = 2_000;

/**
 * Listens; sockets that were accepted are half-open-capable, without Nagle and with keepalive. A unix socket is created
 * with its mode (0600); a file of a dead listener is replaced, one of a living listener and anything that is not a socket
 * is not. Errors: LOCKED, NBD_LISTEN_FAILED, BAD_ARGUMENT.
 */
export async function listenSocket(address: ListenAddress, events: ListenEvents): Promise<Server> {
  const server = createServer(
    { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_DELAY_MS },
    events.onSocket,
  );
  server.on('drop', () => events.onRefused(new ApplianceError('LOCKED', 'the limit of connections is reached')));
  try {
    if (address.kind === 'tcp') await listening(server, () => server.listen(address.port, address.host));
    else await listenUnix(server, address.path, address.mode ?? OWNER_ONLY);
    // From here on an error is one of accept(), such as a lack of file descriptors; the server goes on listening.
    server.on('error', events.onRefused);
  } catch (error) {
    if (error instanceof ApplianceError) throw error;
    const isTaken = systemErrorCode(error) === 'EADDRINUSE';
    throw new ApplianceError(isTaken ? 'LOCKED' : 'NBD_LISTEN_FAILED', `cannot listen on ${printable(address)}`, {
      cause: error,
    });
  }
  return server;
}

/** The address as it is now: with the port that was really taken. */
export function boundAddress(address: ListenAddress, server: Server): ListenAddress {
  if (address.kind === 'unix') return address;
  const bound = server.address() as AddressInfo | null;
  return { ...address, port: bound?.port ?? address.port };
}

/** For messages. */
export function printable(address: ListenAddress): string {
  return address.kind === 'unix' ? address.path : `${address.host}:${address.port}`;
}

async function listenUnix(server: Server, path: string, mode: number): Promise<void> {
  if (Buffer.byteLength(path) > MAX_UNIX_PATH_BYTES) {
    throw new ApplianceError('BAD_ARGUMENT', `the path of a unix socket is at most 107 bytes long: ${path}`);
  }
  await removeStaleSocket(path);
  await listening(server, () => {
    // listen() creates the file before it returns, so that nobody ever sees it with a wider mode. Worker threads have
    // no umask of their own; there the mode follows a moment later.
    const previous = isMainThread ? process.umask(0o777 & ~mode) : undefined;
    try {
      server.listen(path);
    } finally {
      if (previous !== undefined) process.umask(previous);
    }
  });
  await chmod(path, mode);
}

async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (!found.isSocket()) throw new ApplianceError('NBD_LISTEN_FAILED', `${path} exists and is not a socket`);
  if (await isSomebodyListening(path)) throw new ApplianceError('LOCKED', `another process listens on ${path}`);
  await unlink(path);
}

function isSomebodyListening(path: string): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const probe = connect(path);
  // A listener whose queue is full is alive.
  probe.setTimeout(PROBE_MS, () => {
    probe.destroy();
    resolve(true);
  });
  probe.on('connect', () => {
    probe.destroy();
    resolve(true);
  });
  probe.on('error', (error) => {
    const code = systemErrorCode(error);
    if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false);
    else if (code === 'EAGAIN') resolve(true);
    else reject(error);
  });
  return promise;
}

function listening(server: Server, start: () => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.once('listening', () => {
    server.off('error', reject);
    resolve();
  });
  start();
  return promise;
}
