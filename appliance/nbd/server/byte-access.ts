// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, WriteOptions, ZeroOptions } from '../../block/block-device.ts';
import { alignOutward, type Extent, endOf, intersect, type Range } from '../../core/extents.ts';
import { RangeLock } from './range-lock.ts';

/**
 * A device as the protocol needs it: any offset, any length up to the largest payload, FUA always.
 *
 * Aligned requests go straight through. Of the others, reads are widened, and changes are done by read-modify-write of
 * the blocks at their edges; on devices with blocks larger than one byte all changes of overlapping blocks are therefore
 * done one after the other, so that neighbours in a block never lose each other's bytes.
 */
export class ByteAccess {
  readonly #device: BlockDevice;
  readonly #blockBytes: number;
  readonly #maxBytes: number;
  readonly #lock: RangeLock | undefined;

  constructor(device: BlockDevice) {
    this.#device = device;
    this.#blockBytes = device.limits.minimumBytes;
    this.#maxBytes = device.limits.maximumBytes;
    this.#lock = this.#blockBytes > 1 ? new RangeLock() : undefined;
  }

  isAligned(offset: number, length: number): boolean {
    return this.#blockBytes === 1 || (offset % this.#blockBytes === 0 && length % this.#blockBytes === 0);
  }

  async read(offset: number, into: Buffer): Promise<void> {
    if (this.isAligned(offset, into.length)) return await this.#readSlices(offset, into);
    const wide = alignOutward({ offset, length: into.length }, this.#blockBytes);
    const bounce = Buffer.allocUnsafeSlow(wide.length);
    await this.#readSlices(wide.offset, bounce);
    bounce.copy(into, 0, offset - wide.offset);
  }

  async write(offset: number, data: Buffer, options: WriteOptions): Promise<void> {
    await this.#change({ offset, length: data.length }, options, async (fua) => {
      const { head, middle, tail } = this.#split({ offset, length: data.length });
      const part = (range: Range): Buffer => data.subarray(range.offset - offset, endOf(range) - offset);
      if (head !== undefined) await this.#patch(head, part(head), fua);
      if (middle !== undefined) await this.#writeSlices(middle.offset, part(middle), fua);
      if (tail !== undefined) await this.#patch(tail, part(tail), fua);
    });
  }

  /** With `fastOnly`, the whole blocks come first: when they are refused, nothing was changed. */
  async zero(range: Range, options: ZeroOptions): Promise<void> {
    await this.#change(range, options, async (fua) => {
      const { head, middle, tail } = this.#split(range);
      if (middle !== undefined) await this.#device.zero(middle, { ...options, fua: fua.fua === true });
      if (head !== undefined) await this.#patch(head, Buffer.alloc(head.length), fua);
      if (tail !== undefined) await this.#patch(tail, Buffer.alloc(tail.length), fua);
    });
  }

  /** Only whole blocks are trimmed; the rest keeps its content. */
  async trim(range: Range, options: WriteOptions): Promise<void> {
    await this.#change(range, options, async (fua) => {
      const { middle } = this.#split(range);
      if (middle !== undefined) await this.#device.trim(middle, fua);
    });
  }

  async cache(range: Range): Promise<void> {
    await this.#device.cache(alignOutward(range, this.#blockBytes));
  }

  /** As `BlockDevice.extents`, cut to the range. */
  async extents(range: Range): Promise<Extent[]> {
    const wide = alignOutward(range, this.#blockBytes);
    const extents = await this.#device.extents(wide);
    const cut: Extent[] = [];
    for (const extent of extents) {
      const common = intersect(extent, range);
      if (common !== undefined) cut.push({ ...common, kind: extent.kind });
    }
    return cut;
  }

  /** Runs a change under the lock; FUA is the device's own, or a flush behind it. */
  async #change(range: Range, options: WriteOptions, work: (fua: WriteOptions) => Promise<void>): Promise<void> {
    const isFua = options.fua === true;
    const fua = isFua && this.#device.features.canFua ? { fua: true } : {};
    if (this.#lock === undefined) await work(fua);
    else await this.#lock.run(alignOutward(range, this.#blockBytes), () => work(fua));
    if (isFua && !this.#device.features.canFua) await this.#device.flush();
  }

  /** Splits at block boundaries: part of a block, whole blocks, part of a block. */
  #split(range: Range): { head: Range | undefined; middle: Range | undefined; tail: Range | undefined } {
    const block = this.#blockBytes;
    const end = endOf(range);
    const firstWhole = Math.ceil(range.offset / block) * block;
    const endWhole = end - (end % block);
    const between = (from: number, to: number): Range | undefined =>
      to > from ? { offset: from, length: to - from } : undefined;
    if (firstWhole > endWhole) return { head: range, middle: undefined, tail: undefined };
    return {
      head: between(range.offset, firstWhole),
      middle: between(firstWhole, endWhole),
      tail: between(endWhole, end),
    };
  }

  /** Read-modify-write inside one block. */
  async #patch(range: Range, data: Buffer, options: WriteOptions): Promise<void> {
    const wide = alignOutward(range, this.#blockBytes);
    const block = Buffer.allocUnsafeSlow(wide.length);
    await this.#device.read(wide.offset, block);
    data.copy(block, range.offset - wide.offset);
    await this.#device.write(wide.offset, block, options);
  }

  async #readSlices(offset: number, into: Buffer): Promise<void> {
    for (let at = 0; at < into.length; at += this.#maxBytes) {
      await this.#device.read(offset + at, into.subarray(at, at + this.#maxBytes));
    }
  }

  async #writeSlices(offset: number, data: Buffer, options: WriteOptions): Promise<void> {
    for (let at = 0; at < data.length; at += this.#maxBytes) {
      await this.#device.write(offset + at, data.subarray(at, at + this.#maxBytes), options);
    }
  }
}
