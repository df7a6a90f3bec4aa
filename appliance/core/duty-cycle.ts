// SPDX-License-Identifier: Apache-2.0
import type { Clock } from './clock.ts';

/** Rests that are shorter are put together: timers are not finer. */
const MIN_REST_MS = 20;
/** One rest is not longer: what made it necessary may be over. */
const MAX_REST_MS = 5_000;

/** Called between two steps of long work; settles when the next step may begin. */
export type Pace = () => Promise<void>;

export interface DutyCycleOptions {
  readonly clock: Clock;
  /** The share of the time, above 0 and at most 1, that may be worked; asked before each rest. */
  readonly share: () => number;
  /** Aborted: no rest any more, so that the work sees it at once. */
  readonly signal: AbortSignal;
  /** Default: a timer that keeps no process alive. */
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<void>;
}

/**
 * Lets background work have a share of the time: between its steps it rests for as long as what was worked asks for. Steps
 * that run side by side rest together.
 */
export class DutyCycle {
  readonly #options: DutyCycleOptions;
  readonly #sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  #workingSinceMs: number;
  #dueMs = 0;
  #resting: Promise<void> | undefined;

  constructor(options: DutyCycleOptions) {
    this.#options = options;
    this.#sleep = options.sleep ?? sleepFor;
    this.#workingSinceMs = options.clock.elapsedMs();
  }

  readonly pace: Pace = async () => {
    if (this.#resting !== undefined) return this.#resting;
    const { clock, share, signal } = this.#options;
    const nowMs = clock.elapsedMs();
    const part = share();
    this.#dueMs += ((nowMs - this.#workingSinceMs) * (1 - part)) / part;
    this.#workingSinceMs = nowMs;
    if (this.#dueMs < MIN_REST_MS || signal.aborted) return;
    const restMs = Math.min(this.#dueMs, MAX_REST_MS);
    this.#dueMs = 0;
    this.#resting = this.#sleep(restMs, signal).finally(() => {
      this.#resting = undefined;
      this.#workingSinceMs = clock.elapsedMs();
    });
    return this.#resting;
  };
}

/** Settles after the time, or when the signal is aborted. */
export function sleepFor(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    timer.unref();
    signal.addEventListener('abort', end);
  });
}
