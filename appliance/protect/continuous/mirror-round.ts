// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import { toError } from '../../core/errors.ts';
import { AppendLatency } from './append-latency.ts';
import { JournalTarget } from './journal-target.ts';
import { MirrorTarget } from './mirror-target.ts';
import type {
  Mirror,
  MirrorLine,
  MirrorLines,
  SessionDisk,
  SessionJournal,
  SessionMoment,
  SessionStorage,
} from './ports.ts';
import { type SeedingTarget, seedingTarget } from './seeding-target.ts';
import type { SessionSettings } from './session-settings.ts';
import type { RoundEnd, RoundStop } from './session-state.ts';
import { StretchEnd } from './stretch-end.ts';

/** What the first copy sent over all disks, and how much of it the volumes did not hold. */
export interface Compared {
  readonly bytes: number;
  readonly differingBytes: number;
}

export interface MirrorRoundParts {
  readonly clock: Clock;
  readonly settings: SessionSettings;
  readonly journal: SessionJournal;
  readonly storage: SessionStorage;
  readonly lines: MirrorLines;
  readonly disks: readonly SessionDisk[];
  readonly stop: RoundStop;
  /** The reason of an end in the words that the timeline keeps. */
  readonly explain: (end: RoundEnd) => Promise<string>;
  /** Called when an unbroken stretch has begun. */
  readonly onProtected: (compared: Compared) => void;
  /** Called a few times a second while the stretch lasts. */
  readonly onTick: () => void;
}

/** How long after its connection the end of a mirror is waited for. */
const TAKEN_WITHIN_MS = 250;

/**
 * Every write of a running machine, from the first copy to whatever ends it. The stretch begins when every disk is copied
 * and nothing runs, in the turn in which all disks go to the journal; it ends, for all disks, in the turn in which the
 * first thing goes wrong with one of them: the journal never holds a write that came after one that it lacks.
 */
export class MirrorRound {
  readonly #parts: MirrorRoundParts;
  readonly #latency: AppendLatency;
  readonly #targets: { readonly disk: SessionDisk; readonly seeding: SeedingTarget; readonly target: MirrorTarget }[] =
    [];
  readonly #mirrors: Mirror[] = [];
  #lastFlushMs: number;
  #isFlushing = false;
  #isInStretch = false;
  /** The disk whose connection ended the round. */
  #lost: string | undefined;
  readonly #stretchEnd = new StretchEnd();
  readonly #journalTargets = new Map<string, JournalTarget>();

  constructor(parts: MirrorRoundParts) {
    this.#parts = parts;
    this.#latency = new AppendLatency(parts.settings.latency);
    this.#lastFlushMs = parts.clock.elapsedMs();
  }

  /**
   * Settles when the round was stopped and nothing of it is left, with the last moment of its stretch if it had one. The reason is
   * the stop's.
   */
  async run(): Promise<SessionMoment | undefined> {
    const { stop, settings, lines } = this.#parts;
    const tick = setInterval(() => this.#tick(), settings.tickMs);
    let line: MirrorLine | undefined;
    try {
      this.#makeTargets();
      stop.onStop((end) => {
        for (const { target } of this.#targets) target.refuse(end.reason);
        // A write that hangs in a log that hangs: the guest must not wait for it.
        if (end.kind === 'slow') line?.cut();
      });
      line = await lines.open(
        this.#targets.map(({ target }) => target),
        (disk) => {
          if (stop.end === undefined) this.#lost = disk;
          stop.now({ kind: 'failed', reason: `the connection of ${disk} was cut` });
        },
      );
      if (stop.end === undefined) await this.#copy(line);
      if (stop.end === undefined) await this.#beginStretch();
    } catch (error) {
      stop.now({ kind: 'failed', reason: toError(error).message });
    }
    const end = await stop.promise;
    clearInterval(tick);
    const reason = await this.#parts.explain(end);
    // When the machine tells nothing of itself, the mirror may.
    return this.#finish(reason === end.reason ? ((await this.#taken()) ?? reason) : reason, line);
  }

  #makeTargets(): void {
    const { disks, storage, clock, stop } = this.#parts;
    for (const disk of disks) {
      const { target: seeding, device } = seedingTarget(storage.volume(disk.name), storage.known(disk.name));
      const target = new MirrorTarget({
        name: disk.name,
        seeding: device,
        clock,
        latency: this.#latency,
        onFailure: (error) => stop.now({ kind: 'failed', reason: `${disk.name}: ${error.message}` }),
      });
      this.#targets.push({ disk, seeding, target });
    }
  }

  /** Until every disk is copied. Claims are carried out while the mirrors are ready already. */
  async #copy(line: MirrorLine): Promise<void> {
    const { stop, disks } = this.#parts;
    const whenReady = Promise.withResolvers<void>();
    const look = (): void => {
      for (const [index, mirror] of this.#mirrors.entries()) {
        if (mirror.state !== 'ended') continue;
        const name = disks[index]?.name ?? '';
        return stop.now({ kind: 'failed', reason: `the mirror of ${name} ended: ${mirror.reason}` });
      }
      if (this.#areReady()) whenReady.resolve();
    };
    for (const disk of disks) {
      const mirror = await line.start(disk);
      this.#mirrors.push(mirror);
      mirror.onState(look);
      if (stop.end !== undefined) return;
    }
    look();
    await Promise.race([whenReady.promise, stop.promise]);
    for (const { seeding } of this.#targets) {
      if (stop.end === undefined) await seeding.settle(stop.signal);
    }
  }

  #areReady(): boolean {
    return this.#mirrors.length === this.#parts.disks.length && this.#mirrors.every(({ state }) => state === 'ready');
  }

