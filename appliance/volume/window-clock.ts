// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../core/clock.ts';

/** The clock may gain this part of the window against the time that passed: an hour of a day. */
const GAIN = 1 / 24;

/**
 * How far the window of a journal has moved, by a clock that somebody may set. When it has leapt forward, or the journal is
 * opened long after its newest record, nobody can tell whether so much time passed: then nothing leaves by its age until
 * as much time as the window has passed on the clock that nobody sets.
 */
export class WindowClock {
  readonly #clock: Clock;
  readonly #windowMs: number;
  #seen: { readonly nowMs: number; readonly elapsedMs: number };
  /** Elapsed time. */
  #believedFromMs = 0;

  /** `newestUs`: time of the journal's newest record, if it has one. */
  constructor(clock: Clock, windowMs: number, newestUs: number | undefined) {
    this.#clock = clock;
    this.#windowMs = windowMs;
    const [nowMs, elapsedMs] = [clock.nowMs(), clock.elapsedMs()];
    this.#seen = { nowMs, elapsedMs };
    this.#believedFromMs = elapsedMs;
    if (newestUs !== undefined && nowMs - newestUs / 1000 > windowMs) this.#believedFromMs = elapsedMs + windowMs;
  }

  /** Microseconds since the Unix epoch: what is older has left the window. */
  oldestUs(): number {
    const [nowMs, elapsedMs] = [this.#clock.nowMs(), this.#clock.elapsedMs()];
    const gainedMs = nowMs - this.#seen.nowMs - (elapsedMs - this.#seen.elapsedMs);
    if (Math.abs(gainedMs) > this.#windowMs * GAIN) this.#believedFromMs = elapsedMs + this.#windowMs;
    this.#seen = { nowMs, elapsedMs };
    return elapsedMs < this.#believedFromMs ? 0 : (nowMs - this.#windowMs) * 1000;
  }
}
