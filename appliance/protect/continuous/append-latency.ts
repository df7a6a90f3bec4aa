// SPDX-License-Identifier: Apache-2.0

export interface LatencyLimits {
  /** A change should be acknowledged within it. */
  readonly limitMs: number;
  /** One change that takes longer is enough. */
  readonly hardLimitMs: number;
  /** So long must more than half of the changes be slower than the limit. */
  readonly windowMs: number;
  /** What a change may take while a disk is copied. */
  readonly seedingLimitMs: number;
}

export const DEFAULT_LATENCY_LIMITS: LatencyLimits = {
  limitMs: 100,
  hardLimitMs: 2_000,
  windowMs: 3_000,
  seedingLimitMs: 10_000,
};

/** Fewer changes in a window say nothing. */
const MIN_SAMPLES = 10;

/**
 * How long changes take from their arrival to their acknowledgement, over all disks of a machine: it is what the guest
 * waits for. Times are elapsed milliseconds of one clock.
 */
export class AppendLatency {
  readonly #limits: LatencyLimits;
  readonly #inFlight = new Map<number, number>();
  #next = 0;
  #windowStartMs: number | undefined;
  #count = 0;
  #slow = 0;
  #worstMs = 0;

  constructor(limits: LatencyLimits = DEFAULT_LATENCY_LIMITS) {
    this.#limits = limits;
  }

  begin(nowMs: number): number {
    this.#next += 1;
    this.#inFlight.set(this.#next, nowMs);
    return this.#next;
  }

  end(entry: number, nowMs: number): void {
    const startedMs = this.#inFlight.get(entry) ?? nowMs;
    this.#inFlight.delete(entry);
    this.add(nowMs - startedMs);
  }

  /** So many changes took so long, together. */
  add(tookMs: number, count: number = 1): void {
    this.#count += count;
    if (tookMs > this.#limits.limitMs) this.#slow += count;
    this.#worstMs = Math.max(this.#worstMs, tookMs);
  }

  /** Why the changes are too slow, or undefined. Asked several times a second. */
  verdict(nowMs: number): string | undefined {
    const { limitMs, hardLimitMs, windowMs } = this.#limits;
    const stuck = this.stuck(nowMs, hardLimitMs);
    if (stuck !== undefined) return stuck;
    this.#windowStartMs ??= nowMs;
    if (nowMs - this.#windowStartMs < windowMs) return undefined;
    const isSlow = this.#count >= MIN_SAMPLES && this.#slow * 2 > this.#count;
    const sentence = `${this.#slow} of ${this.#count} writes took longer than ${limitMs} ms`;
    this.restart(nowMs);
    return isSlow ? sentence : undefined;
  }

  /** The same for the longest wait alone: a copy keeps many long requests in flight, which wait for one another. */
  stuck(nowMs: number, hardLimitMs: number): string | undefined {
    const [oldestMs] = this.#inFlight.values();
    const waitedMs = Math.max(this.#worstMs, oldestMs === undefined ? 0 : nowMs - oldestMs);
    return waitedMs > hardLimitMs ? `a write waited ${Math.round(waitedMs)} ms for the log` : undefined;
  }

  /** Forgets what was before. */
  restart(nowMs: number): void {
    this.#windowStartMs = nowMs;
    this.#count = 0;
    this.#slow = 0;
    this.#worstMs = 0;
  }
}
