// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import type { BlockJobEvent, DomainIdentity, LibvirtEvents, LifecycleEvent } from '../hypervisor/libvirt/protocol.ts';
import {
  factOfLifecycle,
  factsBetween,
  type MachineFact,
  type MachineView,
  NO_MACHINE,
  powerAfter,
  readView,
  watchedTargets,
} from './machine-facts.ts';

export interface MachineWatchOptions {
  /** The connection of the moment, opened anew when the last one was lost; not closed here. */
  readonly connect: () => Promise<LibvirtConnection>;
  readonly uuid: string;
  /** For what libvirt has no event: snapshots and changes of size. */
  readonly pollMs?: number;
}

/** What a machine is now. */
export interface MachineFacts {
  /** A paused machine runs, too. */
  readonly power: 'running' | 'off';
  /** Why it is off. */
  readonly reason: string;
  /** Those that can be protected. */
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly identity: Readonly<Record<string, string>>;
  }[];
}

const DEFAULT_POLL_MS = 5_000;
const RECONNECT_MS = { first: 250, last: 5_000 } as const;
/** The end of a job comes as several events, and an interval makes one each time. One look is for all of them. */
const SETTLE_MS = 50;
/** A look that events overtake is taken again, so often. */
const LOOK_ATTEMPTS = 5;
/** Events after which the machine's definition may be another one. */
const LOOK_EVENTS = ['device-added', 'device-removed', 'metadata-changed', 'job-completed', 'io-error'] as const;

/**
 * Everything that happens to one machine, as facts: from libvirt's events at once, and by comparing looks for what has no
 * event and for what happened while the connection was lost. A fact is told once, whichever way it came. The first look
 * only says what there is.
 */
export class MachineWatch implements AsyncDisposable {
  readonly uuid: string;
  readonly #options: MachineWatchOptions;
  readonly #listeners = new Set<(fact: MachineFact) => void>();
  #view: MachineView | undefined;
  #connection: LibvirtConnection | undefined;
  #unbind: () => void = () => undefined;
  #isLost = false;
  #eventCount = 0;
  #running: Promise<unknown> = Promise.resolve();
  #pending: Promise<MachineView> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #settling: NodeJS.Timeout | undefined;
  #retryMs: number = RECONNECT_MS.first;
  #isClosed = false;

  private constructor(options: MachineWatchOptions) {
    this.#options = options;
    this.uuid = options.uuid;
  }

  /** A libvirt that cannot be reached is tried again and again; nothing is thrown. */
  static async open(options: MachineWatchOptions): Promise<MachineWatch> {
    const watch = new MachineWatch(options);
    await watch.#lookQuietly();
    return watch;
  }

  /** Whether libvirt could be asked at the last attempt. */
  get isConnected(): boolean {
    return !this.#isLost && this.#view !== undefined;
  }

  /** @throws ApplianceError DOMAIN_NOT_FOUND, those of `connect` */
  async domain(): Promise<Domain> {
    return await (await this.#connect()).domainByUuid(this.uuid);
  }

  async connection(): Promise<LibvirtConnection> {
    return await this.#connect();
  }

  /** Looks now. @throws ApplianceError those of `connect`, and of libvirt, when it cannot be asked */
  async facts(): Promise<MachineFacts> {
    const { power, reason, disks } = await this.look();
    const isOff = power === 'off' || power === 'stopping';
    return {
      power: isOff ? 'off' : 'running',
      reason: power === 'stopping' ? 'the machine is shutting down' : reason,
      disks: disks.flatMap(({ name, sizeBytes, identity }) =>
        sizeBytes === null ? [] : [{ name, sizeBytes, identity }],
      ),
    };
  }

  /** A look that begins after the call. Facts of it are told before it settles. */
  async look(): Promise<MachineView> {
    if (this.#isClosed) throw new ApplianceError('CLOSED', 'the machine is not watched any more');
    this.#pending ??= this.#running.then(() => {
      this.#pending = undefined;
      const looking = this.#look();
      this.#running = looking.catch(() => undefined);
      return looking;
    });
    return await this.#pending;
  }

