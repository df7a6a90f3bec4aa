// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../../core/clock.ts';
import { CMD } from '../protocol.ts';

/** Upper bounds of the classes of latency, in milliseconds; what is above the last one has a class of its own. */
export const LATENCY_BOUNDS_MS: readonly number[] = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000, 5000];
/** One request of so many has its time taken: reading the clock costs more than everything else that is counted. */
const SAMPLE_EVERY = 16;
const MAX_COMMAND = 15;

/** How long sampled requests of one command took, from the moment in which they could run to their reply. */
export interface LatencyCounts {
  /** As many as there are bounds, and one. */
  readonly classes: readonly number[];
  readonly sumMs: number;
}

/**
 * What all NBD servers of a process have done. Counting is a few additions for a request, without an object: this is on the path
 * of every block that a guest reads or writes.
 */
export class NbdServerTotals {
  /** By command number. */
  readonly requests: Float64Array = new Float64Array(MAX_COMMAND + 1);
  requestCount = 0;
  errors = 0;
  bytesRead = 0;
  bytesWritten = 0;
  readonly #classes: readonly Float64Array[] = Array.from(
    { length: MAX_COMMAND + 1 },
    () => new Float64Array(LATENCY_BOUNDS_MS.length + 1),
  );
  readonly #sumsMs: Float64Array = new Float64Array(MAX_COMMAND + 1);

  /** Counts a request that is about to run. Returns when it began if its time is to be taken, otherwise 0. */
  begin(command: number): number {
    this.requestCount += 1;
    const place = command & MAX_COMMAND;
    this.requests[place] = (this.requests[place] ?? 0) + 1;
    return this.requestCount % SAMPLE_EVERY === 0 ? systemClock.elapsedMs() : 0;
  }

  /** The end of a request whose time is taken. */
  end(command: number, beganMs: number): void {
    const place = command & MAX_COMMAND;
    const tookMs = systemClock.elapsedMs() - beganMs;
    let at = 0;
    while (tookMs > (LATENCY_BOUNDS_MS[at] ?? Number.POSITIVE_INFINITY)) at += 1;
    const classes = this.#classes[place];
    if (classes !== undefined) classes[at] = (classes[at] ?? 0) + 1;
    this.#sumsMs[place] = (this.#sumsMs[place] ?? 0) + tookMs;
  }

  latency(command: number): LatencyCounts {
    const place = command & MAX_COMMAND;
    return { classes: [...(this.#classes[place] ?? [])], sumMs: this.#sumsMs[place] ?? 0 };
  }
}

/** Commands that are told apart in figures. */
export const COUNTED_COMMANDS: Readonly<Record<string, number>> = {
  read: CMD.READ,
  write: CMD.WRITE,
  flush: CMD.FLUSH,
  trim: CMD.TRIM,
  write_zeroes: CMD.WRITE_ZEROES,
  block_status: CMD.BLOCK_STATUS,
};

/** Those of this process. */
export const nbdServerTotals: NbdServerTotals = new NbdServerTotals();
