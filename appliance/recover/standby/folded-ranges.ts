// SPDX-License-Identifier: Apache-2.0
import { keyFromHex } from '../../core/content-id.ts';
import type { Range } from '../../core/extents.ts';
import { invariant } from '../../core/invariant.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { Repository } from '../../repository/repository.ts';
import { diffMaps } from '../../volume/map-diff.ts';

/**
 * Where the disks of one point differ from those of another, by disk, in whole chunks. What both share is not read.
 * @throws ApplianceError CHUNK_MISSING, OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, IO_FAILED
 */
export async function foldedRanges(
  { reader, chunkBytes }: Repository,
  before: RecoveryPoint,
  after: RecoveryPoint,
): Promise<Map<string, Range[]>> {
  const ranges = new Map<string, Range[]>();
  for (const disk of after.disks) {
    const old = before.disks.find(({ name }) => name === disk.name);
    invariant(old !== undefined, 'the points of a booted machine have the disks that it was booted with');
    const differing: Range[] = [];
    for await (const { first, count } of diffMaps(keyFromHex(old.root), keyFromHex(disk.root), reader)) {
      const offset = first * chunkBytes;
      differing.push({ offset, length: Math.min(count * chunkBytes, disk.sizeBytes - offset) });
    }
    ranges.set(disk.name, differing);
  }
  return ranges;
}
