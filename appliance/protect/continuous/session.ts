// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import { ApplianceError, toError } from '../../core/errors.ts';
import type { Consistency, RecoveryPoint } from '../../repository/manifest.ts';
import { FOLDED, FoldSchedule } from '../../volume/fold-schedule.ts';
import { BookmarkQueue } from './bookmark-queue.ts';
import { catchUp, type KeptState, takeIntervals } from './interval-round.ts';
import { type Compared, MirrorRound } from './mirror-round.ts';
import type {
  IntervalCycle,
  MachineFacts,
  MachineWatch,
  MirrorLines,
  SessionJournal,
  SessionMoment,
  SessionStorage,
} from './ports.ts';
import { PositionRenewal } from './position-renewal.ts';
import type { SessionSettings } from './session-settings.ts';
import { type RoundEnd, RoundStop, type SessionMode, type StateChange, StateHistory } from './session-state.ts';

export interface SessionParts {
  readonly clock: Clock;
  readonly settings: SessionSettings;
  readonly watch: MachineWatch;
  readonly lines: MirrorLines;
  readonly journal: SessionJournal;
  readonly storage: SessionStorage;
  /** The last moment of an earlier process. */
  readonly lastMoment?: SessionMoment | undefined;
  readonly onChange: (change: StateChange) => void;
}

export interface SessionStatus {
  readonly change: StateChange;
  readonly history: readonly StateChange[];
  /** How old the newest moment is that can be recovered; null when there is none. */
  readonly rpoMs: number | null;
  /** When the last recovery point was folded, and why the last attempt failed. */
  readonly lastFoldMs: number | null;
  readonly foldProblem: string | null;
  /** How the machine was taken up the last time, as far as that has got. */
  readonly resync: Resync | null;
}

/**
 * How a machine under protection of every write was taken up again. `bitmap`: first what changed was read from the
 * hypervisor's account of it, which gave a state that can be recovered; `comparison`: there was no account that could be
 * trusted. Either way the disks are then copied whole and compared.
 */
export interface Resync {
  readonly kind: 'bitmap' | 'comparison';
  /** Why there was no account; empty for `bitmap`. */
  readonly reason: string;
  readonly atMs: number;
  /** What was read from the account. */
  readonly changedBytes: number;
  /** What the copy sent, and what of it differed; null until it is complete. */
  readonly compared: Compared | null;
}

/** So long a hypervisor is waited for that may know why a mirror ended. */
const EXPLANATION_MS = 3_000;

/**
 * The continuous protection of one machine. A loop of rounds: look at the machine, make sure that there is a recovery
 * point beneath the journal, then keep every write (`MirrorRound`) or take intervals until something ends that, and again.
 * Whatever goes wrong ends the round and never the guest. Errors are states with reasons, not exceptions.
 */
