// SPDX-License-Identifier: Apache-2.0
import { randomInt } from 'node:crypto';
import type { BlockDevice } from '../../block/block-device.ts';
import type { BackupSource, SourceDisk } from '../../cbt/source.ts';
import { ApplianceError } from '../../core/errors.ts';
import { alignOutward, type Extent, endOf, normalizeRanges, type Range } from '../../core/extents.ts';
import type { WriteLayer } from '../../volume/write-layer.ts';
import type { CycleWish } from './ports.ts';
import { seedingTarget } from './seeding-target.ts';

/** By disk, sorted and disjoint. */
export type RecordedRanges = ReadonlyMap<string, readonly Range[]>;

export interface ReadChangesInput {
  readonly source: BackupSource;
  /** A disk as it is held; it takes the changes. */
  readonly volume: (disk: string) => BlockDevice;
  /** Read as well, whatever the tracker says of them. */
  readonly recorded: RecordedRanges;
  readonly wish: CycleWish;
  readonly signal: AbortSignal;
}

const PIECE_BYTES: number = 1024 * 1024;
/** What QEMU's bitmaps count in. */
const GRANULARITY_BYTES: number = 64 * 1024;
/** Pieces that the tracker called unchanged and that are compared all the same, after a break. */
const SAMPLE_PIECES = 16;

/**
 * Reads what changed at a source into the volumes; only what differs is written there. Returns the bytes that were looked
 * at. Trackers have lied before: a catch-up uses nothing that its tracker did not keep account of, and looks at a sample
 * of what it calls unchanged. After a break, what is unchanged and reads as zeroes is zero in the volume, too: a disk that
 * was shrunk and grown back has a clean bitmap and an end of zeroes.
 * @throws ApplianceError SOURCE_CHANGED, TRACKER_FAILED; those of source and volumes
 */
export async function readChanges(input: ReadChangesInput): Promise<number> {
  const { source, wish } = input;
  if (wish.kind === 'catch-up') {
    const other = source.disks.find(({ kind }) => kind !== 'incremental');
    if (other !== undefined) throw new ApplianceError('TRACKER_FAILED', `${other.name}: ${other.reason}`);
  }
  let bytes = 0;
  for (const disk of source.disks) bytes += await readDisk(input, disk);
  return bytes;
}

async function readDisk(
  { volume: volumeOf, recorded, wish, signal }: ReadChangesInput,
  disk: SourceDisk,
): Promise<number> {
  const volume = volumeOf(disk.name);
  if (volume.sizeBytes !== disk.device.sizeBytes) {
    throw new ApplianceError('SOURCE_CHANGED', `the size of ${disk.name} changed`);
  }
  const { target, device } = seedingTarget(volume);
  const changes = disk.changes(wish.isAfterBreak ? (range): Promise<void> => device.zero(range) : undefined);
  const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, disk.device.limits.maximumBytes));
  let bytes = 0;
  for await (const extent of withRecorded(changes, recorded.get(disk.name) ?? [])) {
    signal.throwIfAborted();
    bytes += extent.length;
    if (extent.kind !== 'data') {
      await device.zero(extent);
      continue;
    }
    for (let offset = extent.offset; offset < endOf(extent); offset += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, endOf(extent) - offset));
      await disk.device.read(offset, part);
      await device.write(offset, part);
    }
  }
  await target.settle(signal);
  if (wish.kind === 'catch-up') await compareSample(disk, volume);
  return bytes;
}

/** The extents with those parts of the ranges that lie between them; both sorted and disjoint. */
export async function* withRecorded(
  extents: AsyncIterable<Extent>,
  ranges: readonly Range[],
): AsyncGenerator<Extent, void, void> {
  let position = 0;
  let index = 0;
  const upTo = function* (limit: number): Generator<Extent, void, void> {
    for (let range = ranges[index]; range !== undefined && range.offset < limit; range = ranges[index]) {
      const offset = Math.max(range.offset, position);
      const end = Math.min(endOf(range), limit);
      if (offset < end) yield { offset, length: end - offset, kind: 'data' };
      if (endOf(range) > limit) return;
      index += 1;
    }
  };
  for await (const extent of extents) {
    yield* upTo(extent.offset);
    yield extent;
    position = endOf(extent);
  }
  yield* upTo(Number.POSITIVE_INFINITY);
}

/** What the records of a layer cover of a disk, in the unit of bitmaps. */
export function recordedRanges(layer: WriteLayer, disk: number, sizeBytes: number): Range[] {
  const ranges: Range[] = [];
  for (const { offset, length, value } of layer.sliceIterator({ disk, offset: 0, length: sizeBytes })) {
    if (value !== undefined) ranges.push(alignOutward({ offset, length }, GRANULARITY_BYTES, sizeBytes));
  }
  return normalizeRanges(ranges);
}

async function compareSample({ name, device }: SourceDisk, volume: BlockDevice): Promise<void> {
  const pieces = Math.ceil(device.sizeBytes / GRANULARITY_BYTES);
  for (let count = Math.min(SAMPLE_PIECES, pieces); count > 0; count--) {
    const offset = randomInt(pieces) * GRANULARITY_BYTES;
    const length = Math.min(GRANULARITY_BYTES, device.sizeBytes - offset);
    const [theirs, ours] = [Buffer.allocUnsafe(length), Buffer.allocUnsafe(length)];
    await device.read(offset, theirs);
    await volume.read(offset, ours);
    if (theirs.equals(ours)) continue;
    throw new ApplianceError(
      'TRACKER_FAILED',
      `the tracker of ${name} called offset ${offset} unchanged, and it changed`,
    );
  }
}
