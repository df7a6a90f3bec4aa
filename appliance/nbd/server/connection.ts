// SPDX-License-Identifier: Apache-2.0
import type { Socket } from 'node:net';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError, toError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import type { ByteBudget } from './byte-budget.ts';
import { ByteQueue } from './byte-queue.ts';
import { greeting, Haggling, type HagglingHost } from './haggling.ts';
import type { ServerLimits } from './limits.ts';
import type { ExportUser, NbdExport } from './nbd-export.ts';
import { type ServerTls, secure } from './server-tls.ts';
import type { SlabPool } from './slab-pool.ts';
import { Transmission, type TransmissionHost } from './transmission.ts';

/** What a connection needs from its server. */
export interface ConnectionHost {
  readonly limits: ServerLimits;
  readonly tls: ServerTls | undefined;
  readonly budget: ByteBudget;
  readonly pool: SlabPool;
  readonly clock: Clock;
  readonly isShuttingDown: () => boolean;
  findExport(name: string): NbdExport | undefined;
  listedExports(): Iterable<NbdExport>;
  onEvent(connection: Connection, event: ConnectionEvent): void;
}

/** What happens to a connection, for logs. `reason` is set when it did not end in an orderly way. */
export type ConnectionEvent =
  | { readonly kind: 'opened' }
  | { readonly kind: 'secured' }
  | { readonly kind: 'negotiated'; readonly exportName: string }
  | { readonly kind: 'closed'; readonly reason?: Error };

type Phase = 'haggling' | 'securing' | 'transmission' | 'closing' | 'closed';

/** So much unprocessed input may wait before the socket is paused. */
const MAX_QUEUED_BYTES = 128 * 1024;

/** So long a peer may take to accept the last bytes and the end of a connection that is over. */
const LINGER_MS = 2_000;

/** One client: socket, handshake, transmission, and their ends. */
export class Connection implements HagglingHost, TransmissionHost, ExportUser {
  readonly id: number;
  readonly #host: ConnectionHost;
  readonly #raw: Socket;
  readonly #input: ByteQueue = new ByteQueue();
  readonly #haggling: Haggling;
  readonly #closed: PromiseWithResolvers<void> = Promise.withResolvers();
  #stream: Socket;
  #transmission: Transmission | undefined;
  #phase: Phase = 'haggling';
  #isInputEnded = false;
  #isPumping = false;
  #timer: NodeJS.Timeout | undefined;
  #progressMs: number;
  #reason: Error | undefined;

