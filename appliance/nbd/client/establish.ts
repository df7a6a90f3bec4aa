// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, systemErrorCode, toError } from '../../core/errors.ts';
import { OPT } from '../protocol.ts';
import { formatNbdUri, type NbdTarget } from '../uri.ts';
import { type ByteSink, Channel } from './channel.ts';
import { canAbortPolitely, type Handshake, type Send } from './handshake.ts';
import { encodeOption, protocolError } from './option-codec.ts';
import type { TlsPlan } from './tls-options.ts';

/** How one connection is to be made. */
export interface EstablishOptions {
  readonly tls: TlsPlan;
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * Connects and runs a handshake over the new channel, which belongs to the caller afterwards. On failure nothing is left
 * open when the promise settles; where the server is still in step it is told ABORT first.
 *
 * @throws NBD_CONNECT_FAILED, NBD_CONNECTION_LOST, TIMED_OUT, ABORTED, NBD_TLS_FAILED, and what the handshake throws
 */
export async function establish<Result>(
  target: NbdTarget,
  begin: (send: Send) => Handshake<Result>,
  options: EstablishOptions,
): Promise<{ channel: Channel; result: Result }> {
  const { signal } = options;
  if (signal?.aborted === true) throw abortedError(target, signal);
  const channel = new Channel(target, options.tls.startTls !== 'never');
  const driver = new HandshakeDriver<Result>(target, channel, options.tls);
  const finished = driver.run(begin);
  const timer = setTimeout(() => driver.fail(timeoutError(target, options.timeoutMs)), options.timeoutMs);
  const onAbort = (): void => driver.fail(abortedError(target, signal));
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return { channel, result: await finished };
  } catch (error) {
    if (canAbortPolitely(error)) {
      channel.send(encodeOption(OPT.ABORT));
      await channel.end();
    }
    channel.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** Feeds a handshake generator with the bytes that it asks for. */
class HandshakeDriver<Result> implements ByteSink {
  readonly #target: NbdTarget;
  readonly #channel: Channel;
  readonly #tls: TlsPlan;
  readonly #outcome: PromiseWithResolvers<Result> = Promise.withResolvers<Result>();
  #handshake: Handshake<Result> | undefined;
  /** Bytes that the generator waits for, and those of them that are here. */
  #wanted: Buffer = Buffer.alloc(0);
  #wantedBytes = 0;
  #finished: { readonly result: Result } | undefined;
  #hasReceived = false;
  #isTls = false;
  #hasTlsBytes = false;
  #isTlsStarting = false;

  constructor(target: NbdTarget, channel: Channel, tls: TlsPlan) {
    this.#target = target;
    this.#channel = channel;
    this.#tls = tls;
  }

  run(begin: (send: Send) => Handshake<Result>): Promise<Result> {
    this.#handshake = begin((message) => this.#channel.send(message));
    this.#step(Buffer.alloc(0));
    this.#channel.setSink(this);
    return this.#outcome.promise;
  }

  /** Ends the handshake from outside. */
  fail(error: ApplianceError): void {
    this.#handshake = undefined;
    this.#outcome.reject(error);
  }

  onBytes(buffer: Buffer, start: number, end: number): void {
    this.#hasReceived = true;
    this.#hasTlsBytes = this.#isTls;
    let position = start;
    while (position < end && this.#handshake !== undefined) {
      if (this.#isTlsStarting) return this.fail(protocolError('plain bytes follow its agreement to TLS'));
      const length = Math.min(this.#wanted.length - this.#wantedBytes, end - position);
      buffer.copy(this.#wanted, this.#wantedBytes, position, position + length);
      position += length;
      this.#wantedBytes += length;
      if (this.#wantedBytes === this.#wanted.length) this.#step(this.#wanted);
    }
    if (this.#isTlsStarting) this.#startTls();
    if (this.#finished === undefined) return;
    // A server speaks only when it is asked: what follows the last reply is no answer to anything.
    if (position < end) this.#outcome.reject(protocolError('it went on after the end of the handshake'));
    else this.#outcome.resolve(this.#finished.result);
  }

  directTarget(): undefined {
    return undefined;
  }

  onDirectBytes(): void {
    this.fail(protocolError('payload in the handshake'));
  }

  onDrain(): void {
    // The handshake sends little and waits for each answer.
  }

  onEnd(error: Error | undefined): void {
    const lost = this.#lostError(error);
    const handshake = this.#handshake;
    if (handshake === undefined) return this.#outcome.reject(lost);
    this.#handshake = undefined;
    try {
      // The generator knows what the end means at this point; it ends by throwing.
      handshake.throw(lost);
      this.#outcome.reject(lost);
    } catch (thrown) {
      this.#outcome.reject(toError(thrown));
    }
  }

  #step(bytes: Buffer): void {
    try {
      const next = this.#handshake?.next(bytes);
      if (next === undefined) return;
      if (next.done === true) {
        this.#handshake = undefined;
        this.#finished = { result: next.value };
      } else if (next.value === 'tls') this.#isTlsStarting = true;
      else {
        this.#wanted = Buffer.allocUnsafe(next.value);
        this.#wantedBytes = 0;
      }
    } catch (error) {
      this.#handshake = undefined;
      this.#outcome.reject(toError(error));
    }
  }

  #startTls(): void {
    this.#isTlsStarting = false;
    this.#channel.startTls(this.#tls.options).then(
      () => {
        this.#isTls = true;
        this.#step(Buffer.alloc(0));
      },
      (error: unknown) => {
        this.#handshake = undefined;
        this.#outcome.reject(toError(error));
      },
    );
  }

  #lostError(cause: Error | undefined): ApplianceError {
    const where = formatNbdUri(this.#target);
    const reason = cause === undefined ? 'the server closed the connection' : cause.message;
    // With TLS 1.3 a server judges the client's certificate after the client's side of the handshake is done.
    const isRefusal = this.#isTls && (!this.#hasTlsBytes || systemErrorCode(cause)?.startsWith('ERR_SSL') === true);
    if (isRefusal) {
      return new ApplianceError('NBD_TLS_FAILED', `${where}: the server ended the TLS session: ${reason}`, { cause });
    }
    if (this.#hasReceived) {
      return new ApplianceError('NBD_CONNECTION_LOST', `${where}: the handshake was cut short: ${reason}`, { cause });
    }
    return new ApplianceError('NBD_CONNECT_FAILED', `${where}: ${reason}`, { cause });
  }
}

function timeoutError(target: NbdTarget, timeoutMs: number): ApplianceError {
  const message = `${formatNbdUri(target)}: the NBD server did not complete the handshake within ${timeoutMs} ms`;
  return new ApplianceError('TIMED_OUT', message);
}

function abortedError(target: NbdTarget, signal: AbortSignal | undefined): ApplianceError {
  return new ApplianceError('ABORTED', `connecting to ${formatNbdUri(target)} was interrupted`, {
    cause: signal?.reason,
  });
}
