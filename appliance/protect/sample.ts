// SPDX-License-Identifier: Apache-2.0
import { randomInt } from 'node:crypto';
import type { BlockDevice } from '../block/block-device.ts';
import { type ContentKey, keyAt, ZERO_KEY } from '../core/content-id.ts';
import { type Extent, endOf } from '../core/extents.ts';
import { contentId, type RepositoryKeys } from '../repository/keys.ts';
import { type CachedNodeSource, MapReader } from '../volume/map-reader.ts';

/** Chunks that a tracker called unchanged and that are read and compared all the same, at every incremental run. */
export const DEFAULT_SAMPLE_CHUNKS = 16;

/**
 * Trackers have lied before. A sample is chosen at random before the run; what the tracker reports as changed drops out
 * of it; the rest must still have the ids that the base has.
 */
export class UnchangedSample {
  readonly #chunkBytes: number;
  readonly #sizeBytes: number;
  #chunks: number[];

  constructor(sizeBytes: number, chunkBytes: number, count: number = DEFAULT_SAMPLE_CHUNKS) {
    this.#chunkBytes = chunkBytes;
    this.#sizeBytes = sizeBytes;
    const chunks = Math.ceil(sizeBytes / chunkBytes);
    this.#chunks = [...new Set(Array.from({ length: Math.min(count, chunks) }, () => randomInt(chunks)))];
  }

  /** Passes the changes through, dropping what they touch from the sample. */
  async *watch(changes: AsyncIterable<Extent>): AsyncGenerator<Extent, void, void> {
    for await (const extent of changes) {
      this.#chunks = this.#chunks.filter((chunk) => !this.#touches(extent, chunk));
      yield extent;
    }
  }

  /** The first chunk of the sample that differs from the base, or undefined when all are as the tracker said. */
  async firstLie(
    device: BlockDevice,
    base: ContentKey,
    by: { readonly nodes: CachedNodeSource; readonly keys: RepositoryKeys },
  ): Promise<number | undefined> {
    const map = new MapReader(base, by.nodes);
    const plain = Buffer.alloc(this.#chunkBytes);
    for (const chunk of this.#chunks) {
      const offset = chunk * this.#chunkBytes;
      const length = Math.min(this.#chunkBytes, this.#sizeBytes - offset);
      plain.fill(0, length);
      await device.read(offset, plain.subarray(0, length));
      const isZero = plain.every((byte) => byte === 0);
      const actual = isZero ? ZERO_KEY : keyAt(contentId(by.keys.chunkId, plain));
      if (actual !== (await map.chunkKey(chunk))) return chunk;
    }
    return undefined;
  }

  #touches(extent: Extent, chunk: number): boolean {
    return extent.offset < (chunk + 1) * this.#chunkBytes && endOf(extent) > chunk * this.#chunkBytes;
  }
}
