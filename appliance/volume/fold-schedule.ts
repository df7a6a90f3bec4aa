// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../core/clock.ts';
import { toError } from '../core/errors.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Moment } from './journal-event.ts';

/** The reason of points that are folded by themselves; only such are ever thinned out. */
export const FOLDED: string = 'folded from the journal';

/** When a journal is folded. All times in milliseconds. */
export interface FoldLimits {
  /** A fold is due after any of these: they bound what opening a moment reads, and what booting it copies. */
  readonly foldMs: number;
  readonly foldRecords: number;
  readonly foldBytes: number;
  /** Pause after a fold that failed. */
  readonly maxRetryMs: number;
}

export const DEFAULT_FOLD_LIMITS: FoldLimits = {
  foldMs: 10 * 60_000,
  foldRecords: 500_000,
  foldBytes: 1024 * 1024 * 1024,
  maxRetryMs: 60_000,
};

/** How far a journal has come. */
export interface GrowingJournal {
  readonly lastSequence: number;
  readonly sizeBytes: number;
}

/** When the journal of one machine is to be folded next, and what became of the last time. */
export class FoldSchedule {
  readonly #clock: Clock;
  readonly #limits: FoldLimits;
  readonly #journal: GrowingJournal;
  #running: Promise<RecoveryPoint | undefined> | undefined;
  #lastElapsedMs: number;
  #lastSequence = 0;
  #lastBytes = 0;
  #lastFoldMs: number | null = null;
  #problem: string | null = null;

  constructor(clock: Clock, limits: FoldLimits, journal: GrowingJournal) {
    this.#clock = clock;
    this.#limits = limits;
    this.#journal = journal;
    this.#lastElapsedMs = clock.elapsedMs();
  }

  /** When the last recovery point was folded; null when none was. */
  get lastFoldMs(): number | null {
    return this.#lastFoldMs;
  }

  /** Why the last attempt failed, if it did. */
  get problem(): string | null {
    return this.#problem;
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** Settles when no fold is under way. Never rejects: a failure was told to whoever asked for it. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
  }

  /** True when none is under way and enough has come, or time passed, since the last one. */
  isDue(): boolean {
    const { foldMs, foldRecords, foldBytes, maxRetryMs } = this.#limits;
    const sinceMs = this.#clock.elapsedMs() - this.#lastElapsedMs;
    if (this.isRunning || (this.#problem !== null && sinceMs < maxRetryMs)) return false;
    const records = this.#journal.lastSequence - this.#lastSequence;
    const bytes = this.#journal.sizeBytes - this.#lastBytes;
    return records > 0 && (sinceMs >= foldMs || records >= foldRecords || bytes >= foldBytes);
  }

  /** Folds everything up to a moment by `fold`, and notes what became of it. Throws what it throws. */
  async run(
    upTo: Moment,
    fold: (upTo: Moment) => Promise<RecoveryPoint | undefined>,
  ): Promise<RecoveryPoint | undefined> {
    this.#lastElapsedMs = this.#clock.elapsedMs();
    const folding = fold(upTo);
    this.#running = folding;
    try {
      const point = await folding;
      this.#lastSequence = upTo.sequence;
      this.#lastBytes = this.#journal.sizeBytes;
      this.#problem = null;
      if (point !== undefined) this.#lastFoldMs = this.#clock.nowMs();
      return point;
    } catch (error) {
      this.#problem = toError(error).message;
      throw error;
    } finally {
      if (this.#running === folding) this.#running = undefined;
    }
  }
}
