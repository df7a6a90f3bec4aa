// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { removeStaleTemporaries, syncDirectory } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { type FileSystem, storageError } from '../core/file-system.ts';
import type { BlockCache } from './block-cache.ts';
import { type Moment, parseJournalEvent } from './journal-event.ts';
import { JournalHistory } from './journal-history.ts';
import { JournalParts } from './journal-part.ts';
import { RawPart } from './raw-part.ts';
import { SealedPart, sealedNumber } from './sealed-part.ts';
import type { LogObserver } from './write-log.ts';
import type { RecordFacts } from './write-log-format.ts';
import { locationOf, segmentOf } from './write-log-index.ts';
import type { LogStart } from './write-log-recovery.ts';
import { corrupt, type Segment, segmentName } from './write-log-segment.ts';

/**
 * Headers of records that are not sealed are kept in memory up to this much: the newest million of them. Those of older
 * segments, which wait to be sealed, are read from the file when they are asked for.
 */
export const MAX_TABLE_BYTES: number = 32 * 1024 * 1024;

/** What a journal knows of its log, kept up to date by each record. */
export class JournalContent implements LogObserver {
  readonly parts: JournalParts = new JournalParts();
  readonly history: JournalHistory = new JournalHistory();
  /** The last record behind which no part of a request is missing. */
  lastWhole: Moment = { sequence: 0, timeUs: 0 };
  /** Of a record that a recovery point holds, as all before it; the newest one whose place is in memory. */
  foldedLocation = 0;
  segmentAt: (number: number) => Segment | undefined = () => undefined;
  private readonly isEncrypted: boolean;
  private readonly tableBytes: number;
  private current: RawPart | undefined;

  constructor(how: { readonly isEncrypted: boolean; readonly tableBytes: number }) {
    this.isEncrypted = how.isEncrypted;
    this.tableBytes = how.tableBytes;
  }

  recorded(facts: RecordFacts, location: number, payload: Buffer): void {
    let part = this.current;
    if (part === undefined || part.number !== segmentOf(location)) {
      part = new RawPart(facts, location, {
        segmentAt: (number) => this.segmentAt(number),
        isEncrypted: this.isEncrypted,
      });
      this.parts.append(part);
      this.current = part;
      this.limitTables(part);
    }
    part.add(facts, location);
    if (facts.continues) return;
    const here = { sequence: facts.sequence, timeUs: facts.timeUs };
    this.lastWhole = here;
    if (facts.kind !== 'event') return;
    const event = parseJournalEvent(payload);
    if (event === undefined) return;
    this.history.apply(event, here);
    if (event.event !== 'fold') return;
    const folded = this.parts.withSequence(event.sequence);
    const at = folded instanceof RawPart ? folded.positionInMemory(event.sequence) : undefined;
    if (folded !== undefined && at !== undefined) this.foldedLocation = locationOf(folded.number, at);
  }

  /** Only the newest headers are kept, and always those of the segment that is appended to. */
  private limitTables(current: RawPart): void {
    let bytes = 0;
    for (const part of this.parts.all.toReversed()) {
      if (!(part instanceof RawPart)) break;
      bytes += part.tableBytes;
      if (part !== current && bytes > this.tableBytes) part.forgetTable();
    }
  }

  /** Takes the sealed parts in, which are the beginning; the result is where the log goes on. */
  addSealed(sealed: readonly SealedPart[]): LogStart | undefined {
    const [first] = sealed;
    if (first === undefined) return undefined;
    const { stretch } = first.summary;
    if (stretch !== null) this.history.resume(stretch.kind, stretch.begin);
    let last = first;
    for (const part of sealed) {
      const isOfThisLog =
        part.header.logId.equals(first.header.logId) && part.header.machineId.equals(first.header.machineId);
      if (!isOfThisLog) throw corrupt(part.path, 0, 'the segment belongs to another log');
      if (part !== first && part.firstSequence !== last.lastSequence + 1) {
        throw corrupt(part.path, 0, `starts with record ${part.firstSequence}, not ${last.lastSequence + 1}`);
      }
      this.parts.append(part);
      part.replay(this.history);
      last = part;
    }
    this.lastWhole = last.summary.lastWhole;
    const { logId, machineId } = last.header;
    return { logId, machineId, segmentNumber: last.number, sequence: last.lastSequence, timeUs: last.lastTimeUs };
  }

  /** Where a record stands in the log; undefined when it is sealed, or not there. WRITE_LOG_CORRUPT, IO_FAILED. */
  async locationOf(sequence: number): Promise<number | undefined> {
    const part = this.parts.withSequence(sequence);
    return part instanceof RawPart ? locationOf(part.number, (await part.table()).positionOf(sequence)) : undefined;
  }

  /** Older parts may be gone, but only those that a recovery point holds. */
  checkBeginning(directory: string): void {
    const first = this.parts.first?.firstSequence ?? 1;
    if (first - 1 <= (this.history.lastFold?.sequence ?? 0)) return;
    const message = `the journal in ${directory} begins with record ${first}, and no recovery point holds what was before`;
    throw new ApplianceError('WRITE_LOG_CORRUPT', message, { details: { path: directory, first } });
  }
}

export interface SealedDirectory {
  readonly directory: string;
  readonly fileSystem: FileSystem;
  readonly key: Buffer | null;
  readonly cache: BlockCache;
}

/**
 * The sealed parts of a journal in order, after what a crash left was removed: unfinished files, and of a segment that lies
 * there in both forms the raw one (the sealed one when that is not whole). Errors: those of `SealedPart.open`, NO_SPACE.
 */
export async function openSealedParts(place: SealedDirectory): Promise<SealedPart[]> {
  const { directory, fileSystem, key, cache } = place;
  await removeStaleTemporaries(directory, fileSystem);
  const names = await fileNames(place);
  const parts: SealedPart[] = [];
  for (const name of names) {
    const number = sealedNumber(name);
    if (number === undefined) continue;
    const path = join(directory, name);
    const raw = segmentName(number);
    const hasRaw = names.includes(raw);
    try {
      const part = await SealedPart.open({ fileSystem, path, key, cache });
      if (part.number !== number) throw corrupt(path, 0, `the segment says that it is number ${part.number}`);
      if (hasRaw) await remove(place, join(directory, raw));
      parts.push(part);
    } catch (error) {
      if (!hasRaw || !hasCode(error, 'WRITE_LOG_CORRUPT')) throw error;
      await remove(place, path);
    }
  }
  return parts;
}

async function fileNames({ directory, fileSystem }: SealedDirectory): Promise<string[]> {
  try {
    const entries = await fileSystem.readDirectory(directory);
    return entries.filter(({ kind }) => kind === 'file').map(({ name }) => name);
  } catch (error) {
    throw storageError(error, 'list', directory);
  }
}

async function remove({ directory, fileSystem }: SealedDirectory, path: string): Promise<void> {
  try {
    await fileSystem.unlink(path);
  } catch (error) {
    throw storageError(error, 'remove', path);
  }
  await syncDirectory(directory, fileSystem);
}