  onFact(listener: (fact: MachineFact) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Only that something happened, in a word. */
  onChange(listener: (what: string) => void): Disposable {
    return this.onFact(({ kind }) => {
      listener(kind);
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#settling);
    this.#unbind();
    this.#listeners.clear();
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #look(): Promise<MachineView> {
    try {
      const view = await this.#read();
      const before = this.#view;
      this.#view = view;
      this.#retryMs = RECONNECT_MS.first;
      const wasLost = this.#isLost;
      this.#isLost = false;
      if (before !== undefined) for (const fact of factsBetween(before, view)) this.#tell(fact);
      if (wasLost) this.#tell({ kind: 'connection-back' });
      this.#schedule(this.#options.pollMs ?? DEFAULT_POLL_MS);
      return view;
    } catch (error) {
      this.#lose(toError(error).message);
      throw error;
    }
  }

  async #lookQuietly(): Promise<void> {
    if (this.#isClosed) return;
    // What failed was told as a fact, and is tried again.
    await this.look().catch(() => undefined);
  }

  #lookSoon(): void {
    if (this.#settling !== undefined || this.#isClosed) return;
    this.#settling = setTimeout(() => {
      this.#settling = undefined;
      void this.#lookQuietly();
    }, SETTLE_MS).unref();
  }

  async #read(): Promise<MachineView> {
    for (let attempt = 1; ; attempt++) {
      const connection = await this.#connect();
      const eventCount = this.#eventCount;
      const view = await readMachineView(connection, this.uuid);
      if (this.#eventCount === eventCount || attempt === LOOK_ATTEMPTS) return view;
    }
  }

  async #connect(): Promise<LibvirtConnection> {
    const connection = await this.#options.connect();
    if (connection !== this.#connection && !this.#isClosed) this.#bind(connection);
    return connection;
  }

  #bind(connection: LibvirtConnection): void {
    this.#unbind();
    this.#connection = connection;
    const unbind: (() => void)[] = [];
    const listen = <K extends keyof LibvirtEvents>(name: K, act: (event: LibvirtEvents[K][0]) => void): void => {
      const emitter = connection.events as NodeJS.EventEmitter;
      const receive = (event: LibvirtEvents[K][0]): void => {
        if (name !== 'closed' && (event as DomainIdentity).uuid !== this.uuid) return;
        this.#eventCount++;
        act(event);
      };
      emitter.on(name, receive);
      unbind.push(() => emitter.off(name, receive));
    };
    listen('lifecycle', (event) => this.#receiveLifecycle(event));
    listen('reboot', () => this.#tell({ kind: 'rebooted' }));
    listen('block-job', (event) => this.#receiveBlockJob(event));
    listen('closed', ({ reason }) => this.#lose(reason));
    for (const name of LOOK_EVENTS) listen(name, () => this.#lookSoon());
    this.#unbind = () => {
      for (const each of unbind) each();
    };
  }

  #receiveLifecycle(event: LifecycleEvent): void {
    const fact = factOfLifecycle(event);
    const view = this.#view;
    if (fact !== undefined && view !== undefined) {
      const power = powerAfter(fact);
      // libvirt tells of a start as "resumed" as well, and of a stop in two steps.
      const isKnown =
        power !== undefined && (power === view.power || (fact.kind === 'resumed' && view.power === 'off'));
      if (power !== undefined && !isKnown)
        this.#view = { ...view, power, runId: undefined, jobs: power === 'off' ? [] : view.jobs };
      if (fact.kind === 'undefined') this.#view = NO_MACHINE;
      if (!isKnown) this.#tell(fact);
    }
    void this.#lookQuietly();
  }

  #receiveBlockJob({ disk, kind, status }: BlockJobEvent): void {
    const view = this.#view;
    if (view !== undefined) {
      const others = view.jobs.filter((job) => job.disk !== disk);
      const job = view.jobs.find((each) => each.disk === disk);
      if (status === 'ready') {
        if (job?.ready !== 'yes') this.#tell({ kind: 'job-ready', disk, job: kind });
        const ready = { disk, kind, destination: job?.destination, ready: 'yes' } as const;
        this.#view = { ...view, jobs: [...others, ready] };
      } else {
        this.#view = { ...view, jobs: others };
        this.#tell({ kind: 'job-ended', disk, how: status });
      }
    }
    this.#lookSoon();
  }

  #lose(reason: string): void {
    if (this.#isClosed) return;
    if (!this.#isLost) {
      this.#isLost = true;
      this.#tell({ kind: 'connection-lost', reason });
    }
    this.#schedule(this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, RECONNECT_MS.last);
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer);
    if (!this.#isClosed) this.#timer = setTimeout(() => void this.#lookQuietly(), ms).unref();
  }

  #tell(fact: MachineFact): void {
    for (const listener of this.#listeners) listener(fact);
  }
}

async function readMachineView(connection: LibvirtConnection, uuid: string): Promise<MachineView> {
  try {
    const domain = await connection.domainByUuid(uuid);
    const state = await domain.state();
    const xml = await domain.xml();
    const sizes: Record<string, number> = {};
    for (const target of watchedTargets(xml)) {
      const size = await sizeOf(domain, target);
      if (size !== undefined) sizes[target] = size;
    }
    return readView(xml, state, sizes);
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return NO_MACHINE;
    throw error;
  }
}

async function sizeOf(domain: Domain, target: string): Promise<number | undefined> {
  try {
    return (await domain.blockInfo(target)).capacityBytes;
  } catch (error) {
    // A machine that is off, whose image is missing or on storage that is down; a disk that has gone meanwhile.
    if (hasCode(error, 'LIBVIRT_FAILED', 'DOMAIN_WRONG_STATE', 'NOT_SUPPORTED', 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}
