// SPDX-License-Identifier: Apache-2.0
import { endOf, type Range } from '../../core/extents.ts';

interface Holder {
  readonly range: Range;
  readonly released: Promise<void>;
}

/** Makes changes of overlapping ranges happen one after the other, in the order of asking. */
export class RangeLock {
  readonly #holders = new Set<Holder>();

  /** Waits for all earlier holders that share a byte with `range`; runs `work` alone on it. */
  async run(range: Range, work: () => Promise<void>): Promise<void> {
    const earlier: Promise<void>[] = [];
    for (const holder of this.#holders) {
      if (holder.range.offset < endOf(range) && range.offset < endOf(holder.range)) earlier.push(holder.released);
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const holder: Holder = { range, released: promise };
    this.#holders.add(holder);
    try {
      if (earlier.length > 0) await Promise.all(earlier);
      await work();
    } finally {
      this.#holders.delete(holder);
      resolve();
    }
  }
}
