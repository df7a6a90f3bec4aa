// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { alignOutward, type Extent, endOf, intersect, type Range } from '../core/extents.ts';
import type { BlockDevice, BlockFeatures, BlockLimits, WriteOptions, ZeroOptions } from './block-device.ts';
import { checked } from './checked-device.ts';
import { RangeLock } from './range-lock.ts';

/**
 * Access to any byte of a device whose `minimumBytes` is larger than 1: reads fetch whole blocks, writes of parts of a
 * block read it, change it and write it back. Changes that share a block run one after the other, so none is lost.
 * Trimming leaves the cut blocks at its edges as they are. Closing it closes the device.
 *
 * NOT_SUPPORTED when the size of the device is not a multiple of its own `minimumBytes`: its last bytes cannot be
 * reached.
 */
export function unaligned(device: BlockDevice): BlockDevice {
  const { minimumBytes } = device.limits;
  if (minimumBytes === 1) return checked(device);
  if (device.sizeBytes % minimumBytes !== 0) {
    const message = `the size of the device (${device.sizeBytes}) is not a multiple of its block size (${minimumBytes})`;
    throw new ApplianceError('NOT_SUPPORTED', message, { details: { sizeBytes: device.sizeBytes, minimumBytes } });
  }
  return checked(new UnalignedDevice(device));
}

class UnalignedDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits;
  readonly features: BlockFeatures;
  readonly readCached?: (offset: number, into: Buffer) => boolean;
  private readonly device: BlockDevice;
  private readonly unit: number;
  private readonly locks = new RangeLock();

  constructor(device: BlockDevice) {
    this.device = device;
    this.sizeBytes = device.sizeBytes;
    this.limits = { ...device.limits, minimumBytes: 1 };
    // An unaligned zero reads and writes its edges, which is as quick as any small write: the claim stays true.
    this.features = device.features;
    this.unit = device.limits.minimumBytes;
    if (device.readCached !== undefined) {
      this.readCached = (offset, into) =>
        this.isAligned({ offset, length: into.length }) && device.readCached?.(offset, into) === true;
    }
  }

  async read(offset: number, into: Buffer): Promise<void> {
    if (this.isAligned({ offset, length: into.length })) return await this.device.read(offset, into);
    const { head, middle, tail } = this.cut({ offset, length: into.length });
    if (head !== undefined) await this.readEdge(head, partOf(into, offset, head));
    if (middle !== undefined) await this.device.read(middle.offset, partOf(into, offset, middle));
    if (tail !== undefined) await this.readEdge(tail, partOf(into, offset, tail));
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    const range = { offset, length: data.length };
    await this.locks.run(alignOutward(range, this.unit), async () => {
      if (this.isAligned(range)) return await this.device.write(offset, data, options);
      const { head, middle, tail } = this.cut(range);
      if (head !== undefined) await this.changeEdge(head, partOf(data, offset, head), options);
      if (middle !== undefined) await this.device.write(middle.offset, partOf(data, offset, middle), options);
      if (tail !== undefined) await this.changeEdge(tail, partOf(data, offset, tail), options);
    });
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    await this.locks.run(alignOutward(range, this.unit), async () => {
      const { head, middle, tail } = this.cut(range);
      // The middle first: with `fastOnly` it may refuse, and then nothing may have changed.
      if (middle !== undefined) await this.device.zero(middle, options);
      const edgeOptions = options.fua === undefined ? {} : { fua: options.fua };
      for (const edge of [head, tail]) {
        if (edge !== undefined) await this.changeEdge(edge, Buffer.alloc(edge.length), edgeOptions);
      }
    });
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    const { middle } = this.cut(range);
    if (middle !== undefined) await this.locks.run(middle, () => this.device.trim(middle, options));
    else if (options.fua === true && this.features.canFlush) await this.device.flush();
  }

  async flush(): Promise<void> {
    await this.device.flush();
  }

  async cache(range: Range): Promise<void> {
    await this.device.cache(alignOutward(range, this.unit));
  }

  async extents(range: Range): Promise<Extent[]> {
    const extents = await this.device.extents(alignOutward(range, this.unit));
    const clipped: Extent[] = [];
    for (const extent of extents) {
      const common = intersect(extent, range);
      if (common !== undefined) clipped.push({ ...common, kind: extent.kind });
    }
    return clipped;
  }

  async close(): Promise<void> {
    await this.device.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private isAligned(range: Range): boolean {
    return range.offset % this.unit === 0 && range.length % this.unit === 0;
  }

  /** The parts of a range that lie in cut blocks, and the whole blocks between them. */
  private cut(range: Range): { head?: Range; middle?: Range; tail?: Range } {
    const end = endOf(range);
    const middleStart = Math.ceil(range.offset / this.unit) * this.unit;
    const middleEnd = end - (end % this.unit);
    if (middleStart > middleEnd) return { head: range };
    return {
      ...(middleStart > range.offset ? { head: { offset: range.offset, length: middleStart - range.offset } } : {}),
      ...(middleEnd > middleStart ? { middle: { offset: middleStart, length: middleEnd - middleStart } } : {}),
      ...(end > middleEnd ? { tail: { offset: middleEnd, length: end - middleEnd } } : {}),
    };
  }

  private async readEdge(edge: Range, into: Buffer): Promise<void> {
    const { block, start } = await this.readBlock(edge);
    block.copy(into, 0, start, start + edge.length);
  }

  private async changeEdge(edge: Range, data: Buffer, options: WriteOptions): Promise<void> {
    const { block, blockOffset, start } = await this.readBlock(edge);
    data.copy(block, start);
    await this.device.write(blockOffset, block, options);
  }

  private async readBlock(edge: Range): Promise<{ block: Buffer; blockOffset: number; start: number }> {
    const start = edge.offset % this.unit;
    const block = Buffer.allocUnsafe(this.unit);
    await this.device.read(edge.offset - start, block);
    return { block, blockOffset: edge.offset - start, start };
  }
}

/** The bytes of `part` in a buffer that begins at `offset` of the disk. */
function partOf(buffer: Buffer, offset: number, part: Range): Buffer {
  return buffer.subarray(part.offset - offset, part.offset - offset + part.length);
}
