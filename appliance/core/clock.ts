// SPDX-License-Identifier: Apache-2.0

/** Wall-clock time and elapsed time, as a parameter, so that tests own both. */
export interface Clock {
  /** Milliseconds since the Unix epoch; may jump. For what people read. */
  nowMs(): number;
  /** Milliseconds from an arbitrary origin that never jumps. For durations. */
  elapsedMs(): number;
}

/** The machine's clock. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  elapsedMs: () => performance.now(),
};
