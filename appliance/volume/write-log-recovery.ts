// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { syncDirectory } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, storageError } from '../core/file-system.ts';
import {
  corrupt,
  type FoundRecord,
  openSegment,
  type ScanEnd,
  type Segment,
  scanSegment,
  segmentNumber,
  wasDurable,
} from './write-log-segment.ts';

/** The last record before the first segment that is looked for, in a log whose older segments lie elsewhere. */
export interface LogStart {
  readonly logId: Buffer;
  readonly machineId: Buffer;
  /** Of the last segment before. */
  readonly segmentNumber: number;
  readonly sequence: number;
  readonly timeUs: number;
}

export interface RecoveryOptions {
  /** Default: the log starts with segment 1 and record 1. */
  readonly after?: LogStart | undefined;
  readonly directory: string;
  readonly fileSystem: FileSystem;
  readonly key: Buffer | null;
  /** Called for each intact record, in order. */
  readonly onRecord: (record: FoundRecord, segment: Segment) => void;
}

export interface Recovered {
  /** In order; open. */
  readonly segments: readonly Segment[];
  readonly lastSequence: number;
  readonly lastTimeUs: number;
  /** Bytes of all segments. */
  readonly logBytes: number;
  /** Bytes of a torn tail that were cut off. */
  readonly tornBytes: number;
}

/**
 * Brings a log directory into order after whatever happened to its last user: every record is verified; a torn tail of
 * the last segment (records that were never on stable storage) is cut off. Damage anywhere else is WRITE_LOG_CORRUPT and
 * changes nothing. Other errors: REPOSITORY_KEY, REPOSITORY_FORMAT, NO_SPACE, IO_FAILED.
 */
export async function recoverWriteLog(options: RecoveryOptions): Promise<Recovered> {
  const segments: Segment[] = [];
  try {
    return await recoverInto(segments, options);
  } catch (error) {
    for (const segment of segments) await segment.file.close();
    throw error;
  }
}

async function recoverInto(segments: Segment[], options: RecoveryOptions): Promise<Recovered> {
  const names = await segmentNames(options);
  const { after } = options;
  const firstNumber = firstNumberOf(names, options);
  let lastSequence = after?.sequence ?? 0;
  let lastTimeUs = after?.timeUs ?? 0;
  let logBytes = 0;
  let tornBytes = 0;
  for (const [index, name] of names.entries()) {
    const path = join(options.directory, name);
    const isLast = index === names.length - 1;
    const segment = await openSegment(options.fileSystem, path, options.key);
    if (segment === undefined) {
      if (!isLast) throw corrupt(path, 0, 'the segment is cut off, and others follow');
      await removeUnborn(options, path);
      break;
    }
    segments.push(segment);
    checkOrder(segment, after ?? segments[0]?.header ?? segment.header, {
      number: firstNumber + index,
      baseSequence: lastSequence + 1,
    });
    const end = await scanSegment(segment, (record) => options.onRecord(record, segment));
    if (end.endPosition < end.fileBytes) {
      tornBytes = await cutTornTail(segment, end, isLast);
    }
    lastSequence = end.nextSequence - 1;
    lastTimeUs = Math.max(lastTimeUs, end.lastTimeUs);
    logBytes += end.endPosition;
  }
  return { segments, lastSequence, lastTimeUs, logBytes, tornBytes };
}

/** File names of the segments, numbered without a gap. */
async function segmentNames(options: RecoveryOptions): Promise<string[]> {
  const names: string[] = [];
  try {
    for (const entry of await options.fileSystem.readDirectory(options.directory)) {
      if (entry.kind === 'file' && segmentNumber(entry.name) !== undefined) names.push(entry.name);
    }
  } catch (error) {
    throw storageError(error, 'list', options.directory);
  }
  const firstNumber = firstNumberOf(names, options);
  for (const [index, name] of names.entries()) {
    if (segmentNumber(name) !== firstNumber + index) {
      const message = `segment ${firstNumber + index} of the write log in ${options.directory} is missing`;
      throw new ApplianceError('WRITE_LOG_CORRUPT', message, { details: { path: options.directory, found: name } });
    }
  }
  return names;
}

/** Behind segments that lie elsewhere, empty ones may be missing: sequences tell whether anything is lost. */
function firstNumberOf(names: readonly string[], { after }: RecoveryOptions): number {
  const found = segmentNumber(names[0] ?? '') ?? 0;
  return after !== undefined && found > after.segmentNumber ? found : (after?.segmentNumber ?? 0) + 1;
}

function checkOrder(
  segment: Segment,
  log: { readonly logId: Buffer; readonly machineId: Buffer },
  expected: { number: number; baseSequence: number },
): void {
  const { header, path } = segment;
  const isOfThisLog = header.logId.equals(log.logId) && header.machineId.equals(log.machineId);
  if (!isOfThisLog) throw corrupt(path, 0, 'the segment belongs to another log');
  if (header.number !== expected.number) throw corrupt(path, 0, `the segment says that it is number ${header.number}`);
  if (header.baseSequence !== expected.baseSequence) {
    throw corrupt(path, 0, `starts with record ${header.baseSequence} where ${expected.baseSequence} belongs`);
  }
}

/** A crash came between the creation of the file and the sync of its header: it never held a record. */
async function removeUnborn(options: RecoveryOptions, path: string): Promise<void> {
  try {
    await options.fileSystem.unlink(path);
  } catch (error) {
    throw storageError(error, 'remove', path);
  }
  await syncDirectory(options.directory, options.fileSystem);
}

/**
 * Only the last segment can have a torn tail: the one before it was on stable storage before it was created. Cut and
 * synced before anything is appended elsewhere, so that a later start finds whole segments only.
 */
async function cutTornTail(segment: Segment, end: ScanEnd, isLast: boolean): Promise<number> {
  const { path, file } = segment;
  if (!isLast) throw corrupt(path, end.endPosition, `record ${end.nextSequence} is damaged, and segments follow`);
  if (await wasDurable(segment, end)) {
    throw corrupt(path, end.endPosition, `record ${end.nextSequence} is damaged, and it was on stable storage`);
  }
  try {
    await file.truncate(end.endPosition);
    await file.syncData();
  } catch (error) {
    throw storageError(error, 'cut the torn tail of', path);
  }
  return end.fileBytes - end.endPosition;
}
