// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, ZERO_KEY } from '../core/content-id.ts';
import { endOf, type Range } from '../core/extents.ts';
import { type CachedNodeSource, MapReader } from '../volume/map-reader.ts';

/**
 * Compares what a tracker calls unchanged and the disk shows as zeroes with the base, which costs no reading of the disk: a
 * chunk that is all of that must be zero in the base. A disk that was shrunk and grown back between two backups has the
 * same size, an end of zeroes, and a bitmap that calls the end clean.
 */
export class UnchangedZeroes {
  readonly #chunkBytes: number;
  readonly #sizeBytes: number;
  readonly #base: MapReader;
  #lie: number | undefined;

  constructor(
    base: ContentKey,
    nodes: CachedNodeSource,
    disk: { readonly chunkBytes: number; readonly sizeBytes: number },
  ) {
    this.#chunkBytes = disk.chunkBytes;
    this.#sizeBytes = disk.sizeBytes;
    this.#base = new MapReader(base, nodes);
  }

  /** The first chunk that was found to differ from the base. */
  get lie(): number | undefined {
    return this.#lie;
  }

  /** Errors as `MapReader.runs`. */
  async see(range: Range): Promise<void> {
    if (this.#lie !== undefined || this.#base.root === ZERO_KEY) return;
    const first = Math.ceil(range.offset / this.#chunkBytes);
    const isToEnd = endOf(range) >= this.#sizeBytes;
    const end = isToEnd ? Math.ceil(this.#sizeBytes / this.#chunkBytes) : Math.floor(endOf(range) / this.#chunkBytes);
    if (first >= end) return;
    for await (const run of this.#base.runs(first, end)) {
      if (!run.isData) continue;
      this.#lie = run.first;
      return;
    }
  }
}
