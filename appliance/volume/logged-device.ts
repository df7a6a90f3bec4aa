// SPDX-License-Identifier: Apache-2.0
import type {
  BlockDevice,
  BlockFeatures,
  BlockLimits,
  DataWrite,
  WriteOptions,
  ZeroOptions,
} from '../block/block-device.ts';
import { MAX_EXTENTS_PER_QUERY } from '../block/block-device.ts';
import { checked } from '../block/checked-device.ts';
import { runLanes } from '../block/pipeline.ts';
import { unaligned } from '../block/unaligned-device.ts';
import type { Slice } from '../core/extent-map.ts';
import { appendExtent, type Extent, endOf, type Range } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';
import { isZeroes, type WriteLayer, type WriteSink } from './write-layer.ts';

export interface LayeredDeviceOptions {
  /** What is beneath the log; never written. */
  readonly base: BlockDevice;
  readonly layer: WriteLayer;
  /** Index of the disk in the log. */
  readonly disk: number;
  /** Size of the disk; beyond the base's end it reads as zeroes. Default: the base's size. */
  readonly sizeBytes?: number;
}

export interface LoggedDeviceOptions extends Omit<LayeredDeviceOptions, 'layer'> {
  /** A write log, or what stands for one. */
  readonly log: WriteLayer & WriteSink;
}

/** Reads of a request that run at the same time. */
const READ_LANES = 8;
const MAX_REQUEST_BYTES: number = 32 * 1024 * 1024;

/**
 * A writable disk: a read-only base and, on top, the log's records of one disk. Writes, zeroes and trims are appended to
 * the log and never touch the base; what was trimmed reads as zeroes from then on.
 *
 * A write that has settled is seen by every later read at once, on this and every other device of the same log; it
 * survives the death of the process, and after `flush` (or with FUA) the loss of power. Data from the log is verified on
 * every read of it. Closing the device closes the base, not the log, and does not flush.
 *
 * Errors: those of the base, and NO_SPACE, WRITE_LOG_CORRUPT, IO_FAILED, CLOSED of the log.
 */
export function loggedDevice(options: LoggedDeviceOptions): BlockDevice {
  return checked(new LoggedDevice({ ...options, layer: options.log }, options.log));
}

/**
 * The read-only form: a base, and on top the records of one disk in a layer, for example those up to a moment. Closing the
 * device closes the base, not the layer. Errors: those of the base, and WRITE_LOG_CORRUPT, IO_FAILED of the layer.
 */
export function layeredDevice(options: LayeredDeviceOptions): BlockDevice {
  return checked(new LoggedDevice(options, undefined));
}

class LoggedDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: MAX_REQUEST_BYTES };
  readonly features: BlockFeatures;
  private readonly base: BlockDevice;
  private readonly layer: WriteLayer;
  private readonly sink: WriteSink | undefined;
  private readonly disk: number;

  constructor(options: LayeredDeviceOptions, sink: WriteSink | undefined) {
    const canWrite = sink !== undefined;
    this.features = {
      isReadOnly: !canWrite,
      canFlush: canWrite,
      canFua: canWrite,
      canTrim: canWrite,
      canZero: canWrite,
      canFastZero: canWrite,
      canCache: true,
      canExtents: true,
      isMultiConnSafe: true,
    };
    this.base = unaligned(options.base);
    this.layer = options.layer;
    this.sink = sink;
    this.disk = options.disk;
    this.sizeBytes = options.sizeBytes ?? options.base.sizeBytes;
  }

  /** True when all of it is zero, in the log's cache, or at once at hand in the base. */
  readCached(offset: number, into: Buffer): boolean {
    for (const slice of this.layer.sliceIterator({ disk: this.disk, offset, length: into.length })) {
      const target = into.subarray(slice.offset - offset, endOf(slice) - offset);
      if (!this.copyCached(slice, target)) return false;
    }
    return true;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    const slices = this.layer.slices({ disk: this.disk, offset, length: into.length });
    const [only] = slices;
    if (slices.length === 1 && only !== undefined) return await this.readSlice(only, into);
    await runLanes(slices, READ_LANES, async (slice) => {
      await this.readSlice(slice, into.subarray(slice.offset - offset, endOf(slice) - offset));
    });
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    const log = this.writable();
    await log.append({ disk: this.disk, offset, data });
    if (options.fua === true) await log.flush();
  }

  writeNow(writes: readonly DataWrite[]): boolean {
    return this.sink?.appendNow?.(this.disk, writes) !== undefined;
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    const log = this.writable();
    await log.appendZero({ disk: this.disk, offset: range.offset, length: range.length }, 'zero');
    if (options.fua === true) await log.flush();
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    const log = this.writable();
    await log.appendZero({ disk: this.disk, offset: range.offset, length: range.length }, 'trim');
    if (options.fua === true) await log.flush();
  }

  async flush(): Promise<void> {
    await this.sink?.flush();
  }

  async cache(range: Range): Promise<void> {
    const length = Math.min(endOf(range), this.base.sizeBytes) - range.offset;
    if (length > 0 && this.base.features.canCache) await this.base.cache({ offset: range.offset, length });
  }

  /**
   * The log's records over the base's extents; stops where the base's first answer stops. The records are looked up first:
   * a fold may come in between, and what leaves the index then is in the base that is asked afterwards.
   */
  async extents(range: Range): Promise<Extent[]> {
    const slices = this.firstSlices(range);
    const looked = { offset: range.offset, length: endOf(slices.at(-1) ?? range) - range.offset };
    const beneath = await this.baseExtents(looked);
    const end = endOf(beneath.at(-1) ?? looked);
    const merged: Extent[] = [];
    let index = 0;
    for (const slice of slices) {
      if (merged.length >= MAX_EXTENTS_PER_QUERY - 1 || slice.offset >= end) break;
      const part = { offset: slice.offset, length: Math.min(endOf(slice), end) - slice.offset };
      if (slice.value !== undefined) appendExtent(merged, { ...part, kind: isZeroes(slice.value) ? 'hole' : 'data' });
      else index = appendClipped(merged, beneath, { from: index, range: part });
    }
    return merged;
  }

  async close(): Promise<void> {
    await this.base.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** In one turn, as many as an answer can have. */
  private firstSlices(range: Range): Slice<number>[] {
    const slices: Slice<number>[] = [];
    for (const slice of this.layer.sliceIterator({ disk: this.disk, offset: range.offset, length: range.length })) {
      slices.push(slice);
      if (slices.length === MAX_EXTENTS_PER_QUERY) break;
    }
    return slices;
  }

  private writable(): WriteSink {
    invariant(this.sink !== undefined, 'a read-only device is never written');
    return this.sink;
  }

  private async readSlice(slice: Slice<number>, into: Buffer): Promise<void> {
    if (slice.value === undefined) await this.readBase(slice.offset, into);
    else if (isZeroes(slice.value)) into.fill(0);
    else await this.layer.read(slice.value, slice.valueOffset, into);
  }

  private copyCached(slice: Slice<number>, into: Buffer): boolean {
    if (slice.value !== undefined) {
      if (!isZeroes(slice.value)) return this.layer.readCached(slice.value, slice.valueOffset, into);
      into.fill(0);
    } else {
      const length = Math.max(0, Math.min(into.length, this.base.sizeBytes - slice.offset));
      if (length > 0 && this.base.readCached?.(slice.offset, into.subarray(0, length)) !== true) return false;
      into.fill(0, length);
    }
    return true;
  }

  private async readBase(offset: number, into: Buffer): Promise<void> {
    const length = Math.max(0, Math.min(into.length, this.base.sizeBytes - offset));
    const { maximumBytes } = this.base.limits;
    for (let done = 0; done < length; done += maximumBytes) {
      await this.base.read(offset + done, into.subarray(done, Math.min(done + maximumBytes, length)));
    }
    into.fill(0, length);
  }

  private async baseExtents(range: Range): Promise<Extent[]> {
    const length = Math.min(endOf(range), this.base.sizeBytes) - range.offset;
    if (length <= 0) return [{ offset: range.offset, length: range.length, kind: 'hole' }];
    const extents = [...(await this.base.extents({ offset: range.offset, length }))];
    const covered = endOf(extents.at(-1) ?? range);
    if (covered === this.base.sizeBytes && covered < endOf(range)) {
      appendExtent(extents, { offset: covered, length: endOf(range) - covered, kind: 'hole' });
    }
    return extents;
  }
}

/** Appends what a sorted list says about a range; the result is where the next, later range starts to look. */
function appendClipped(into: Extent[], list: readonly Extent[], where: { from: number; range: Range }): number {
  let index = where.from;
  for (let extent = list[index]; extent !== undefined; extent = list[index]) {
    const start = Math.max(extent.offset, where.range.offset);
    const end = Math.min(endOf(extent), endOf(where.range));
    if (end > start && into.length < MAX_EXTENTS_PER_QUERY) {
      appendExtent(into, { offset: start, length: end - start, kind: extent.kind });
    }
    if (endOf(extent) >= endOf(where.range)) break;
    index += 1;
  }
  return index;
}
