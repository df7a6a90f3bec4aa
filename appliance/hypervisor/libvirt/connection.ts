// SPDX-License-Identifier: Apache-2.0
import { EventEmitter } from 'node:events';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { CallChannel, type CallOptions } from './call-channel.ts';
import { UNDEFINE } from './constants.ts';
import { Domain } from './domain.ts';
import { type ConnectionEvent, startEventLoop } from './event-loop.ts';
import type {
  ConnectionVersions,
  LibvirtEvents,
  OperationArgs,
  OperationName,
  OperationResult,
  StoragePool,
  StorageVolume,
} from './protocol.ts';
import { StuckOpens } from './stuck-opens.ts';

export interface ConnectionOptions extends CallOptions {
  /** Seconds between keepalive probes, and how many may stay unanswered before the connection counts as lost. */
  readonly keepAlive?: { readonly intervalSeconds: number; readonly count: number };
}

export interface ListedDomainObject {
  readonly domain: Domain;
  readonly isActive: boolean;
  readonly isPersistent: boolean;
}

const DEFAULT_OPEN_TIMEOUT_MS = 30_000;
const DEFAULT_KEEP_ALIVE = { intervalSeconds: 5, count: 3 } as const;

const stuckOpens = new StuckOpens();

let lastConnectionId = 0;

/**
 * A connection to a libvirt daemon: `qemu:///system`, `qemu:///session`, `qemu+unix:///…?socket=`, `qemu+ssh://`,
 * `qemu+tls://`. All calls are made by a thread of its own, one after the other in their order, and never block this one; open a second
 * connection for what must not wait. Every failed call throws an `ApplianceError` with `details` `{ libvirtCode, domain, level }`.
 * Once the daemon is gone, every call throws LIBVIRT_CONNECTION_LOST and `closed` is emitted: open a new connection.
 */
export class LibvirtConnection implements AsyncDisposable {
  readonly uri: string;
  readonly events: EventEmitter<LibvirtEvents> = new EventEmitter();
  readonly #channel: CallChannel;
  readonly #unsubscribe: () => void;
  #closing: Promise<void> | undefined;
  #isLost: boolean = false;

  private constructor(uri: string, channel: CallChannel, subscribe: (receive: Receive) => () => void) {
    this.uri = uri;
    this.#channel = channel;
    this.#unsubscribe = subscribe((event) => {
      this.#deliver(event);
    });
    this.events.setMaxListeners(0);
  }

  /** Throws LIBVIRT_UNAVAILABLE, LIBVIRT_CONNECT_FAILED, LIBVIRT_DENIED, TIMED_OUT (at once while earlier attempts hang), ABORTED. */
  static async open(uri: string, options: ConnectionOptions = {}): Promise<LibvirtConnection> {
    stuckOpens.check(uri);
    const loop = await startEventLoop();
    const connectionId = ++lastConnectionId;
    const channel = new CallChannel({
      uri: withoutPrompts(uri),
      connectionId,
      keepAlive: options.keepAlive ?? DEFAULT_KEEP_ALIVE,
      callbacks: loop.callbacks,
    });
    const connection = new LibvirtConnection(uri, channel, (receive) => loop.subscribe(connectionId, receive));
    try {
      await channel.opened({ timeoutMs: DEFAULT_OPEN_TIMEOUT_MS, ...options });
      return connection;
    } catch (error) {
      connection.#unsubscribe();
      channel.abandon();
      if (hasCode(error, 'TIMED_OUT', 'ABORTED')) stuckOpens.add(uri, channel.ended);
      throw error;
    }
  }

  get isOpen(): boolean {
    return this.#closing === undefined && !this.#isLost;
  }

  /** Idempotent. Waits for calls in flight, at most five seconds. */
  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async versions(options?: CallOptions): Promise<ConnectionVersions> {
    return await this.call('versions', {}, options);
  }

  /** The capabilities XML of the host. */
  async capabilities(options?: CallOptions): Promise<string> {
    return await this.call('capabilities', {}, options);
  }

  /** Asks libvirt whether the connection still stands; never throws for a lost one. */
  async isAlive(options?: CallOptions): Promise<boolean> {
    if (!this.isOpen) return false;
    return await this.call('isAlive', {}, options);
  }

  /** All domains, active and inactive, in the daemon's order. */
  async domains(options?: CallOptions): Promise<ListedDomainObject[]> {
    const listed = await this.call('listDomains', { flags: 0 }, options);
    return listed.map(({ isActive, isPersistent, ...identity }) => ({
      domain: new Domain(this, identity),
      isActive,
      isPersistent,
    }));
  }

  /** Throws DOMAIN_NOT_FOUND. */
  async domainByName(name: string, options?: CallOptions): Promise<Domain> {
    return new Domain(this, await this.call('lookup', { name }, options));
  }

  /** Throws DOMAIN_NOT_FOUND. */
  async domainByUuid(uuid: string, options?: CallOptions): Promise<Domain> {
    return new Domain(this, await this.call('lookup', { uuid }, options));
  }

  /** Defines a persistent domain, or redefines the one of the same UUID. Throws DOMAIN_EXISTS when the name is another's. */
  async define(xml: string, options?: CallOptions): Promise<Domain> {
    return new Domain(this, await this.call('define', { xml, flags: 0 }, options));
  }

  /** Starts a transient domain: nothing of its definition is left when it stops. */
  async createTransient(xml: string, start: { readonly isPaused?: boolean } = {}): Promise<Domain> {
    const flags = start.isPaused === true ? 1 : 0;
    return new Domain(this, await this.call('createTransient', { xml, flags }));
  }

  /** Names of libvirt's networks that are up. */
  async activeNetworks(options?: CallOptions): Promise<string[]> {
    return await this.call('activeNetworks', {}, options);
  }

  /** Path and XML of a volume that a disk names by pool and volume. Throws VOLUME_NOT_FOUND. */
  async storageVolume(pool: string, volume: string, options?: CallOptions): Promise<StorageVolume> {
    return await this.call('storageVolume', { pool, volume }, options);
  }

  /** Looks at what is in a pool now. Throws VOLUME_NOT_FOUND; DOMAIN_WRONG_STATE when it is not active. */
  async storagePool(pool: string, options?: CallOptions): Promise<StoragePool> {
    return await this.call('storagePool', { pool }, options);
  }

  /** Throws VOLUME_NOT_FOUND, TARGET_EXISTS, LIBVIRT_FAILED. */
  async createVolume(pool: string, xml: string, options?: CallOptions): Promise<StorageVolume> {
    return await this.call('createVolume', { pool, xml }, options);
  }

  /** Throws VOLUME_NOT_FOUND. */
  async deleteVolume(pool: string, volume: string, options?: CallOptions): Promise<void> {
    await this.call('deleteVolume', { pool, volume }, options);
  }

  /** Resolves with the first event of that name that `accept` takes. Throws TIMED_OUT, ABORTED, LIBVIRT_CONNECTION_LOST. */
  async waitForEvent<K extends keyof LibvirtEvents>(
    name: K,
    accept: (event: LibvirtEvents[K][0]) => boolean,
    options: CallOptions = {},
  ): Promise<LibvirtEvents[K][0]> {
    return await waitForEvent(this.events, { name, accept, options });
  }

  /** One operation of the call worker; the methods above and those of `Domain` are the readable way to it. */
  async call<K extends OperationName>(
    operation: K,
    args: OperationArgs<K>,
    options?: CallOptions,
  ): Promise<OperationResult<K>> {
    return await this.#channel.call(operation, args, options);
  }

  #deliver(message: ConnectionEvent): void {
    switch (message.name) {
      case 'closed':
        this.#lose(message.event.reason);
        return;
      case 'lifecycle':
        this.events.emit('lifecycle', message.event);
        return;
      case 'reboot':
        this.events.emit('reboot', message.event);
        return;
      case 'io-error':
        this.events.emit('io-error', message.event);
        return;
      case 'block-job':
        this.events.emit('block-job', message.event);
        return;
      case 'agent':
        this.events.emit('agent', message.event);
        return;
      case 'job-completed':
        this.events.emit('job-completed', message.event);
        return;
      case 'device-added':
        this.events.emit('device-added', message.event);
        return;
      case 'device-removed':
        this.events.emit('device-removed', message.event);
        return;
      case 'metadata-changed':
        this.events.emit('metadata-changed', message.event);
        return;
      case 'migration-iteration':
        this.events.emit('migration-iteration', message.event);
        return;
    }
  }

  #lose(reason: string): void {
    if (this.#isLost || this.#closing !== undefined) return;
    this.#isLost = true;
    this.#channel.fail(
      new ApplianceError('LIBVIRT_CONNECTION_LOST', `the connection to ${this.uri} ended: ${reason}`, {
        details: { reason },
      }),
    );
    this.events.emit('closed', { reason });
  }

  async #close(): Promise<void> {
    await this.#channel.close();
    this.#unsubscribe();
    if (!this.#isLost) this.events.emit('closed', { reason: 'client' });
  }
}

