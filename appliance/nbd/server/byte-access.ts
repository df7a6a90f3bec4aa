// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice, DataWrite, WriteOptions, ZeroOptions } from '../../block/block-device.ts';
import { unaligned } from '../../block/unaligned-device.ts';
import type { Extent, Range } from '../../core/extents.ts';

/**
 * A device as the protocol needs it: any offset, any length up to the largest payload, FUA always. Parts of blocks are
 * read, changed and written back, one change of a block after the other (`unaligned`); requests above the maximum of the
 * device go to it in slices; FUA is the device's own, or a flush behind the change. Throws NOT_SUPPORTED for a device
 * whose size is not a multiple of its blocks.
 */
export class ByteAccess {
  readonly #device: BlockDevice;
  readonly #blockBytes: number;
  readonly #maxBytes: number;
  readonly #canFua: boolean;

  constructor(device: BlockDevice) {
    this.#device = unaligned(device);
    this.#blockBytes = device.limits.minimumBytes;
    this.#maxBytes = device.limits.maximumBytes;
    this.#canFua = device.features.canFua;
  }

  isAligned(offset: number, length: number): boolean {
    return this.#blockBytes === 1 || (offset % this.#blockBytes === 0 && length % this.#blockBytes === 0);
  }

  async read(offset: number, into: Buffer): Promise<void> {
    for (let at = 0; at < into.length; at += this.#maxBytes) {
      await this.#device.read(offset + at, into.subarray(at, at + this.#maxBytes));
    }
  }

  /** As `BlockDevice.writeNow`; parts of blocks and long writes are left to `write`. */
  writeNow(writes: readonly DataWrite[]): boolean {
    return this.#blockBytes === 1 && this.#device.writeNow?.(writes) === true;
  }

  async write(offset: number, data: Buffer, options: WriteOptions): Promise<void> {
    await this.#change(options, async (fua) => {
      for (let at = 0; at < data.length; at += this.#maxBytes) {
        await this.#device.write(offset + at, data.subarray(at, at + this.#maxBytes), { fua });
      }
    });
  }

  async zero(range: Range, options: ZeroOptions): Promise<void> {
    await this.#change(options, (fua) => this.#device.zero(range, { ...options, fua }));
  }

  async trim(range: Range, options: WriteOptions): Promise<void> {
    await this.#change(options, (fua) => this.#device.trim(range, { fua }));
  }

  async flush(): Promise<void> {
    await this.#device.flush();
  }

  async cache(range: Range): Promise<void> {
    await this.#device.cache(range);
  }

  /** As `BlockDevice.extents`. */
  async extents(range: Range): Promise<Extent[]> {
    return await this.#device.extents(range);
  }

  async #change(options: WriteOptions, work: (fua: boolean) => Promise<void>): Promise<void> {
    const isFua = options.fua === true;
    await work(isFua && this.#canFua);
    if (isFua && !this.#canFua) await this.#device.flush();
  }
}
