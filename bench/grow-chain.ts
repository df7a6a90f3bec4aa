// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../appliance/block/block-device.ts';
import { openFileDevice } from '../appliance/block/file-device.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import type { Extent } from '../appliance/core/extents.ts';
import { runBackup } from '../appliance/protect/backup-run.ts';
import type { RecoveryPoint } from '../appliance/repository/manifest.ts';
import { incrementalSource } from './bitmap-source.ts';
import { randomBytesOf } from './generated-content.ts';
import { newestPoint, type OpenedState } from './opened-state.ts';
import { Seeded } from './statistics.ts';

/**
 * Adds recovery points until there are `points`, each a real incremental run: one chunk somewhere on the disk gets new
 * content, and the chunk of the run before gets its old one back. The last run only puts back, so that the newest point
 * shows the disk as it is.
 */
export async function growChain(state: OpenedState, diskPath: string, points: number): Promise<void> {
  const { repository, catalog } = state;
  await using disk = await openFileDevice(diskPath, 'read-only');
  const random = new Seeded(points);
  let previous = await newestPoint(catalog);
  if (previous === undefined) throw new ApplianceError('POINT_NOT_FOUND', 'a chain grows from a first point');
  let count = (await catalog.points()).length;
  let former: number | undefined;
  for (; count < points; count++) {
    const isLast = count === points - 1;
    const chunk = isLast ? undefined : random.below(Math.floor(disk.sizeBytes / repository.chunkBytes));
    previous = await addPoint(state, previous, { disk, chunk, former, seed: count });
    former = chunk;
  }
}

interface Step {
  readonly disk: BlockDevice;
  /** The chunk that changes, and the one that is as on the disk again. */
  readonly chunk: number | undefined;
  readonly former: number | undefined;
  readonly seed: number;
}

async function addPoint(state: OpenedState, previous: RecoveryPoint, step: Step): Promise<RecoveryPoint> {
  const { repository, catalog } = state;
  const { chunkBytes } = repository;
  const device = withOneChunk(step, chunkBytes);
  const changed = [...new Set([step.chunk, step.former])].filter((chunk) => chunk !== undefined);
  const extents = changed
    .toSorted((a, b) => a - b)
    .map((chunk): Extent => ({ offset: chunk * chunkBytes, length: chunkBytes, kind: 'data' }));
  return await runBackup({
    repository,
    catalog,
    clock: systemClock,
    source: incrementalSource(previous, device, async function* () {
      yield* extents;
    }),
    previous,
    startedAtMs: systemClock.elapsedMs(),
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (sentence) => {
      throw new ApplianceError('INTERNAL', sentence);
    },
  });
}

/** The disk with one chunk replaced. */
function withOneChunk({ disk, chunk, seed }: Step, chunkBytes: number): BlockDevice {
  if (chunk === undefined) return disk;
  const replaced = randomBytesOf(seed, chunkBytes);
  const start = chunk * chunkBytes;
  return {
    sizeBytes: disk.sizeBytes,
    limits: disk.limits,
    features: disk.features,
    read: async (offset, into) => {
      await disk.read(offset, into);
      const from = Math.max(offset, start);
      const end = Math.min(offset + into.length, start + chunkBytes);
      if (from < end) replaced.copy(into, from - offset, from - start, end - start);
    },
    write: (offset, data) => disk.write(offset, data),
    zero: (range) => disk.zero(range),
    trim: (range) => disk.trim(range),
    flush: () => disk.flush(),
    cache: (range) => disk.cache(range),
    extents: (range) => disk.extents(range),
    close: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
