// SPDX-License-Identifier: Apache-2.0
import { type Extent, endOf, intersect, type Range } from '../core/extents.ts';
import type { BlockDevice } from './block-device.ts';
import { cutAtMultiples, walkExtents } from './extent-walk.ts';
import { runPipeline } from './pipeline.ts';
import { unaligned } from './unaligned-device.ts';

export interface CompareOptions {
  /** Aborted: rejects with ABORTED once nothing runs any more. */
  readonly signal?: AbortSignal;
  /** Called with the bytes that are dealt with. */
  readonly onProgress?: (doneBytes: number) => void;
}

const REQUEST_BYTES: number = 1024 * 1024;
const LANES = 4;

/**
 * The offset of the first byte in which the devices differ, or undefined. A shorter device counts as followed by zeroes.
 * Areas that both report as zero are not read. Both stay open. Errors: ABORTED, and those of the devices.
 */
export async function compareDevices(
  a: BlockDevice,
  b: BlockDevice,
  options: CompareOptions = {},
): Promise<number | undefined> {
  const left = unaligned(a);
  const right = unaligned(b);
  const requestBytes = Math.min(REQUEST_BYTES, left.limits.maximumBytes, right.limits.maximumBytes);
  let first = Number.POSITIVE_INFINITY;
  let doneBytes = 0;

  async function* requests(): AsyncGenerator<Extent, void, undefined> {
    for await (const extent of pairedExtents(left, right)) {
      // Extents come in order: whatever follows lies behind the first difference.
      if (first < extent.offset) return;
      if (extent.kind === 'data') yield* cutAtMultiples(extent, requestBytes);
      else options.onProgress?.((doneBytes += extent.length));
    }
  }

  await runPipeline({
    items: requests(),
    lanes: LANES,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    start: () => {
      const slabs = [Buffer.allocUnsafeSlow(requestBytes), Buffer.allocUnsafeSlow(requestBytes)] as const;
      return async (request) => {
        const mine = slabs[0].subarray(0, request.length);
        const theirs = slabs[1].subarray(0, request.length);
        await readPadded(left, request.offset, mine);
        await readPadded(right, request.offset, theirs);
        const difference = firstDifference(mine, theirs);
        if (difference !== undefined) first = Math.min(first, request.offset + difference);
        doneBytes += request.length;
        options.onProgress?.(doneBytes);
      };
    },
  });
  return first === Number.POSITIVE_INFINITY ? undefined : first;
}

/** Index of the first byte that differs in two buffers of one length. */
export function firstDifference(a: Buffer, b: Buffer): number | undefined {
  if (a.equals(b)) return undefined;
  let low = 0;
  let high = a.length;
  // The first difference lies in [low, high).
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (a.subarray(low, middle).equals(b.subarray(low, middle))) low = middle;
    else high = middle;
  }
  return low;
}

/** Extents over the longer size: `zero` where both are, `data` elsewhere. */
export async function* pairedExtents(a: BlockDevice, b: BlockDevice): AsyncGenerator<Extent, void, undefined> {
  const sizeBytes = Math.max(a.sizeBytes, b.sizeBytes);
  const whole: Range = { offset: 0, length: sizeBytes };
  const right = paddedExtents(b, whole);
  let theirs = (await right.next()).value;
  for await (const mine of paddedExtents(a, whole)) {
    while (theirs instanceof Object && theirs.offset < endOf(mine)) {
      const common = intersect(mine, theirs);
      if (common !== undefined) {
        yield { ...common, kind: mine.kind === 'data' || theirs.kind === 'data' ? 'data' : 'zero' };
      }
      if (endOf(theirs) > endOf(mine)) break;
      theirs = (await right.next()).value;
    }
  }
}

async function* paddedExtents(device: BlockDevice, whole: Range): AsyncGenerator<Extent, void, undefined> {
  yield* walkExtents(device, { offset: 0, length: device.sizeBytes });
  const rest = whole.length - device.sizeBytes;
  if (rest > 0) yield { offset: device.sizeBytes, length: rest, kind: 'hole' };
}

async function readPadded(device: BlockDevice, offset: number, into: Buffer): Promise<void> {
  const length = Math.max(0, Math.min(into.length, device.sizeBytes - offset));
  if (length > 0) await device.read(offset, into.subarray(0, length));
  into.fill(0, length);
}
