// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import {
  isSameDestination,
  type MirrorDestination,
  mirrorDestinationXml,
  readDiskJobs,
} from '../hypervisor/libvirt/mirror-xml.ts';
import type { BlockCopyParams, BlockJobInfo } from '../hypervisor/libvirt/protocol.ts';
import type { MachineFact } from './machine-facts.ts';
import type { MachineWatch } from './machine-watch.ts';

export type MirrorState = 'copying' | 'ready' | 'ended';

/** Why a mirror is no more. `pivoted`: somebody moved the machine onto our export. */
export interface MirrorEnd {
  readonly kind: 'asked' | 'failed' | 'cancelled' | 'pivoted' | 'stopped' | 'gone';
  readonly reason: string;
}

export interface MirrorOptions {
  /** Whether a job that leads there is ours, of this or an earlier run; default: only to this very destination. */
  readonly isOwn?: (destination: MirrorDestination) => boolean;
  /** Ends the connections of the destination at once, when the job cannot be ended otherwise. */
  readonly cut?: () => void;
  /** Of the first copy, per second; default unlimited. */
  readonly bandwidthBytes?: number;
  /** Of the dirty bitmap; default 64 KiB. */
  readonly granularityBytes?: number;
  /** What QEMU holds in memory for the copy; default 16 MiB. */
  readonly bufferBytes?: number;
}

export interface MirroredDisk {
  readonly target: string;
  readonly sizeBytes: number;
}

const POLL_MS: Readonly<Record<'copying' | 'settling' | 'ready', number>> = {
  copying: 100,
  settling: 20,
  ready: 2_000,
};
/** So many looks in a row must agree that nothing is left to copy. */
const STABLE_POLLS = 3;
/** What the guest may have under way counts as not copied: more than that is a copy that goes on. */
const MAX_UNDER_WAY_BYTES = 32 * 1024 * 1024;
/** An event that explains why the job is gone comes a little after it. */
const EVENT_GRACE_MS = 250;
const CUT_AFTER_MS = 1_000;
const END_TIMEOUT_MS = 20_000;
const END_POLL_MS = 10;

/**
 * One disk of a running machine mirrored to an NBD export: QEMU copies the whole disk, and from the start on a guest's
 * write ends only when it is at the destination, too (`copy-mode=write-blocking`). The guest never sees an error of it:
 * the job ends instead.
 *
 * `ready` is said when QEMU has reported the job ready, and several looks agree that nothing is left but what the guest
 * has under way. libvirt starts the job with `on-target-error=report`, under which QEMU (block/mirror.c) reports ready only with an
 * empty dirty bitmap and nothing in flight, and ends the job at the first write that fails: from then on it stays so. `query-block-jobs`
 * would say the same (`actively-synced` from 8.2 on), but through libvirt's monitor passthrough, which marks the machine as
 * tainted; it is not asked.
 *
 * After a restart of libvirtd the mirror is followed over the watch's next connection.
 */
export class DiskMirror implements AsyncDisposable {
  readonly disk: MirroredDisk;
  readonly destination: MirrorDestination;
  readonly #watch: MachineWatch;
  readonly #options: MirrorOptions;
  readonly #listeners = new Set<() => void>();
  readonly #ended: PromiseWithResolvers<MirrorEnd> = Promise.withResolvers();
  #unwatch: Disposable | undefined;
  #state: MirrorState = 'copying';
  #end: MirrorEnd | undefined;
  #info: BlockJobInfo | undefined;
  #isStarted = false;
  #isReported = false;
  #lastEnd: string | undefined;
  #stablePolls = 0;
  #seenMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #ending: Promise<void> | undefined;

  private constructor(watch: MachineWatch, disk: MirroredDisk, place: MirrorPlaceOptions) {
    this.#watch = watch;
    this.disk = disk;
    this.destination = place.destination;
    this.#options = place.options;
  }

  /**
   * Starts the job; the destination must be open and have the disk's size. A mirror of ours that an earlier run left is ended
   * first. @throws ApplianceError DOMAIN_BUSY (a job of somebody else), DOMAIN_WRONG_STATE (off), SOURCE_CHANGED (another
   * size), NOT_SUPPORTED, LIBVIRT_FAILED (QEMU cannot reach the destination), those of the connection
   */
  static async start(
    watch: MachineWatch,
    disk: MirroredDisk,
    destination: MirrorDestination,
    options: MirrorOptions = {},
  ): Promise<DiskMirror> {
    const domain = await watch.domain();
    const isOwn = options.isOwn ?? ((other): boolean => isSameDestination(other, destination));
    await endOwnMirrors(domain, isOwn, {
      disk: disk.target,
      ...(options.cut === undefined ? {} : { cut: options.cut }),
    });
    await assertFree(domain, disk);
    const mirror = new DiskMirror(watch, disk, { destination, options });
    mirror.#unwatch = watch.onFact((fact) => mirror.#receive(fact));
    try {
      await domain.blockCopy({
        disk: disk.target,
        destinationXml: mirrorDestinationXml(destination),
        params: paramsOf(options),
        reusesDestination: true,
        isTransient: true,
        isSynchronous: true,
      });
    } catch (error) {
      mirror.#finish({ kind: 'failed', reason: toError(error).message });
      throw error;
    }
    mirror.#isStarted = true;
    mirror.#schedule(0);
    return mirror;
  }