  async #beginStretch(): Promise<void> {
    const { clock, journal, storage, settings, stop, onProtected } = this.#parts;
    await Promise.all(this.#targets.map(({ target }) => target.hold()));
    if (stop.end !== undefined) return;
    await journal.beginStretch('writes');
    this.#isInStretch = true;
    this.#stretchEnd.note(clock.elapsedMs(), journal.newest);
    this.#latency.restart(clock.elapsedMs());
    if (stop.end !== undefined) return;
    for (const { disk, target } of this.#targets) {
      const volume = (): ReturnType<SessionStorage['volume']> => storage.volume(disk.name);
      const options = { log: journal, disk: storage.logDiskOf(disk.name), sizeBytes: disk.sizeBytes, volume };
      const stage = new JournalTarget({ ...options, durability: settings.durability });
      this.#journalTargets.set(disk.name, stage);
      target.release(stage);
    }
    onProtected(this.#compared());
  }

  #compared(): Compared {
    let [bytes, differingBytes] = [0, 0];
    for (const { seeding } of this.#targets) {
      bytes += seeding.counts.differing + seeding.counts.equal;
      differingBytes += seeding.counts.differing;
    }
    return { bytes, differingBytes };
  }

  #tick(): void {
    const { clock, stop, settings, journal, onTick } = this.#parts;
    if (stop.end !== undefined) return;
    const nowMs = clock.elapsedMs();
    const { seedingLimitMs } = settings.latency;
    const slow = this.#isInStretch ? this.#latency.verdict(nowMs) : this.#latency.stuck(nowMs, seedingLimitMs);
    if (slow !== undefined) return stop.now({ kind: 'slow', reason: slow });
    const isDue = nowMs - this.#lastFlushMs >= settings.flushMs && journal.durableSequence < journal.lastSequence;
    if (isDue && !this.#isFlushing) void this.#flush(nowMs);
    if (!this.#isInStretch) return;
    this.#stretchEnd.note(nowMs, journal.newest);
    onTick();
  }

  async #flush(nowMs: number): Promise<void> {
    this.#isFlushing = true;
    try {
      await this.#parts.journal.flush();
      this.#lastFlushMs = nowMs;
    } catch (error) {
      this.#parts.stop.now({ kind: 'failed', reason: toError(error).message });
    } finally {
      this.#isFlushing = false;
    }
  }

  /** That somebody else ended the mirror whose connection ended the round: libvirt tells a little later. */
  async #taken(): Promise<string | undefined> {
    const index = this.#parts.disks.findIndex(({ name }) => name === this.#lost);
    const mirror = this.#mirrors[index];
    if (mirror === undefined) return undefined;
    const { promise, resolve } = Promise.withResolvers<void>();
    using _ = mirror.onState(resolve);
    const timer = setTimeout(resolve, TAKEN_WITHIN_MS);
    if (mirror.state !== 'ended') await promise;
    clearTimeout(timer);
    return mirror.wasTaken ? `the mirror of ${this.#lost} ended: ${mirror.reason}` : undefined;
  }

  /** Where the stretch has ended, when that is not now. */
  #endBefore(): SessionMoment | undefined {
    const taken = this.#parts.disks.flatMap(({ name }, index) => {
      const mirror = this.#mirrors[index];
      const last = this.#journalTargets.get(name)?.last;
      return mirror?.wasTaken === true ? [{ seenMs: mirror.seenMs, last }] : [];
    });
    return this.#stretchEnd.before(taken);
  }

  async #finish(reason: string, line: MirrorLine | undefined): Promise<SessionMoment | undefined> {
    const { journal } = this.#parts;
    const at = this.#endBefore();
    // The round has ended for a reason of its own: a stretch without an end ends with its last record, and what could not be
    // ended at the hypervisor, the next round ends first.
    const [ended] = await Promise.allSettled([this.#isInStretch ? journal.endStretch(reason, at) : undefined]);
    await Promise.allSettled([journal.flush(), ...this.#mirrors.map((mirror) => mirror.end())]);
    await Promise.allSettled([line?.[Symbol.asyncDispose]()]);
    return ended.status === 'fulfilled' ? ended.value : (at ?? journal.newest);
  }
}
