// SPDX-License-Identifier: Apache-2.0
import { connect as connectSocket, type NetConnectOpts, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import { ApplianceError } from '../../core/errors.ts';
import type { NbdTarget } from '../uri.ts';

/** Who takes the bytes of a channel; called on the main thread, never again after `onEnd`. */
export interface ByteSink {
  /** Bytes `[start, end)` arrived; the buffer is only valid during the call. */
  onBytes(buffer: Buffer, start: number, end: number): void;
  /** Where the next bytes may be received without a copy; asked after each arrival. */
  directTarget(): Uint8Array | undefined;
  /** The first `length` bytes of the last direct target were filled. */
  onDirectBytes(length: number): void;
  /** The peer closed its side (no error), or the connection failed. */
  onEnd(error: Error | undefined): void;
  /** Everything that was sent has left for the kernel. */
  onDrain(): void;
}

/** Size of the receive buffer that a plain connection reuses. */
const RECEIVE_BUFFER_BYTES: number = 256 * 1024;
const KEEPALIVE_DELAY_MS = 30_000;
/** How long an orderly end waits for the peer's. */
const CLOSE_TIMEOUT_MS = 1_000;

/**
 * A byte stream to a server over a unix socket or TCP, with TLS on top of it once `startTls` was called.
 *
 * Plain channels receive into one reused buffer, or straight into the sink's direct target (`onread` of node:net);
 * channels that may become TLS receive Node's own chunks.
 */
export class Channel {
  #socket: Socket;
  readonly #receiveBuffer: Buffer | undefined;
  #sink: ByteSink | undefined;
  #hasEnded = false;
  #error: Error | undefined;

  /** Starts to connect; the sink hears of it by `onBytes` or `onEnd`. */
  constructor(target: NbdTarget, mayUseTls: boolean) {
    this.#receiveBuffer = mayUseTls ? undefined : Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES);
    const address: NetConnectOpts =
      target.kind === 'unix' ? { path: target.path } : { host: target.host, port: target.port };
    if (target.kind === 'tcp') {
      Object.assign(address, { noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_DELAY_MS });
    }
    if (this.#receiveBuffer !== undefined) {
      address.onread = { buffer: () => this.#nextBuffer(), callback: (length, buffer) => this.#onRead(length, buffer) };
    }
    this.#socket = connectSocket(address);
    this.#listen(this.#socket);
    if (mayUseTls) this.#socket.on('data', this.#onData);
  }

  /** Bytes that arrive from now on go to `sink`; an end that was already seen is told at once. */
  setSink(sink: ByteSink): void {
    this.#sink = sink;
    if (this.#hasEnded) sink.onEnd(this.#error);
  }

  /** False when the kernel takes no more for now; `onDrain` follows. */
  get isWritable(): boolean {
    return !this.#socket.writableNeedDrain;
  }

  /** Between the two, messages are gathered and leave in one system call. */
  cork(): void {
    this.#socket.cork();
  }

  uncork(): void {
    this.#socket.uncork();
  }

  /** Queues a message; it is not copied and must stay unchanged until it has been answered. */
  send(message: Uint8Array): void {
    if (!this.#hasEnded) this.#socket.write(message);
  }

  /**
   * Puts a verified TLS session on the stream. No byte may have arrived that was not consumed.
   *
   * @throws NBD_TLS_FAILED
   */
  startTls(options: ConnectionOptions): Promise<void> {
    const plain = this.#socket;
    plain.off('data', this.#onData);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const secure: TLSSocket = connectTls({ ...options, socket: plain });
    this.#socket = secure;
    const onFailure = (cause?: Error): void => reject(tlsError(cause ?? new Error('the server closed the connection')));
    secure.once('error', onFailure);
    secure.once('close', onFailure);
    secure.once('secureConnect', () => {
      secure.off('error', onFailure);
      secure.off('close', onFailure);
      this.#listen(secure);
      secure.on('data', this.#onData);
      resolve();
    });
    // The socket below reports its errors through the TLS socket.
    plain.removeAllListeners('end').removeAllListeners('close').removeAllListeners('drain');
    return promise;
  }

  /** Sends what is queued and the end of the stream, and waits for the peer's (bounded). */
  async end(): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, CLOSE_TIMEOUT_MS);
    socket.once('close', () => resolve());
    socket.end();
    await promise;
    clearTimeout(timer);
    this.destroy();
  }

  /** Closes at once; the sink hears nothing more. */
  destroy(): void {
    this.#hasEnded = true;
    this.#sink = undefined;
    this.#socket.destroy();
  }

  #listen(socket: Socket): void {
    socket.on('error', (error) => this.#onEnd(error));
    socket.on('end', () => this.#onEnd(undefined));
    socket.on('close', () => this.#onEnd(undefined));
    socket.on('drain', () => this.#sink?.onDrain());
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#sink?.onBytes(chunk, 0, chunk.length);
  };

  #onRead(length: number, buffer: Uint8Array): boolean {
    const receiveBuffer = this.#receiveBuffer;
    if (receiveBuffer !== undefined && buffer === receiveBuffer) this.#sink?.onBytes(receiveBuffer, 0, length);
    else this.#sink?.onDirectBytes(length);
    return true;
  }

  #nextBuffer(): Uint8Array {
    return this.#sink?.directTarget() ?? this.#receiveBuffer ?? Buffer.alloc(0);
  }

  #onEnd(error: Error | undefined): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#error = error;
    this.#sink?.onEnd(error);
  }
}

function tlsError(cause: Error): ApplianceError {
  return new ApplianceError('NBD_TLS_FAILED', `the TLS handshake with the NBD server failed: ${cause.message}`, {
    cause,
  });
}
