// SPDX-License-Identifier: Apache-2.0
import { type Extent, endOf, type Range } from '../core/extents.ts';
import type { BlockDevice } from './block-device.ts';

/**
 * All extents of a range, in order, asked for as they are consumed. A device may stop early in each answer; neighbours
 * from different answers are not merged.
 */
export async function* walkExtents(device: BlockDevice, range: Range): AsyncGenerator<Extent, void, undefined> {
  let offset = range.offset;
  while (offset < endOf(range)) {
    for (const extent of await device.extents({ offset, length: endOf(range) - offset })) {
      yield extent;
      offset = endOf(extent);
    }
  }
}

/** The parts of an extent between multiples of `unitBytes`, so that requests stay on one grid. */
export function* cutAtMultiples(extent: Extent, unitBytes: number): Generator<Extent, void, undefined> {
  let { offset } = extent;
  while (offset < endOf(extent)) {
    const next = Math.min((Math.floor(offset / unitBytes) + 1) * unitBytes, endOf(extent));
    yield { offset, length: next - offset, kind: extent.kind };
    offset = next;
  }
}