  get state(): MirrorState {
    return this.#state;
  }

  /** Why it ended; empty before. */
  get reason(): string {
    return this.#end?.reason ?? '';
  }

  /** Somebody else ended it, or moved the machine onto it. */
  get wasTaken(): boolean {
    return this.#end?.kind === 'cancelled' || this.#end?.kind === 'pivoted';
  }

  /** Elapsed time at which the last look began that found it with nothing left to copy. */
  get seenMs(): number {
    return this.#seenMs;
  }

  /** Settles when the job is no more, for whatever reason. */
  get ended(): Promise<MirrorEnd> {
    return this.#ended.promise;
  }

  /** Of the first copy, at the last look; QEMU counts only what it must copy. */
  get progress(): { readonly currentBytes: number; readonly endBytes: number } {
    return { currentBytes: this.#info?.currentBytes ?? 0, endBytes: this.#info?.endBytes ?? 0 };
  }

  onState(listener: () => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /**
   * Ends the job without changing the machine, and waits until it is gone. Idempotent. When QEMU waits for a destination
   * that does not answer, the job ends only when that is cut. @throws ApplianceError TIMED_OUT, those of the connection;
   * call it again then
   */
  async end(): Promise<void> {
    if (this.#state === 'ended') return;
    this.#ending ??= this.#abort();
    try {
      await this.#ending;
    } finally {
      this.#ending = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  async #abort(): Promise<void> {
    const { cut } = this.#options;
    const isOwn = (other: MirrorDestination): boolean => isSameDestination(other, this.destination);
    await endOwnMirrors(await this.#watch.domain(), isOwn, {
      disk: this.disk.target,
      ...(cut === undefined ? {} : { cut }),
    });
    this.#finish({ kind: 'asked', reason: 'the mirror was ended' });
  }

  #receive(fact: MachineFact): void {
    const stop = STOP_WORDS[fact.kind];
    if (stop !== undefined) return this.#finish({ kind: 'stopped', reason: stop });
    if (fact.kind === 'connection-back' && this.#isStarted) this.#schedule(0);
    if (!('disk' in fact) || fact.disk !== this.disk.target) return;
    if (fact.kind === 'job-ready') this.#isReported = true;
    // It may be the end of the job before ours: a look tells.
    else if (fact.kind === 'job-ended') this.#lastEnd = fact.how;
    else return;
    if (this.#isStarted) this.#schedule(0);
  }

  #endOf(how: string): MirrorEnd {
    if (this.#ending !== undefined) return { kind: 'asked', reason: 'the mirror was ended' };
    switch (how) {
      case 'failed':
        return { kind: 'failed', reason: 'a write to the appliance failed, or the disk could not be read' };
      case 'cancelled':
        return { kind: 'cancelled', reason: 'somebody else ended the mirror' };
      case 'completed':
        return { kind: 'pivoted', reason: 'somebody moved the machine onto the mirror' };
      default:
        return { kind: 'gone', reason: 'the mirror is gone' };
    }
  }

  async #poll(): Promise<void> {
    const startedMs = systemClock.elapsedMs();
    try {
      const domain = await this.#watch.domain();
      const info = await domain.blockJobInfo(this.disk.target);
      if (this.#state === 'ended') return;
      if (info?.kind !== 'copy') return await this.#missing();
      this.#info = info;
      // Less than the end is also what libvirt says of a job that is over and not yet removed.
      if (info.currentBytes >= info.endBytes) this.#seenMs = startedMs;
      this.#lastEnd = undefined;
      if (!this.#isReported) this.#isReported = await this.#isReadyInXml(domain, info);
      const isStable = this.#isReported && info.endBytes - info.currentBytes <= MAX_UNDER_WAY_BYTES;
      this.#stablePolls = isStable ? this.#stablePolls + 1 : 0;
      if (this.#stablePolls >= STABLE_POLLS && this.#state === 'copying') this.#move('ready');
    } catch (error) {
      if (hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) return await this.#missing();
      // libvirt cannot be asked now. The job goes on without it, and the watch tells when it is back.
    }
    this.#schedule();
  }

  /** An event may have been lost with a connection. */
  async #isReadyInXml(domain: Domain, info: BlockJobInfo): Promise<boolean> {
    // libvirt reports less than the end until the job is ready.
    if (info.currentBytes < info.endBytes) return false;
    return readDiskJobs(await domain.xml()).some(({ disk, ready }) => disk === this.disk.target && ready === 'yes');
  }

  async #missing(): Promise<void> {
    if (this.#lastEnd === undefined) {
      // The machine may be gone with it, which the watch then tells.
      const late = Promise.allSettled([this.#watch.look(), delay(EVENT_GRACE_MS)]);
      await Promise.race([this.#ended.promise, late]);
    }
    this.#finish(this.#endOf(this.#lastEnd ?? 'unknown'));
  }

  #schedule(inMs?: number): void {
    clearTimeout(this.#timer);
    if (this.#state === 'ended') return;
    const isSettling = this.#isReported && this.#state === 'copying';
    const waitMs = inMs ?? POLL_MS[isSettling ? 'settling' : this.#state];
    this.#timer = setTimeout(() => void this.#poll(), waitMs).unref();
  }

  #finish(end: MirrorEnd): void {
    if (this.#state === 'ended') return;
    this.#end = end;
    clearTimeout(this.#timer);
    this.#unwatch?.[Symbol.dispose]();
    this.#ended.resolve(end);
    this.#move('ended');
  }

  #move(state: MirrorState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

interface MirrorPlaceOptions {
  readonly destination: MirrorDestination;
  readonly options: MirrorOptions;
}

const STOP_WORDS: Readonly<Partial<Record<MachineFact['kind'], string>>> = {
  'shut-off': 'the machine was shut off',
  crashed: 'the machine crashed',
  'migrated-away': 'the machine was migrated to another host',
  undefined: 'the machine is not defined any more',
};

/**
 * Ends the mirrors of a machine that lead to a place of ours, and waits until they are gone; jobs of others are left alone.
 * Returns the disks that had one. @throws ApplianceError TIMED_OUT, those of the connection
 */
export async function endOwnMirrors(
  domain: Domain,
  isOwn: (destination: MirrorDestination) => boolean,
  options: { readonly disk?: string; readonly cut?: () => void } = {},
): Promise<string[]> {
  const disks = await ownMirrors(domain, isOwn, options.disk);
  for (const disk of disks) {
    await abort(domain, disk, options.cut);
    const deadline = systemClock.elapsedMs() + END_TIMEOUT_MS;
    while ((await ownMirrors(domain, isOwn, disk)).length > 0) {
      if (systemClock.elapsedMs() > deadline) {
        throw new ApplianceError('TIMED_OUT', `the mirror of ${disk} of ${domain.name} does not end`);
      }
      await delay(END_POLL_MS);
    }
  }
  return disks;
}

async function ownMirrors(
  domain: Domain,
  isOwn: (destination: MirrorDestination) => boolean,
  only: string | undefined,
): Promise<string[]> {
  try {
    return readDiskJobs(await domain.xml())
      .filter(({ disk, destination }) => (only ?? disk) === disk && destination !== undefined && isOwn(destination))
      .map(({ disk }) => disk);
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return [];
    throw error;
  }
}

/**
 * QEMU ends a job only after the writes that are under way, and answers nobody until then, not even the guest for long: a destination
 * that hangs is cut.
 */
async function abort(domain: Domain, disk: string, cut: (() => void) | undefined): Promise<void> {
  const timer = setTimeout(() => cut?.(), CUT_AFTER_MS);
  try {
    await domain.abortBlockJob(disk, { isAsync: true });
  } catch (error) {
    if (!hasCode(error, 'NO_BLOCK_JOB', 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** libvirt would wait 30 s for a job before it refuses, and its words would not tell whose it is. */
async function assertFree(domain: Domain, disk: MirroredDisk): Promise<void> {
  const job = readDiskJobs(await domain.xml()).find((each) => each.disk === disk.target);
  if (job !== undefined) {
    throw new ApplianceError(
      'DOMAIN_BUSY',
      `${disk.target} of ${domain.name} is held by a job (${job.kind}) of somebody else`,
      {
        details: { disk: disk.target, job: job.kind },
      },
    );
  }
  const { kind } = await domain.jobInfo();
  if (kind === 'bounded' || kind === 'unbounded') {
    const { operation } = await domain.jobStats();
    throw new ApplianceError('DOMAIN_BUSY', `${domain.name} is held by another job: ${operation}`, {
      details: { operation },
    });
  }
  const { capacityBytes } = await domain.blockInfo(disk.target);
  if (capacityBytes !== disk.sizeBytes) {
    throw new ApplianceError(
      'SOURCE_CHANGED',
      `${disk.target} has ${capacityBytes} bytes, a moment ago ${disk.sizeBytes}`,
    );
  }
}

function paramsOf({ bandwidthBytes, granularityBytes, bufferBytes }: MirrorOptions): BlockCopyParams {
  return {
    ...(bandwidthBytes === undefined ? {} : { bandwidthBytes }),
    ...(granularityBytes === undefined ? {} : { granularityBytes }),
    ...(bufferBytes === undefined ? {} : { bufferBytes }),
  };
}
