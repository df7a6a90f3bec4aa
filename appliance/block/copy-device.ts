// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { Extent, Range } from '../core/extents.ts';
import { invariant } from '../core/invariant.ts';
import type { BlockDevice } from './block-device.ts';
import { cutAtMultiples, walkExtents } from './extent-walk.ts';
import { runPipeline, throwIfAborted } from './pipeline.ts';
import { unaligned } from './unaligned-device.ts';

export interface CopyProgress {
  /** Bytes of the source that are dealt with: copied, zeroed or known to be zero already. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Of these, bytes that were read and written. */
  readonly copiedBytes: number;
}

export interface CopyOptions {
  /** Aborted: no further request starts, and the promise rejects with ABORTED once none runs any more. */
  readonly signal?: AbortSignal;
  /** Called after each request; must not throw. */
  readonly onProgress?: (progress: CopyProgress) => void;
  /** The target reads as zeroes everywhere (it was just created): areas that are zero in the source are skipped. */
  readonly isTargetZero?: boolean;
  /** Upper bound of the buffers. */
  readonly maxBytesInFlight?: number;
  /** Size of one read and write; a power of two. */
  readonly requestBytes?: number;
}

export interface CopyResult {
  readonly copiedBytes: number;
  /** Zeroed in the target. */
  readonly zeroedBytes: number;
  /** Zero in the source and left alone (`isTargetZero`). */
  readonly skippedBytes: number;
}

const DEFAULT_REQUEST_BYTES: number = 1024 * 1024;
/** Enough that neither side waits for the other when threads get the processor late. */
const DEFAULT_BYTES_IN_FLIGHT: number = 16 * 1024 * 1024;
/** One zero request of the target; large ones would hold up progress and abort. */
const ZERO_REQUEST_BYTES: number = 1024 * 1024 * 1024;

/**
 * Makes the first `source.sizeBytes` bytes of `target` equal to `source`: data is copied, what is zero in the source is
 * zeroed in the target unless it is known to be zero, and the target is flushed. What lies in the target beyond the
 * source's size stays as it is. Both devices stay open.
 *
 * The memory is `maxBytesInFlight`; requests run at the same time and finish in any order. After an error or an abort the
 * target is undefined; the promise settles when nothing of the copy runs any more. Every byte of the source is accounted
 * for before it resolves.
 *
 * Errors: TARGET_TOO_SMALL, READ_ONLY, ABORTED, and those of the devices.
 */
export async function copyDevice(
  source: BlockDevice,
  target: BlockDevice,
  options: CopyOptions = {},
): Promise<CopyResult> {
  if (target.sizeBytes < source.sizeBytes) {
    const details = { sourceBytes: source.sizeBytes, targetBytes: target.sizeBytes };
    const message = `the target holds ${target.sizeBytes} bytes, the disk has ${source.sizeBytes}`;
    throw new ApplianceError('TARGET_TOO_SMALL', message, { details });
  }
  if (target.features.isReadOnly) throw new ApplianceError('READ_ONLY', 'the target of a copy is read-only');
  const copy = new DeviceCopy(unaligned(source), unaligned(target), options);
  return await copy.run();
}

class DeviceCopy {
  private readonly source: BlockDevice;
  private readonly target: BlockDevice;
  private readonly options: CopyOptions;
  private readonly requestBytes: number;
  private copiedBytes = 0;
  private zeroedBytes = 0;
  private skippedBytes = 0;

  constructor(source: BlockDevice, target: BlockDevice, options: CopyOptions) {
    this.source = source;
    this.target = target;
    this.options = options;
    const wanted = options.requestBytes ?? DEFAULT_REQUEST_BYTES;
    this.requestBytes = Math.min(wanted, source.limits.maximumBytes, target.limits.maximumBytes);
  }

  async run(): Promise<CopyResult> {
    const budget = this.options.maxBytesInFlight ?? DEFAULT_BYTES_IN_FLIGHT;
    const lanes = Math.max(1, Math.floor(budget / this.requestBytes));
    await runPipeline({
      items: this.requests(),
      lanes,
      ...(this.options.signal === undefined ? {} : { signal: this.options.signal }),
      start: () => {
        const slab = Buffer.from(new SharedArrayBuffer(this.requestBytes));
        return (request) => this.transfer(request, slab);
      },
    });
    const total = this.copiedBytes + this.zeroedBytes + this.skippedBytes;
    invariant(total === this.source.sizeBytes, 'a copy accounts for every byte of its source');
    if (this.target.features.canFlush) await this.target.flush();
    return { copiedBytes: this.copiedBytes, zeroedBytes: this.zeroedBytes, skippedBytes: this.skippedBytes };
  }

  private async *requests(): AsyncGenerator<Extent, void, undefined> {
    for await (const extent of walkExtents(this.source, { offset: 0, length: this.source.sizeBytes })) {
      const isFree = extent.kind !== 'data' && this.options.isTargetZero === true;
      if (isFree) {
        this.skippedBytes += extent.length;
        this.report();
      } else if (extent.kind === 'data' || !this.target.features.canZero) {
        yield* cutAtMultiples(extent, this.requestBytes);
      } else yield* cutAtMultiples(extent, ZERO_REQUEST_BYTES);
    }
  }

  private async transfer(request: Extent, slab: Buffer): Promise<void> {
    if (request.kind === 'data') {
      const data = slab.subarray(0, request.length);
      await this.source.read(request.offset, data);
      throwIfAborted(this.options.signal);
      await this.target.write(request.offset, data);
      this.copiedBytes += request.length;
    } else {
      await this.zero(request, slab);
      this.zeroedBytes += request.length;
    }
    this.report();
  }

  private async zero(range: Range, slab: Buffer): Promise<void> {
    if (this.target.features.canZero) await this.target.zero({ offset: range.offset, length: range.length });
    else await this.target.write(range.offset, slab.subarray(0, range.length).fill(0));
  }

  private report(): void {
    this.options.onProgress?.({
      doneBytes: this.copiedBytes + this.zeroedBytes + this.skippedBytes,
      totalBytes: this.source.sizeBytes,
      copiedBytes: this.copiedBytes,
    });
  }
}
