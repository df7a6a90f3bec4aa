// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../../catalog/catalog.ts';
import type { SourceAttachment } from '../../cbt/source.ts';
import type { Clock } from '../../core/clock.ts';
import { keyAt, keyFromHex, keyToHex } from '../../core/content-id.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { Extent } from '../../core/extents.ts';
import { newPointId } from '../../core/ids.ts';
import type { ChunkWriter } from '../../repository/chunk-writer.ts';
import { FORMAT_VERSION } from '../../repository/format.ts';
import type { PointAttachment, PointDisk, PointJournal, RecoveryPoint } from '../../repository/manifest.ts';
import type { Repository } from '../../repository/repository.ts';
import { ingest } from '../../volume/ingest.ts';
import { layeredDevice } from '../../volume/logged-device.ts';
import { PointDevice } from '../../volume/point-device.ts';
import { isZeroes, type WriteLayer } from '../../volume/write-layer.ts';
import { since } from '../backup-run.ts';
import type { SessionMoment } from './ports.ts';

export interface FoldInput {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly clock: Clock;
  /** A point of the journal; held by the caller. */
  readonly base: RecoveryPoint & { readonly journal: PointJournal };
  /** The machine's newest point, whatever it is: the new one comes after it. */
  readonly newest: RecoveryPoint;
  /** What the journal has after the base, up to the moment. Durable already. */
  readonly layer: WriteLayer;
  readonly upTo: SessionMoment;
  readonly reason: string;
  /** Files of the machine now; those of the base when they cannot be read. */
  readonly attachments: readonly SourceAttachment[] | undefined;
  /** The hypervisor's position from which what changed since can be found; the base's, unless there is a newer one. */
  readonly tracker: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/**
 * Makes an ordinary recovery point of a moment of the journal: the base with the records up to it. What the records cover
 * is all that is read. The tracker's position of the base stays valid for the new point: everything that differs from
 * it was written after that position.
 *
 * Durable and listed when it settles; after an error no point exists.
 * @throws ApplianceError of layer, repository and catalog; ABORTED
 */
export async function foldJournal(input: FoldInput): Promise<RecoveryPoint> {
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
  const point: RecoveryPoint = {
    format: 'understudy-point',
    version: FORMAT_VERSION,
    id: newPointId(),
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

async function foldDisk(input: FoldInput, writer: ChunkWriter, disk: PointDisk): Promise<PointDisk> {
  const { repository, layer, base, signal, reason } = input;
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
    stats: { changedBytes: result.coveredBytes, readBytes: result.readBytes, ...since(stats, writer.stats) },
  };
}

/** What the records of a disk cover. The layer does not change: it ends at a moment. */
function* coveredExtents(layer: WriteLayer, disk: number, sizeBytes: number): Generator<Extent> {
  for (const { offset, length, value } of layer.sliceIterator({ disk, offset: 0, length: sizeBytes })) {
    if (value !== undefined) yield { offset, length, kind: isZeroes(value) ? 'zero' : 'data' };
  }
}

async function putFiles(writer: ChunkWriter, files: readonly SourceAttachment[]): Promise<PointAttachment[]> {
  const attachments: PointAttachment[] = [];
  for (const { name, bytes } of files) {
    const ids = await writer.putBytes(bytes);
    const chunks = Array.from({ length: ids.length / 32 }, (_, index) => keyToHex(keyAt(ids, index * 32)));
    attachments.push({ name, lengthBytes: bytes.length, chunks });
  }
  return attachments;
}
