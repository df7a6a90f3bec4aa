// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../block/block-device.ts';
import { cutAtMultiples, walkExtents } from '../block/extent-walk.ts';
import { runPipeline, throwIfAborted } from '../block/pipeline.ts';
import { unaligned } from '../block/unaligned-device.ts';
import { type Extent, endOf, type Range } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';

export interface UpdateOptions {
  readonly signal: AbortSignal;
  /** Called with the bytes of the target that are dealt with; must not throw. */
  readonly onProgress: (doneBytes: number) => void;
  /** Called with each range of the target that was written or zeroed; must not throw. */
  readonly onWritten?: (range: Range) => void;
}

export interface UpdateResult {
  readonly writtenBytes: number;
  readonly zeroedBytes: number;
}

const REQUEST_BYTES: number = 1024 * 1024;
/** Unit in which differences are written: the cluster of most images, and what their dirty bitmaps see. */
const UNIT_BYTES: number = 64 * 1024;
const LANES = 4;
const ZERO_REQUEST_BYTES: number = 256 * 1024 * 1024;

/**
 * Makes `target` equal to `source` by writing only what differs: data is read from both and compared, what is zero in the
 * source is zeroed in the target unless it is a hole there already. A longer target ends in zeroes. Flushes the target;
 * both stay open. After an error or an abort the target is a mixture.
 * @throws ApplianceError ABORTED, and those of the devices
 */
export async function updateDevice(
  source: BlockDevice,
  target: BlockDevice,
  options: UpdateOptions,
): Promise<UpdateResult> {
  invariant(target.sizeBytes >= source.sizeBytes, 'the target is as large as the source');
  const update = new DeviceUpdate(unaligned(source), unaligned(target), options);
  return await update.run();
}

class DeviceUpdate {
  private readonly source: BlockDevice;
  private readonly target: BlockDevice;
  private readonly options: UpdateOptions;
  private writtenBytes = 0;
  private zeroedBytes = 0;
  private doneBytes = 0;

  constructor(source: BlockDevice, target: BlockDevice, options: UpdateOptions) {
    this.source = source;
    this.target = target;
    this.options = options;
  }

  async run(): Promise<UpdateResult> {
    const { signal } = this.options;
    await runPipeline({
      items: this.requests(),
      lanes: LANES,
      signal,
      start: () => {
        const wanted = Buffer.allocUnsafeSlow(REQUEST_BYTES);
        const found = Buffer.allocUnsafeSlow(REQUEST_BYTES);
        return (request) => this.handle(request, { wanted, found });
      },
    });
    invariant(this.doneBytes === this.target.sizeBytes, 'an update accounts for every byte of its target');
    if (this.target.features.canFlush) await this.target.flush();
    return { writtenBytes: this.writtenBytes, zeroedBytes: this.zeroedBytes };
  }

  private async *requests(): AsyncGenerator<Extent, void, undefined> {
    const { sizeBytes } = this.source;
    for await (const extent of walkExtents(this.source, { offset: 0, length: sizeBytes })) {
      if (extent.kind === 'data') yield* cutAtMultiples(extent, REQUEST_BYTES);
      else yield* this.zeroRequests(extent);
    }
    const beyond = this.target.sizeBytes - sizeBytes;
    if (beyond > 0) yield* this.zeroRequests({ offset: sizeBytes, length: beyond });
  }

  /** The parts of a range that do not read as zeroes in the target for sure. */
  private async *zeroRequests(range: Range): AsyncGenerator<Extent, void, undefined> {
    for await (const extent of walkExtents(this.target, range)) {
      if (extent.kind !== 'data') this.advance(extent.length);
      else yield* cutAtMultiples({ ...extent, kind: 'zero' }, ZERO_REQUEST_BYTES);
    }
  }

  private async handle(request: Extent, buffers: { wanted: Buffer; found: Buffer }): Promise<void> {
    if (request.kind === 'data') await this.replace(request, buffers);
    else await this.zero(request, buffers.wanted);
    this.advance(request.length);
  }

  private async replace(request: Range, { wanted, found }: { wanted: Buffer; found: Buffer }): Promise<void> {
    const should = wanted.subarray(0, request.length);
    const is = found.subarray(0, request.length);
    await Promise.all([this.source.read(request.offset, should), this.target.read(request.offset, is)]);
    for (const { offset, length } of differences(request, should, is)) {
      throwIfAborted(this.options.signal);
      const at = offset - request.offset;
      await this.target.write(offset, should.subarray(at, at + length));
      this.options.onWritten?.({ offset, length });
      this.writtenBytes += length;
    }
  }

  private async zero(range: Range, scratch: Buffer): Promise<void> {
    if (this.target.features.canZero) await this.target.zero({ offset: range.offset, length: range.length });
    else {
      for (let offset = range.offset; offset < endOf(range); offset += scratch.length) {
        throwIfAborted(this.options.signal);
        const length = Math.min(scratch.length, endOf(range) - offset);
        await this.target.write(offset, scratch.subarray(0, length).fill(0));
      }
    }
    this.options.onWritten?.(range);
    this.zeroedBytes += range.length;
  }

  private advance(bytes: number): void {
    this.doneBytes += bytes;
    this.options.onProgress(this.doneBytes);
  }
}

/** Runs of units in which two buffers of the same length differ, as ranges of the disk. */
function differences(request: Range, should: Buffer, is: Buffer): Range[] {
  const ranges: { offset: number; length: number }[] = [];
  for (let at = 0; at < should.length; ) {
    const offset = request.offset + at;
    const length = Math.min(UNIT_BYTES - (offset % UNIT_BYTES), should.length - at);
    if (should.compare(is, at, at + length, at, at + length) !== 0) {
      const last = ranges.at(-1);
      if (last !== undefined && last.offset + last.length === offset) last.length += length;
      else ranges.push({ offset, length });
    }
    at += length;
  }
  return ranges;
}
