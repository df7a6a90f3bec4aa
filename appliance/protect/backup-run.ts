// SPDX-License-Identifier: Apache-2.0

import { walkExtents } from '../block/extent-walk.ts';
import { type Throttle, throttled } from '../block/throttled-device.ts';
import type { Catalog } from '../catalog/catalog.ts';
import type { BackupSource, SourceDisk } from '../cbt/source.ts';
import type { Clock } from '../core/clock.ts';
import { keyAt, keyFromHex, keyToHex, ZERO_KEY } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import { newPointId } from '../core/ids.ts';
import type { ChunkWriter, ChunkWriterStats } from '../repository/chunk-writer.ts';
import { FORMAT_VERSION } from '../repository/format.ts';
import type { PointAttachment, PointDisk, PointJournal, PointKind, RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { storedSince } from '../repository/stored-since.ts';
import { type IngestResult, ingest } from '../volume/ingest.ts';
import { differingBytes } from './differing-bytes.ts';
import { UnchangedSample } from './sample.ts';
import { UnchangedZeroes } from './unchanged-zeroes.ts';

export interface BackupRunInput {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly clock: Clock;
  readonly source: BackupSource;
  /** The newest point of the machine, which the source's trackers started from. */
  readonly previous: RecoveryPoint | undefined;
  readonly startedAtMs: number;
  /** What the run may read per second; everything when left out. */
  readonly throttle?: Throttle | undefined;
  /** The point's place in the machine's journal, if it has one. */
  readonly journalPlace?: JournalPlace | undefined;
  readonly signal: AbortSignal;
  readonly onProgress: (disk: string, position: number, sizeBytes: number) => void;
  readonly onNotice: (sentence: string) => void;
}

/** Where a point that is taken now stands in the journal of the machine, for the disks that it has. */
export type JournalPlace = (disks: readonly PointDisk[], takenAtMs: number) => PointJournal;

/**
 * One backup: every disk of the source into a map, then the recovery point. Order of what becomes durable: packs, then
 * the manifest (from here on the point exists), then its place in the catalog, then the tracker's new position.
 *
 * The source is not disposed of here. After an error no point exists and the tracker's position is the old one.
 * @throws ApplianceError of source, repository or catalog; INCOMPLETE_BACKUP, ABORTED
 */
export async function runBackup(input: BackupRunInput): Promise<RecoveryPoint> {
  const { repository, source, catalog } = input;
  await using writer = repository.openWriter();
  const disks: PointDisk[] = [];
  for (const disk of source.disks) {
    const { throttle } = input;
    const read = throttle === undefined ? disk : { ...disk, device: throttled(disk.device, throttle) };
    disks.push(await backUpDisk(input, writer, read));
  }
  const attachments: PointAttachment[] = [];
  for (const { name, bytes } of source.attachments) {
    const ids = await writer.putBytes(bytes);
    const chunks = Array.from({ length: ids.length / 32 }, (_, i) => keyToHex(keyAt(ids, i * 32)));
    attachments.push({ name, lengthBytes: bytes.length, chunks });
  }
  await source.assertAlive();
  if (input.signal.aborted) throw new ApplianceError('ABORTED', 'the backup was interrupted');
  await writer.seal();
  const point = describe(input, disks, attachments);
  await repository.manifests.put(point);
  await catalog.putPoint(point);
  await source.commit();
  return point;
}

async function backUpDisk(input: BackupRunInput, writer: ChunkWriter, disk: SourceDisk): Promise<PointDisk> {
  const before = input.previous?.disks.find((other) => other.name === disk.name);
  const stats = { ...writer.stats };
  if (disk.kind !== 'incremental')
    return fullDisk(input, writer, { disk, before, stats, kind: disk.kind, reason: disk.reason });
  if (before === undefined || before.sizeBytes !== disk.device.sizeBytes) {
    throw new ApplianceError('TRACKER_FAILED', `the tracker of ${disk.name} has no base`);
  }
  const { repository, signal } = input;
  const base = keyFromHex(before.root);
  const { sizeBytes } = disk.device;
  const { chunkBytes } = repository;
  const sample = new UnchangedSample(sizeBytes, chunkBytes);
  const zeroes = new UnchangedZeroes(base, repository.reader, { chunkBytes, sizeBytes });
  const result = await ingest({
    source: disk.device,
    changes: sample.watch(disk.changes((range) => zeroes.see(range))),
    base,
    reader: repository.reader,
    writer,
    signal,
    onProgress: ({ position }) => input.onProgress(disk.name, position, sizeBytes),
  });
  const sampled = await sample.firstLie(disk.device, base, { nodes: repository.reader, keys: repository.keys });
  const lie = zeroes.lie ?? sampled;
  if (lie !== undefined) {
    const how = zeroes.lie === undefined ? 'had changed' : 'reads as zeroes now (was the disk smaller in between?)';
    const reason = `the tracker called chunk ${lie} unchanged, but it ${how}: everything was read and compared`;
    input.onNotice(`${disk.name}: ${reason}`);
    return fullDisk(input, writer, { disk, before, stats, kind: 'full-scan', reason });
  }
  return pointDisk(chunkBytes, disk, result, {
    kind: 'incremental',
    reason: disk.reason,
    changedBytes: result.coveredBytes,
    stored: storedSince(stats, writer.stats),
  });
}

interface FullDisk {
  readonly disk: SourceDisk;
  readonly before: PointDisk | undefined;
  readonly stats: ChunkWriterStats;
  readonly kind: PointKind;
  readonly reason: string;
}

async function fullDisk(input: BackupRunInput, writer: ChunkWriter, full: FullDisk): Promise<PointDisk> {
  const { disk, before } = full;
  const { repository } = input;
  const sizeBytes = disk.device.sizeBytes;
  const result = await ingest({
    source: disk.device,
    changes: walkExtents(disk.device, { offset: 0, length: sizeBytes }),
    base: ZERO_KEY,
    reader: repository.reader,
    writer,
    signal: input.signal,
    onProgress: ({ position }) => input.onProgress(disk.name, position, sizeBytes),
  });
  if (result.coveredBytes !== sizeBytes) {
    throw new ApplianceError(
      'INCOMPLETE_BACKUP',
      `${disk.name}: ${result.coveredBytes} of ${sizeBytes} bytes were accounted for`,
    );
  }
  let changedBytes = result.dataChunks * repository.chunkBytes;
  if (before !== undefined) {
    // The new nodes must be readable for the comparison.
    await writer.seal();
    changedBytes = await differingBytes(keyFromHex(before.root), result.root, repository);
  }
  return pointDisk(repository.chunkBytes, disk, result, {
    kind: full.kind,
    reason: full.reason,
    changedBytes,
    stored: storedSince(full.stats, writer.stats),
  });
}

interface DiskOutcome {
  readonly kind: PointKind;
  readonly reason: string;
  readonly changedBytes: number;
  readonly stored: { readonly newChunkBytes: number; readonly storedBytes: number };
}

function pointDisk(chunkBytes: number, disk: SourceDisk, result: IngestResult, outcome: DiskOutcome): PointDisk {
  return {
    name: disk.name,
    sizeBytes: disk.device.sizeBytes,
    root: keyToHex(result.root),
    dataBytes: Math.min(result.dataChunks * chunkBytes, disk.device.sizeBytes),
    identity: disk.identity,
    kind: outcome.kind,
    reason: outcome.reason,
    stats: { changedBytes: outcome.changedBytes, readBytes: result.readBytes, ...outcome.stored },
  };
}

function describe(
  input: BackupRunInput,
  disks: readonly PointDisk[],
  attachments: readonly PointAttachment[],
): RecoveryPoint {
  const { source, previous, clock } = input;
  const { kind, reason } = summarize(disks);
  return {
    format: 'understudy-point',
    version: FORMAT_VERSION,
    id: newPointId(),
    machine: source.machine,
    sequence: (previous?.sequence ?? 0) + 1,
    createdAt: new Date(source.takenAtMs).toISOString(),
    kind,
    reason,
    parent: previous?.id ?? null,
    consistency: source.consistency,
    disks,
    skipped: source.skipped,
    attachments,
    tracker: source.tracker,
    ...(input.journalPlace === undefined ? {} : { journal: input.journalPlace(disks, source.takenAtMs) }),
    durationMs: Math.round(clock.elapsedMs() - input.startedAtMs),
  };
}

/** A point is as good as its worst disk: one scanned disk makes it a full scan, one incremental disk an incremental. */
function summarize(disks: readonly PointDisk[]): { readonly kind: PointKind; readonly reason: string } {
  for (const kind of ['full-scan', 'incremental', 'full'] as const) {
    const disk = disks.find((candidate) => candidate.kind === kind);
    if (disk !== undefined) return { kind, reason: disks.length === 1 ? disk.reason : `${disk.name}: ${disk.reason}` };
  }
  throw new ApplianceError('NO_PROTECTABLE_DISK', 'the source has no disk');
}
