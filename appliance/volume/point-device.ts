// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, BlockFeatures, BlockLimits } from '../block/block-device.ts';
import { MAX_EXTENTS_PER_QUERY } from '../block/block-device.ts';
import { type ContentKey, ZERO_KEY } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import { appendExtent, type Extent, type Range } from '../core/extents.ts';
import type { ChunkRead, ChunkReader } from '../repository/chunk-reader.ts';
import { MapReader } from './map-reader.ts';

/** One disk of a recovery point. */
export interface PointDiskSource {
  readonly reader: ChunkReader;
  readonly chunkBytes: number;
  readonly root: ContentKey;
  readonly sizeBytes: number;
}

/** A disk as it was at a recovery point: read-only, opened at a cost that depends on neither its size nor its history. */
export class PointDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures = {
    isReadOnly: true,
    canFlush: true,
    canFua: false,
    canTrim: false,
    canZero: false,
    canFastZero: false,
    canCache: true,
    canExtents: true,
    isMultiConnSafe: true,
  };
  readonly #reader: ChunkReader;
  readonly #chunkBytes: number;
  readonly #map: MapReader;
  #isClosed = false;

  constructor(source: PointDiskSource) {
    this.sizeBytes = source.sizeBytes;
    this.limits = { minimumBytes: 1, preferredBytes: source.chunkBytes, maximumBytes: 32 * 1024 * 1024 };
    this.#reader = source.reader;
    this.#chunkBytes = source.chunkBytes;
    this.#map = new MapReader(source.root, source.reader);
  }

  /** Fills `into` at once when all of it is zero or cached; false, with `into` undefined, otherwise. */
  readCached(offset: number, into: Buffer): boolean {
    if (this.#isClosed) return false;
    for (let done = 0; done < into.length; ) {
      const chunk = Math.floor((offset + done) / this.#chunkBytes);
      const at = (offset + done) % this.#chunkBytes;
      const length = Math.min(this.#chunkBytes - at, into.length - done);
      const key = this.#map.cachedChunkKey(chunk);
      if (key === undefined) return false;
      const part = into.subarray(done, done + length);
      if (key === ZERO_KEY) part.fill(0);
      else if (!this.#reader.tryReadChunk(key, at, part)) return false;
      done += length;
    }
    return true;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    this.#throwIfClosed();
    const parts: Promise<void>[] = [];
    const whole: ChunkRead[] = [];
    for (let done = 0; done < into.length; ) {
      const chunk = Math.floor((offset + done) / this.#chunkBytes);
      const at = (offset + done) % this.#chunkBytes;
      const part = into.subarray(done, done + Math.min(this.#chunkBytes - at, into.length - done));
      const key = this.#map.cachedChunkKey(chunk);
      if (key === ZERO_KEY) part.fill(0);
      else if (key !== undefined && this.#reader.takesWhole(part)) whole.push({ key, into: part });
      else parts.push(this.#readPart(chunk, at, part));
      done += part.length;
    }
    if (whole.length > 0) parts.push(this.#reader.readChunks(whole));
    // All parts settle before the buffer is the caller's again.
    for (const result of await Promise.allSettled(parts)) if (result.status === 'rejected') throw result.reason;
  }

  async extents(range: Range): Promise<Extent[]> {
    this.#throwIfClosed();
    const first = Math.floor(range.offset / this.#chunkBytes);
    const end = Math.ceil((range.offset + range.length) / this.#chunkBytes);
    const extents: Extent[] = [];
    for await (const run of this.#map.runs(first, end)) {
      const offset = Math.max(range.offset, run.first * this.#chunkBytes);
      const stop = Math.min(range.offset + range.length, (run.first + run.count) * this.#chunkBytes);
      appendExtent(extents, { offset, length: stop - offset, kind: run.isData ? 'data' : 'hole' });
      if (extents.length === MAX_EXTENTS_PER_QUERY) break;
    }
    return extents;
  }

  async cache(range: Range): Promise<void> {
    this.#throwIfClosed();
    const scratch = Buffer.allocUnsafe(1);
    const first = Math.floor(range.offset / this.#chunkBytes);
    const end = Math.ceil((range.offset + range.length) / this.#chunkBytes);
    for (let chunk = first; chunk < end; chunk++) await this.#readPart(chunk, 0, scratch);
  }

  async flush(): Promise<void> {
    this.#throwIfClosed();
  }

  write(): Promise<void> {
    return Promise.reject(readOnly());
  }

  zero(): Promise<void> {
    return Promise.reject(readOnly());
  }

  trim(): Promise<void> {
    return Promise.reject(readOnly());
  }

  async close(): Promise<void> {
    this.#isClosed = true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #readPart(chunk: number, at: number, into: Buffer): Promise<void> {
    const key = this.#map.cachedChunkKey(chunk) ?? (await this.#map.chunkKey(chunk));
    if (key === ZERO_KEY) into.fill(0);
    else await this.#reader.readChunk(key, at, into);
  }

  #throwIfClosed(): void {
    if (this.#isClosed) throw new ApplianceError('CLOSED', 'the device was closed');
  }
}

function readOnly(): ApplianceError {
  return new ApplianceError('READ_ONLY', 'a recovery point never changes');
}