  constructor(id: number, host: ConnectionHost, socket: Socket) {
    this.id = id;
    this.#host = host;
    this.#raw = socket;
    this.#stream = socket;
    this.#haggling = new Haggling(this);
    this.#progressMs = host.clock.elapsedMs();
    this.#timer = setTimeout(() => this.#fail('TIMED_OUT', 'the handshake took too long'), host.limits.handshakeMs);
    socket.on('close', () => this.#onClose());
    this.#listen(socket);
    host.onEvent(this, { kind: 'opened' });
    socket.write(greeting());
  }

  /** Settles when the socket is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  get isHaggling(): boolean {
    return this.#phase === 'haggling' || this.#phase === 'securing';
  }

  /** For how long the peer has kept memory waiting for it; 0 when it is not its turn. */
  stalledMs(): number {
    if (this.#transmission?.isWaitingForPeer !== true) return 0;
    return this.#host.clock.elapsedMs() - this.#progressMs;
  }

  // What the haggling asks for.

  get limits(): ServerLimits {
    return this.#host.limits;
  }

  get isTlsRequired(): boolean {
    return this.#host.tls !== undefined;
  }

  get isShuttingDown(): boolean {
    return this.#host.isShuttingDown();
  }

  findExport(name: string): NbdExport | undefined {
    return this.#host.findExport(name);
  }

  listedExports(): Iterable<NbdExport> {
    return this.#host.listedExports();
  }

  send(bytes: Buffer): void {
    this.#stream.write(bytes);
  }

  // What the transmission asks for.

  get budget(): ByteBudget {
    return this.#host.budget;
  }

  get clock(): Clock {
    return this.#host.clock;
  }

  get pool(): SlabPool {
    return this.#host.pool;
  }

  onTransmissionDone(): void {
    this.#end();
  }

  onViolation(message: string): void {
    this.#fail('NBD_PROTOCOL', message);
  }

  onInputWanted(): void {
    this.#progressMs = this.#host.clock.elapsedMs();
    this.#pump();
  }

  // What its export and its server ask for.

  async drain(): Promise<void> {
    if (this.#transmission === undefined) this.#end();
    else this.#transmission.drain();
    await this.closed;
  }

  async terminate(reason?: Error): Promise<void> {
    if (this.#phase !== 'closed') {
      this.#reason ??= reason;
      this.#stream.destroy();
      this.#raw.destroy();
    }
    await this.closed;
  }

  #listen(stream: Socket): void {
    stream.on('data', (chunk: Buffer) => this.#onData(chunk));
    stream.on('end', () => this.#onEnd());
    stream.on('error', (error) => {
      // A peer that goes away without waiting for the last reply has done nothing wrong.
      if (this.#phase !== 'closing') this.#reason ??= error;
    });
    // While haggling, replies are not taken from the peer faster than it reads them.
    stream.on('drain', () => this.#pump());
  }

  #onData(chunk: Buffer): void {
    // Plain text behind STARTTLS came from who knows whom, and what follows the end is of no interest.
    if (this.#phase === 'securing' || this.#phase === 'closing' || this.#phase === 'closed') return;
    this.#progressMs = this.#host.clock.elapsedMs();
    this.#input.push(chunk);
    this.#pump();
  }

  #onEnd(): void {
    this.#isInputEnded = true;
    this.#pump();
  }

  /** Processes what has arrived, as far as the limits allow; pauses the socket when too much is left over. */
  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    if (this.#phase === 'haggling') this.#haggle();
    if (this.#phase === 'transmission') this.#transmission?.take(this.#input);
    this.#isPumping = false;
    if (this.#isInputEnded) this.#endInput();
    if (this.#input.length >= MAX_QUEUED_BYTES) this.#stream.pause();
    else if (this.#stream.isPaused()) this.#stream.resume();
  }

  #haggle(): void {
    const stream = this.#stream;
    stream.cork();
    while (this.#phase === 'haggling' && !stream.writableNeedDrain) {
      const step = this.#haggling.step(this.#input);
      if (step.kind === 'starved') break;
      if (step.kind === 'secure') this.#startTls();
      else if (step.kind === 'transmit') this.#startTransmission(step.session);
      else if (step.kind === 'close') {
        if (step.violation === undefined) this.#end();
        else this.#fail('NBD_PROTOCOL', step.violation);
      }
    }
    stream.uncork();
  }

  #startTransmission(session: ConstructorParameters<typeof Transmission>[1]): void {
    clearTimeout(this.#timer);
    this.#phase = 'transmission';
    this.#transmission = new Transmission(this, session, this.#stream);
    session.export.users.add(this);
    this.#host.onEvent(this, { kind: 'negotiated', exportName: session.export.name });
  }

  /** Replaces the stream by a secured one, once the ACK is out; nothing that came before that is looked at. */
  #startTls(): void {
    const { tls } = this.#host;
    invariant(tls !== undefined, 'STARTTLS is accepted only where TLS is configured');
    this.#phase = 'securing';
    this.#input.clear();
    // An empty write is called back after all writes before it.
    this.#raw.write(Buffer.alloc(0), (error) => {
      if (error !== undefined && error !== null) return;
      for (const event of ['data', 'end', 'drain']) this.#raw.removeAllListeners(event);
      this.#raw.pause();
      secure(this.#raw, tls).then(
        (stream) => this.#onSecured(stream),
        (failure: unknown) => {
          void this.terminate(toError(failure));
        },
      );
    });
  }

  #onSecured(stream: Socket): void {
    if (this.#phase !== 'securing') {
      stream.destroy();
      return;
    }
    this.#stream = stream;
    this.#phase = 'haggling';
    this.#haggling.restartSecured();
    stream.on('close', () => this.#onClose());
    this.#listen(stream);
    this.#host.onEvent(this, { kind: 'secured' });
  }

  /** The peer closed its side: what it asked for before is still answered. */
  #endInput(): void {
    if (this.#phase === 'transmission' && this.#transmission?.isBlocked !== true) this.#transmission?.endInput();
    else if (this.#phase === 'haggling' && !this.#stream.writableNeedDrain) this.#end();
  }

  /** Orderly end: everything written so far still goes out. */
  #end(): void {
    if (this.#phase === 'closing' || this.#phase === 'closed') return;
    this.#phase = 'closing';
    this.#input.clear();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#stream.destroy(), LINGER_MS);
    // The peer's last bytes must be read, or the kernel turns the close into a reset that eats our last reply.
    this.#stream.resume();
    this.#stream.end();
    if (this.#isInputEnded) this.#stream.destroySoon();
    else this.#stream.once('end', () => this.#stream.destroySoon());
  }

  #fail(code: 'NBD_PROTOCOL' | 'TIMED_OUT', message: string): void {
    this.#reason ??= new ApplianceError(code, message);
    this.#phase = this.#phase === 'closed' ? 'closed' : 'closing';
    this.#input.clear();
    this.#stream.destroy();
    this.#raw.destroy();
  }

  #onClose(): void {
    if (this.#phase === 'closed') return;
    this.#phase = 'closed';
    clearTimeout(this.#timer);
    this.#input.clear();
    const transmission = this.#transmission;
    transmission?.close();
    transmission?.session.export.users.delete(this);
    const reason = this.#reason;
    this.#host.onEvent(this, reason === undefined ? { kind: 'closed' } : { kind: 'closed', reason });
    this.#closed.resolve();
  }
}
