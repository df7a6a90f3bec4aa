// SPDX-License-Identifier: Apache-2.0
import { endOf, type Range } from '../core/extents.ts';

interface Held {
  readonly start: number;
  readonly end: number;
  readonly released: Promise<void>;
}

/**
 * Exclusive use of byte ranges among the tasks of this process: overlapping ranges one after the other, others at the
 * same time. A task holds one range at a time, so there is no deadlock.
 */
export class RangeLock {
  private readonly held = new Set<Held>();

  /** Runs `task` while no other task holds a range that overlaps. */
  async run<T>(range: Range, task: () => Promise<T>): Promise<T> {
    const start = range.offset;
    const end = endOf(range);
    for (let other = this.overlapping(start, end); other !== undefined; other = this.overlapping(start, end)) {
      await other.released;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const mine: Held = { start, end, released: promise };
    this.held.add(mine);
    try {
      return await task();
    } finally {
      this.held.delete(mine);
      resolve();
    }
  }

  private overlapping(start: number, end: number): Held | undefined {
    for (const held of this.held) {
      if (held.start < end && start < held.end) return held;
    }
    return undefined;
  }
}