export class ContinuousSession implements AsyncDisposable {
  readonly #parts: SessionParts;
  readonly #history: StateHistory;
  #running: Promise<void> | undefined;
  #isEnding = false;
  #pauseReason: string | undefined;
  #stop: RoundStop | undefined;
  #current: Promise<RoundEnd | undefined> | undefined;
  /** What happened since the last sleep: an order of the operator, or a change of the machine. */
  #roused: 'order' | 'change' | undefined;
  #wake: ((by: 'order' | 'change') => void) | undefined;
  #explanation: string | undefined;
  #wasProtected = false;
  #failures = 0;
  #fallbacks = 0;
  /** Elapsed time until which intervals are taken instead of writes. */
  #fallbackUntilMs = 0;
  #newestMoment: SessionMoment | undefined;
  #resync: Resync | null = null;
  readonly #folds: FoldSchedule;
  readonly #bookmarks = new BookmarkQueue();

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#history = new StateHistory(
      parts.clock,
      parts.settings.intervalMs === 0 ? 'writes' : 'interval',
      parts.onChange,
    );
    this.#folds = new FoldSchedule(parts.clock, parts.settings, parts.journal);
    parts.storage.onWait((waiting) => this.#explainWait(waiting));
    this.#newestMoment = parts.lastMoment;
    this.#wasProtected = parts.lastMoment !== undefined;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  status(): SessionStatus {
    const { clock } = this.#parts;
    const change = this.#standing();
    const isUnbroken = change.state === 'protected' && change.mode === 'writes';
    const wasUnbroken = this.#history.current.state === 'protected' && change.mode === 'writes';
    const newest = wasUnbroken ? this.#parts.journal.newest : this.#newestMoment;
    const rpoMs = isUnbroken ? 0 : newest === undefined ? null : Math.max(0, clock.nowMs() - newest.timeUs / 1000);
    return {
      change,
      history: this.#history.all(),
      rpoMs,
      lastFoldMs: this.#folds.lastFoldMs,
      foldProblem: this.#folds.problem,
      resync: this.#resync,
    };
  }

  /** Lets go of the machine until `resume`, for example for the snapshot of another tool. Settles when it has let go. */
  async pause(reason: string): Promise<void> {
    this.#pauseReason = reason;
    this.#stop?.now({ kind: 'asked', reason });
    this.#rouse('order');
    await this.#current;
  }

  resume(): void {
    if (this.#pauseReason !== undefined && this.#history.current.state === 'paused') {
      this.#history.move(this.#wasProtected ? 'behind' : 'seeding', this.#mode(), 'it is taken up again');
    }
    this.#pauseReason = undefined;
    this.#rouse('order');
  }

  /**
   * Makes a recovery point of the newest state, now: of a paused machine, that at which it was paused. Undefined when the
   * newest point has all of it.
   * @throws ApplianceError DOMAIN_BUSY while there is no consistent state; those of the repository
   */
  async foldNow(reason: string): Promise<RecoveryPoint | undefined> {
    await this.#folds.idle();
    return this.#fold(this.#newestState(), reason);
  }

  /** As it is in this turn: a moment later the stretch may have ended, and what follows in the journal is no state. */
  #newestState(): SessionMoment {
    const { state, mode, reason } = this.#standing();
    const newest = state === 'protected' && mode === 'writes' ? this.#parts.journal.newest : this.#newestMoment;
    if ((state === 'protected' || state === 'paused') && newest !== undefined) return newest;
    throw noState(reason);
  }

  /**
   * Names the newest state: in intervals, one that is taken now.
   * @throws ApplianceError DOMAIN_BUSY while there is no consistent state; those of the hypervisor and of the journal
   */
  async bookmark(name: string, consistency: Consistency): Promise<SessionMoment> {
    // The guest may be frozen for it: had a mirror ended before, what the guest wrote then would be missing, and the look tells.
    await this.#parts.watch.facts();
    const { state, mode, reason } = this.#standing();
    if (state !== 'protected') throw noState(reason);
    if (mode === 'interval') return this.#bookmarks.add(name, consistency);
    return this.#parts.journal.bookmark(name, consistency);
  }

  /** Ends protection: the stretch ends, the machine goes on alone. Idempotent. */
  async close(reason: string = 'the service stops'): Promise<void> {
    this.#isEnding = true;
    this.#stop?.now({ kind: 'asked', reason });
    this.#rouse('order');
    await this.#running;
    await this.#folds.idle();
    await this.#parts.watch[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** A round that was stopped protects nothing any more, while it is still being ended. */
  #standing(): StateChange {
    const { current } = this.#history;
    const end = this.#stop?.end;
    if (current.state !== 'protected' || end === undefined) return current;
    return { state: 'behind', mode: current.mode, reason: end.reason, atMs: this.#stop?.endMs ?? current.atMs };
  }

  async #run(): Promise<void> {
    const { watch, settings } = this.#parts;
    using _ = watch.onChange(() => this.#rouse('change'));
    while (!this.#isEnding) {
      this.#roused = undefined;
      this.#current = this.#round();
      const end = await this.#current;
      if (this.#isEnding) break;
      if (end === undefined) {
        await this.#sleep(settings.watchMs, true);
        continue;
      }
      if (end.kind === 'failed') {
        this.#failures += 1;
        this.#history.move(this.#wasProtected ? 'behind' : 'seeding', this.#mode(), end.reason);
        await this.#sleep(Math.min(settings.maxRetryMs, settings.retryMs * 2 ** (this.#failures - 1)), false);
        continue;
      }
      if (end.kind === 'slow') this.#fallBack(end.reason);
      else if (this.#wasProtected) this.#history.move('behind', this.#mode(), end.reason);
    }
  }

  /** One round; undefined when there is nothing to do until something changes. */
  async #round(): Promise<RoundEnd | undefined> {
    const { watch, storage, lines } = this.#parts;
    if (this.#pauseReason !== undefined) {
      this.#history.move('paused', this.#mode(), this.#pauseReason);
      return undefined;
    }
    const stop = new RoundStop(this.#parts.clock);
    this.#stop = stop;
    this.#explanation = undefined;
    try {
      const facts = await watch.facts();
      if (facts.power === 'off') {
        this.#history.move('paused', this.#mode(), facts.reason);
        return undefined;
      }
      const { reason } = this.#history.current;
      const why = this.#history.current.state === 'paused' ? 'the machine runs' : reason;
      this.#history.move(this.#wasProtected ? 'resyncing' : 'seeding', this.#mode(), why);
      await lines.endLeftovers();
      await storage.releaseMachine(stop.signal);
      const hasBase = await storage.hasBase(facts.disks);
      if (!hasBase) await this.#makeBase(facts, stop);
      if (stop.end !== undefined) return stop.end;
      using _ = watch.onChange((what) => {
        // Jobs come and go with every interval, and a mirror tells of its own.
        if (!what.startsWith('job-')) void this.#recheck(stop, facts);
      });
      const watching = setInterval(() => void this.#recheck(stop, facts), this.#parts.settings.watchMs);
      try {
        if (this.#mode() === 'interval') await this.#takeIntervals(stop, facts);
        else {
          if (hasBase) await this.#catchUp(stop, facts);
          if (stop.end === undefined) await this.#mirror(stop, facts);
        }
      } finally {
        clearInterval(watching);
      }
      await this.#folds.idle();
      const end = await stop.promise;
      // The machine's own reason needs no waiting: it is looked at anew at once.
      return this.#explanation === undefined ? end : { kind: 'changed', reason: this.#explanation };
    } catch (error) {
      return stop.end ?? { kind: 'failed', reason: toError(error).message };
    } finally {
      stop.now({ kind: 'asked', reason: 'the round has ended' });
      this.#stop = undefined;
    }
  }

  /** A recovery point is a state that can be recovered, too. */
  async #makeBase({ disks }: MachineFacts, stop: RoundStop): Promise<void> {
    const { storage } = this.#parts;
    const point = await storage.makeBase(disks, stop.signal);
    this.#resync = null;
    if (point.journal === undefined) return;
    this.#newestMoment = { sequence: point.journal.sequence, timeUs: point.journal.timeUs };
  }

  /** libvirt may hold on to a job that is over. */
  #explainWait(waiting: string): void {
    const { state, mode } = this.#history.current;
    this.#history.move(state, mode, waiting);
  }

  /**
   * A state that can be recovered, soon: the copy of whole disks takes much longer than reading what changed. When there is
   * nothing to read it from, the copy has to do.
   */
  async #catchUp(stop: RoundStop, { disks }: MachineFacts): Promise<void> {
    const { clock, storage } = this.#parts;
    const { mode } = this.#history.current;
    const resync = { atMs: clock.nowMs(), changedBytes: 0, compared: null };
    this.#resync = null;
    const onKept = (state: KeptState): void => {
      this.#newestMoment = state.moment;
      const { changedBytes } = state;
      this.#resync = { ...resync, kind: 'bitmap', reason: '', changedBytes };
      const text = `caught up (${inMebibytes(changedBytes)} were read as changed); the disks are copied whole to keep every write`;
      this.#history.move(this.#wasProtected ? 'resyncing' : 'seeding', mode, text);
    };
    const endReason = ({ changedBytes }: IntervalCycle): string =>
      `caught up: ${inMebibytes(changedBytes)} read as changed; then the disks were copied whole`;
    try {
      await catchUp({ ...this.#parts, disks, stop, onKept }, endReason);
    } catch (error) {
      if (stop.end !== undefined) return;
      this.#resync ??= { ...resync, kind: 'comparison', reason: toError(error).message };
    }
    await storage.releaseMachine(stop.signal);
  }

  async #mirror(stop: RoundStop, facts: MachineFacts): Promise<void> {
    const { clock, journal } = this.#parts;
    let renewal: PositionRenewal | undefined;
    const round = new MirrorRound({
      ...this.#parts,
      disks: facts.disks,
      stop,
      explain: (end) => this.#explain(end, facts),
      onProtected: (compared) => {
        this.#resync &&= { ...this.#resync, compared };
        renewal = this.#renewal(stop);
        this.#protected('writes', 'every write is kept');
      },
      onTick: () => {
        renewal?.tick(clock.elapsedMs());
        void this.#foldIfDue(journal.newest);
      },
    });
    const end = await round.run();
    await renewal?.idle();
    if (end === undefined) return;
    // Behind it the journal may have what is no state.
    this.#newestMoment = end;
  }

  #renewal(stop: RoundStop): PositionRenewal {
    const { storage, settings, clock } = this.#parts;
    return new PositionRenewal({
      storage,
      isUnbroken: () => stop.end === undefined,
      isUrgent: this.#resync?.kind === 'comparison',
      renewMs: settings.renewMs,
      startedMs: clock.elapsedMs(),
    });
  }

  async #takeIntervals(stop: RoundStop, { disks }: MachineFacts): Promise<void> {
    const { clock, settings } = this.#parts;
    const intervalMs = settings.intervalMs === 0 ? settings.fallbackIntervalMs : settings.intervalMs;
    const onKept = ({ moment }: KeptState): void => {
      this.#newestMoment = moment;
    };
    const onState = async (state: KeptState): Promise<void> => {
      this.#protected('interval', `a state each ${Math.round(intervalMs / 100) / 10} s`);
      await this.#foldIfDue(state.moment);
      const isOver = settings.intervalMs === 0 && clock.elapsedMs() >= this.#fallbackUntilMs;
      if (isOver) stop.now({ kind: 'asked', reason: 'every write can be tried again' });
    };
    await takeIntervals({ ...this.#parts, disks, stop, intervalMs, bookmarks: this.#bookmarks, onKept, onState });
  }

  /** The machine may have changed; what cannot be asked now is asked again later, and the mirror goes on. */
  async #recheck(stop: RoundStop, before: MachineFacts): Promise<void> {
    let now: MachineFacts;
    try {
      now = await this.#parts.watch.facts();
    } catch {
      return;
    }
    const difference = describeDifference(before, now);
    if (difference !== undefined) stop.now({ kind: 'changed', reason: difference });
  }

  /** A mirror that ends says little: when the machine was stopped or changed, that is the reason. */
  async #explain(end: RoundEnd, before: MachineFacts): Promise<string> {
    if (end.kind !== 'failed') return end.reason;
    const { promise: late, resolve } = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => resolve(undefined), EXPLANATION_MS);
    const now = await Promise.race([this.#parts.watch.facts().catch(() => undefined), late]);
    clearTimeout(timer);
    this.#explanation = now === undefined ? undefined : describeDifference(before, now);
    return this.#explanation ?? end.reason;
  }

  #protected(mode: SessionMode, reason: string): void {
    this.#wasProtected = true;
    this.#failures = 0;
    if (mode === 'writes' && this.#fallbackUntilMs < this.#parts.clock.elapsedMs() - this.#parts.settings.fallbackMs) {
      this.#fallbacks = 0;
    }
    const { reason: why } = this.#history.current;
    const isFallback = mode === 'interval' && this.#parts.settings.intervalMs === 0;
    if (isFallback && this.#history.current.mode === 'interval' && this.#history.current.state === 'protected') return;
    this.#history.move('protected', mode, isFallback ? `${reason}: ${why}` : reason);
  }

  #fallBack(reason: string): void {
    const { clock, settings } = this.#parts;
    this.#fallbackUntilMs = clock.elapsedMs() + settings.fallbackMs * 2 ** Math.min(this.#fallbacks, 6);
    this.#fallbacks += 1;
    this.#history.move(this.#wasProtected ? 'behind' : 'seeding', 'interval', reason);
  }

  #mode(): SessionMode {
    const { settings, clock } = this.#parts;
    return settings.intervalMs > 0 || clock.elapsedMs() < this.#fallbackUntilMs ? 'interval' : 'writes';
  }

  async #foldIfDue(upTo: SessionMoment): Promise<void> {
    if (!this.#folds.isDue()) return;
    // Problems are kept for the status; the next tick or interval tries again.
    await this.#fold(upTo, FOLDED).catch(() => undefined);
  }

  #fold(upTo: SessionMoment, reason: string): Promise<RecoveryPoint | undefined> {
    const { signal } = new AbortController();
    return this.#folds.run(upTo, (moment) => this.#parts.storage.fold(moment, reason, signal));
  }

  #rouse(by: 'order' | 'change'): void {
    if (this.#roused !== 'order') this.#roused = by;
    this.#wake?.(by);
  }

  /** Waits for the time to pass, for an order, or (when it may) for a change of the machine; also one that came before. */
  async #sleep(ms: number, wakesOnChange: boolean): Promise<void> {
    const wakes = (by: 'order' | 'change'): boolean => wakesOnChange || by === 'order';
    if (this.#roused !== undefined && wakes(this.#roused)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#wake = (by): void => {
      if (wakes(by)) resolve();
    };
    await promise;
    clearTimeout(timer);
    this.#wake = undefined;
  }
}

function noState(reason: string): ApplianceError {
  return new ApplianceError('DOMAIN_BUSY', `there is no consistent state now: ${reason}`);
}

function inMebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

/** What a session has to begin anew for; undefined when nothing of that kind changed. */
export function describeDifference(before: MachineFacts, now: MachineFacts): string | undefined {
  if (now.power === 'off') return now.reason;
  for (const disk of now.disks) {
    const old = before.disks.find(({ name }) => name === disk.name);
    if (old === undefined) return `the disk ${disk.name} was added`;
    if (old.sizeBytes !== disk.sizeBytes) return `the disk ${disk.name} was resized`;
    if (JSON.stringify(old.identity) !== JSON.stringify(disk.identity)) return `the disk ${disk.name} was replaced`;
  }
  const gone = before.disks.find(({ name }) => !now.disks.some((disk) => disk.name === name));
  return gone === undefined ? undefined : `the disk ${gone.name} was removed`;
}