/** Everything that can be thrown away with a definition, without touching disks. */
export const UNDEFINE_WITH_METADATA: number = UNDEFINE.managedSave | UNDEFINE.checkpointsMetadata | UNDEFINE.nvram;

type Receive = (event: ConnectionEvent) => void;

/** ssh would ask on the terminal for a password or an unknown host key, and the call would hang there. */
function withoutPrompts(uri: string): string {
  if (!/^[a-z]+\+(ssh|libssh2?):/.test(uri) || /[?&]no_tty=/.test(uri)) return uri;
  return `${uri}${uri.includes('?') ? '&' : '?'}no_tty=1`;
}

async function waitForEvent<K extends keyof LibvirtEvents>(
  events: EventEmitter<LibvirtEvents>,
  wanted: {
    readonly name: K;
    readonly accept: (event: LibvirtEvents[K][0]) => boolean;
    readonly options: CallOptions;
  },
): Promise<LibvirtEvents[K][0]> {
  const { name, accept, options } = wanted;
  const { signal, timeoutMs = DEFAULT_OPEN_TIMEOUT_MS } = options;
  const found = Promise.withResolvers<LibvirtEvents[K][0]>();
  const emitter = events as EventEmitter;
  const onEvent = (event: LibvirtEvents[K][0]): void => {
    if (accept(event)) found.resolve(event);
  };
  const onClosed = ({ reason }: { readonly reason: string }): void => {
    if (name !== 'closed') {
      found.reject(new ApplianceError('LIBVIRT_CONNECTION_LOST', `waited for ${name}: ${reason}`));
    }
  };
  const onAbort = (): void => {
    found.reject(new ApplianceError('ABORTED', `waiting for ${name} was interrupted`, { cause: signal?.reason }));
  };
  const timer = setTimeout(() => {
    found.reject(new ApplianceError('TIMED_OUT', `no such ${name} event within ${timeoutMs} ms`));
  }, timeoutMs);
  emitter.on(name, onEvent);
  emitter.on('closed', onClosed);
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted === true) onAbort();
  try {
    return await found.promise;
  } finally {
    clearTimeout(timer);
    emitter.off(name, onEvent);
    emitter.off('closed', onClosed);
    signal?.removeEventListener('abort', onAbort);
  }
}
