// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../core/clock.ts';
import { keyAt, keyFromHex, keyToHex } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import { newPointId, type PointId } from '../core/ids.ts';
import type { ChunkWriter } from '../repository/chunk-writer.ts';
import { FORMAT_VERSION } from '../repository/format.ts';
import type { DiskStats, PointAttachment, PointDisk, PointJournal, RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { storedSince } from '../repository/stored-since.ts';
import { ingest } from './ingest.ts';
import type { Moment } from './journal-event.ts';
import { layeredDevice } from './logged-device.ts';
import { PointDevice } from './point-device.ts';
import { isZeroes, type WriteLayer } from './write-layer.ts';

/** A recovery point that has a place in a journal. */
export type JournalPoint = RecoveryPoint & { readonly journal: PointJournal };

/** A file that belongs to a point. */
export interface PointFile {
  readonly name: string;
  readonly bytes: Buffer;
}

export interface FoldInput {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly clock: Clock;
  /** A point of the journal; held by the caller. */
  readonly base: JournalPoint;
  /** The machine's newest point, whatever it is: the new one comes after it. */
  readonly newest: Pick<RecoveryPoint, 'machine' | 'sequence'>;
  /** What the journal has after the base, up to the moment. Durable already. Undefined: the state is that of the base. */
  readonly layer: WriteLayer | undefined;
  /** The place that the point has in the journal. */
  readonly upTo: Moment;
  readonly reason: string;
  /** Files of the machine now; those of the base when they cannot be read. */
  readonly attachments: readonly PointFile[] | undefined;
  /** The hypervisor's position from which what changed since can be found; the base's, unless there is a newer one. */
  readonly tracker: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  /** Default: a new one. */
  readonly id?: PointId;
}

/**
 * Makes an ordinary recovery point of a moment of the journal: the base with the records up to it. What the records cover
 * is all that is read. The tracker's position of the base stays valid for the new point: everything that differs from
 * it was written after that position.
 *
 * Durable and listed when it settles; after an error no point exists.
 * @throws ApplianceError of layer, repository and catalog; ABORTED
 */
export async function foldJournal(input: FoldInput): Promise<JournalPoint> {
  const { repository, catalog, clock, signal } = input;
  const startedMs = clock.elapsedMs();
  await using writer = repository.openWriter();
  const disks: PointDisk[] = [];
  for (const disk of input.base.disks) disks.push(await foldDisk(input, writer, disk));
  const attachments =
    input.attachments === undefined ? input.base.attachments : await putFiles(writer, input.attachments);
  if (signal.aborted) throw new ApplianceError('ABORTED', 'folding was interrupted');
  await writer.seal();
  const { base, newest, upTo } = input;
  const point: JournalPoint = {
    format: 'understudy-point',
    version: FORMAT_VERSION,
    id: input.id ?? newPointId(),
    machine: newest.machine,
    sequence: newest.sequence + 1,
    createdAt: new Date(Math.floor(upTo.timeUs / 1000)).toISOString(),
    kind: 'incremental',
    reason: input.reason,
    parent: base.id,
    consistency: 'crash-consistent',
    disks,
    skipped: base.skipped,
    attachments,
    tracker: input.tracker,
    journal: { ...base.journal, sequence: upTo.sequence, timeUs: upTo.timeUs },
    durationMs: Math.round(clock.elapsedMs() - startedMs),
  };
  await repository.manifests.put(point);
  await catalog.putPoint(point);
  return point;
}

const NOTHING: DiskStats = { changedBytes: 0, readBytes: 0, newChunkBytes: 0, storedBytes: 0 };

async function foldDisk(input: FoldInput, writer: ChunkWriter, disk: PointDisk): Promise<PointDisk> {
  const { repository, layer, base, signal, reason } = input;
  if (layer === undefined) return { ...disk, kind: 'incremental', reason, stats: NOTHING };
  const { chunkBytes, reader } = repository;
  const root = keyFromHex(disk.root);
  const number = base.journal.disks[disk.name];
  if (number === undefined) throw new ApplianceError('INTERNAL', `${disk.name} has no number in the journal`);
  await using source = layeredDevice({
    base: new PointDevice({ reader, chunkBytes, root, sizeBytes: disk.sizeBytes }),
    layer,
    disk: number,
  });
  const stats = { ...writer.stats };
  const changes = coveredExtents(layer, number, disk.sizeBytes);
  const result = await ingest({ source, changes, base: root, reader, writer, signal });
  return {
    ...disk,
    root: keyToHex(result.root),
    dataBytes: Math.min(result.dataChunks * chunkBytes, disk.sizeBytes),
    kind: 'incremental',
    reason,
    stats: { changedBytes: result.coveredBytes, readBytes: result.readBytes, ...storedSince(stats, writer.stats) },
  };
}

/** What the records of a disk cover. The layer does not change: it ends at a moment. */
function* coveredExtents(layer: WriteLayer, disk: number, sizeBytes: number): Generator<Extent> {
  for (const { offset, length, value } of layer.sliceIterator({ disk, offset: 0, length: sizeBytes })) {
    if (value !== undefined) yield { offset, length, kind: isZeroes(value) ? 'zero' : 'data' };
  }
}

async function putFiles(writer: ChunkWriter, files: readonly PointFile[]): Promise<PointAttachment[]> {
  const attachments: PointAttachment[] = [];
  for (const { name, bytes } of files) {
    const ids = await writer.putBytes(bytes);
    const chunks = Array.from({ length: ids.length / 32 }, (_, index) => keyToHex(keyAt(ids, index * 32)));
    attachments.push({ name, lengthBytes: bytes.length, chunks });
  }
  return attachments;
}

/** True when a layer covers anything of the disks of a base. */
export function hasChanges(layer: WriteLayer, { disks, journal }: JournalPoint): boolean {
  return disks.some(({ name, sizeBytes }) => {
    for (const { value } of layer.sliceIterator({ disk: journal.disks[name] ?? 0, offset: 0, length: sizeBytes })) {
      if (value !== undefined) return true;
    }
    return false;
  });
}

export function isOfJournal(point: RecoveryPoint): point is JournalPoint {
  return point.journal !== undefined;
}
