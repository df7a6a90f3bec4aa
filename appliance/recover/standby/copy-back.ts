// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../../block/block-device.ts';
import { runPipeline, throwIfAborted } from '../../block/pipeline.ts';
import { unaligned } from '../../block/unaligned-device.ts';
import { ApplianceError } from '../../core/errors.ts';
import { appendRange, endOf, normalizeRanges, type Range } from '../../core/extents.ts';
import { isZeroes, type WriteLayer } from '../../volume/write-layer.ts';

/** What a layer holds that is newer than a place in it. */
export interface LayerChanges {
  readonly data: readonly Range[];
  readonly zeroes: readonly Range[];
  /** The newest place that this accounts for. */
  readonly newest: number;
}

export interface CopiedBytes {
  readonly data: number;
  readonly zeroes: number;
}

const REQUEST_BYTES: number = 1024 * 1024;
const ZERO_REQUEST_BYTES: number = 256 * 1024 * 1024;
const LANES = 4;

/**
 * The ranges of a disk whose newest record lies behind `after` (locations grow with the sequence; 0 is before the first).
 * Made in one turn: what is appended later has a place behind `newest`.
 */
export function changesSince(
  layer: WriteLayer,
  disk: number,
  { sizeBytes, after }: { sizeBytes: number; after: number },
): LayerChanges {
  const data: { offset: number; length: number }[] = [];
  const zeroes: { offset: number; length: number }[] = [];
  let newest = after;
  for (const slice of layer.sliceIterator({ disk, offset: 0, length: sizeBytes })) {
    if (slice.value === undefined) continue;
    const place = Math.abs(slice.value);
    if (place <= after) continue;
    newest = Math.max(newest, place);
    appendRange(isZeroes(slice.value) ? zeroes : data, { offset: slice.offset, length: slice.length });
  }
  return { data, zeroes, newest };
}

/** Copies ranges from one device to another, as they read now, and flushes the target. @throws ApplianceError ABORTED, the devices' */
export async function copyRanges(
  source: BlockDevice,
  target: BlockDevice,
  what: Pick<LayerChanges, 'data' | 'zeroes'> & { readonly signal: AbortSignal },
): Promise<CopiedBytes> {
  const [from, to] = [unaligned(source), unaligned(target)];
  const copied = { data: 0, zeroes: 0 };
  await runPipeline<Range>({
    items: cut(what.data, REQUEST_BYTES),
    lanes: LANES,
    signal: what.signal,
    start: () => {
      const slab = Buffer.allocUnsafeSlow(REQUEST_BYTES);
      return async ({ offset, length }) => {
        const bytes = slab.subarray(0, length);
        await from.read(offset, bytes);
        await to.write(offset, bytes);
        copied.data += length;
      };
    },
  });
  // A place that was zeroed may have been written since: it reads as data then, and the next round brings it.
  for await (const range of cut(what.zeroes, ZERO_REQUEST_BYTES)) {
    throwIfAborted(what.signal);
    await zero(to, range);
    copied.zeroes += range.length;
  }
  if (to.features.canFlush) await to.flush();
  return copied;
}

/** Reads ranges from both and compares. @throws ApplianceError VERIFY_FAILED, ABORTED, the devices' */
export async function verifyRanges(
  source: BlockDevice,
  target: BlockDevice,
  what: { readonly ranges: readonly Range[]; readonly disk: string; readonly signal: AbortSignal },
): Promise<number> {
  const [from, to] = [unaligned(source), unaligned(target)];
  let bytes = 0;
  await runPipeline<Range>({
    items: cut(normalizeRanges(what.ranges), REQUEST_BYTES),
    lanes: LANES,
    signal: what.signal,
    start: () => {
      const [one, other] = [Buffer.allocUnsafeSlow(REQUEST_BYTES), Buffer.allocUnsafeSlow(REQUEST_BYTES)];
      return async ({ offset, length }) => {
        const [should, is] = [one.subarray(0, length), other.subarray(0, length)];
        await Promise.all([from.read(offset, should), to.read(offset, is)]);
        if (!should.equals(is)) {
          throw new ApplianceError('VERIFY_FAILED', `${what.disk} does not hold what was written at ${offset}`, {
            details: { disk: what.disk, offset, length },
          });
        }
        bytes += length;
      };
    },
  });
  return bytes;
}

async function zero(device: BlockDevice, range: Range): Promise<void> {
  if (device.features.canZero) {
    await device.zero(range);
    return;
  }
  const zeroes = Buffer.alloc(Math.min(REQUEST_BYTES, range.length));
  for await (const { offset, length } of cut([range], REQUEST_BYTES)) {
    await device.write(offset, zeroes.subarray(0, length));
  }
}

async function* cut(ranges: readonly Range[], most: number): AsyncGenerator<Range, void, undefined> {
  for (const range of ranges) {
    for (let offset = range.offset; offset < endOf(range); offset += most) {
      yield { offset, length: Math.min(most, endOf(range) - offset) };
    }
  }
}
