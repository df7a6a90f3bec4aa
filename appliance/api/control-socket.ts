// SPDX-License-Identifier: Apache-2.0
import { closeSync, lstatSync, openSync, unlinkSync } from 'node:fs';
import { type Server as HttpServer } from 'node:http';
import { connect } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { ApplianceError, systemErrorCode, toError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';

/** The service's socket in a state directory. */
export const CONTROL_SOCKET = 'control.sock';

/** `sun_path` of sockaddr_un(7) holds 108 bytes with the NUL. */
const MAX_ADDRESS_BYTES = 107;

/** How long a local connect may take before the listener counts as hung, yet alive. */
const CONNECT_LIMIT_MS = 2_000;

/**
 * A path as the address of a unix socket. Where the path is too long for `sockaddr_un`, its directory is held open and
 * the address leads through `/proc/self/fd`: the socket file is in the same place either way. Dispose it when the
 * address is not needed any more; a listening socket's only after it was closed.
 */
export class SocketAddress implements Disposable {
  readonly address: string;
  private fd: number | undefined;

  private constructor(address: string, fd: number | undefined) {
    this.address = address;
    this.fd = fd;
  }

  /** @throws IO_FAILED when the directory of a long path cannot be opened */
  static of(path: string): SocketAddress {
    if (Buffer.byteLength(path) <= MAX_ADDRESS_BYTES) return new SocketAddress(path, undefined);
    try {
      const fd = openSync(dirname(path), 'r');
      return new SocketAddress(`/proc/self/fd/${fd}/${basename(path)}`, fd);
    } catch (error) {
      throw storageError(error, 'open', dirname(path));
    }
  }

  [Symbol.dispose](): void {
    if (this.fd !== undefined) closeSync(this.fd);
    this.fd = undefined;
  }
}

export function controlSocketPath(stateDirectory: string): string {
  return join(stateDirectory, CONTROL_SOCKET);
}

/** Whether a process accepts connections at the path. @throws IO_FAILED when that cannot be found out */
export async function isListening(path: string): Promise<boolean> {
  const failure = await tryConnect(path);
  const code = failure === undefined ? undefined : systemErrorCode(failure);
  // EAGAIN: its queue of connections is full.
  if (failure === undefined || code === 'EAGAIN') return true;
  if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ECONNREFUSED') return false;
  throw storageError(failure, 'connect to', path);
}

/**
 * Makes the server listen at the path, readable and writable for its owner only from the first moment on. A socket that
 * nobody listens on is removed first; anything else there is left alone.
 *
 * @throws LOCKED when another process listens there; IO_FAILED, NO_SPACE
 */
export async function listenAt(server: HttpServer, path: string): Promise<SocketAddress> {
  const address = SocketAddress.of(path);
  try {
    await listen(server, address.address).catch(async (error: unknown) => {
      if (systemErrorCode(error) !== 'EADDRINUSE') throw error;
      // connect(2) answers ECONNREFUSED for a file of any other kind, too.
      if (!lstatSync(path).isSocket()) throw new ApplianceError('IO_FAILED', `${path} is there and is not a socket`);
      if (await isListening(path)) throw new ApplianceError('LOCKED', `another process serves at ${path}`);
      unlinkSync(path);
      await listen(server, address.address);
    });
    return address;
  } catch (error) {
    address[Symbol.dispose]();
    throw error instanceof ApplianceError ? error : storageError(error, 'listen at', path);
  }
}

function listen(server: HttpServer, address: string): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const onError = (error: Error): void => reject(error);
    server.once('error', onError);
    // bind(2) happens within listen(), so that the mask holds for exactly this file.
    const mask = process.umask(0o177);
    try {
      server.listen({ path: address }, () => {
        server.off('error', onError);
        resolve();
      });
    } finally {
      process.umask(mask);
    }
  });
}

function tryConnect(path: string): Promise<Error | undefined> {
  let address: SocketAddress;
  try {
    address = SocketAddress.of(path);
  } catch (error) {
    // The directory of a long path is not there, or may not be entered.
    return Promise.resolve(toError(toError(error).cause ?? error));
  }
  return new Promise((resolve) => {
    const socket = connect({ path: address.address });
    const settle = (failure: Error | undefined): void => {
      clearTimeout(limit);
      socket.destroy();
      address[Symbol.dispose]();
      resolve(failure);
    };
    const limit = setTimeout(() => settle(undefined), CONNECT_LIMIT_MS);
    socket.once('connect', () => settle(undefined));
    socket.once('error', settle);
  });
}
