// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '../core/clock.ts';
import { makeDirectoryDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { ExtentMap, type Slice } from '../core/extent-map.ts';
import type { Range } from '../core/extents.ts';
import { type FileSystem, realFileSystem, storageError } from '../core/file-system.ts';
import type { MachineId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import { type Change, dataless, type EncodedBatch, encodeBatch, encodedBytes } from './write-log-batch.ts';
import {
  ID_BYTES,
  MAX_MARK_BYTES,
  MAX_SEGMENT_BYTES,
  NO_DISK,
  type RecordFacts,
  SEGMENT_HEADER_BYTES,
} from './write-log-format.ts';
import { locationOf, WriteLogReader } from './write-log-reader.ts';
import { type Recovered, recoverWriteLog } from './write-log-recovery.ts';
import { createSegment, type FoundRecord, type Segment, scanSegment } from './write-log-segment.ts';

export interface WriteLogOptions {
  /** 32 bytes: encrypt and authenticate every record. Null: checksums only. A log keeps what it began with. */
  readonly key: Buffer | null;
  /** Stored in every segment; a log of another machine is refused (BAD_ARGUMENT). */
  readonly machineId: MachineId;
  readonly fileSystem?: FileSystem;
  readonly clock?: Clock;
  /** A segment is not appended to beyond it. */
  readonly segmentBytes?: number;
}

/** A place on a disk of the machine. */
export interface DiskRange extends Range {
  /** 0, 1, 2, … below 65,535. */
  readonly disk: number;
}

/** When a change took place in the log: the sequence of its last record, and its time. */
export interface Appended {
  readonly sequence: number;
  readonly timeUs: number;
}

/** Value of the index for ranges that read as zeroes; other values are locations of records. */
export const ZEROES = -1;

const DEFAULT_SEGMENT_BYTES: number = 256 * 1024 * 1024;
/** Changes that wait are written together up to this many bytes and changes. */
const MAX_BATCH_BYTES: number = 4 * 1024 * 1024;
const MAX_BATCH_CHANGES = 512;
/** Data that nobody flushes is synced after this much, so that no flush and no new segment has to wait for long. */
const BACKGROUND_SYNC_BYTES: number = 32 * 1024 * 1024;
/** When nothing follows a flush for this long, a barrier records that it happened. */
const BARRIER_DELAY_MS = 50;

interface Waiting {
  readonly change: Change;
  readonly resolve: (appended: Appended) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The writes of one machine in order, in append-only files (`docs/formats/write-log.md`), with an index of what each disk
 * reads now.
 *
 * Invariants: sequence of records = 1, 2, 3, … without gaps; durableSequence <= writtenSequence; the index holds a record
 * exactly when its append has been written whole; all segments but the last are on stable storage; a segment that was
 * found at the start, or in which an append failed, is never appended to.
 *
 * Durability: an append that has settled is with the operating system (it survives the death of the process); after
 * `flush`, everything settled before it is on stable storage. A change that failed is not in the index.
 *
 * Failures: NO_SPACE leaves the log usable (what was half written is cut off, and later appends may succeed). Any other
 * failure to write, and every failure to sync, ends the log: it is unknown what reached the disk, so all later appends
 * and flushes fail with that first error. Reads go on, each verified.
 */
export class WriteLog implements AsyncDisposable {
  readonly directory: string;
  /** Bytes of a torn tail that were cut off at the start. */
  readonly tornBytes: number;
  private readonly options: WriteLogOptions;
  private readonly fileSystem: FileSystem;
  private readonly clock: Clock;
  private readonly logId: Buffer;
  private readonly segments = new Map<number, Segment>();
  private readonly reader: WriteLogReader;
  private readonly index: Map<number, ExtentMap<number>>;
  /** The segment that is appended to. */
  private current: Segment | undefined;
  private position = 0;
  private waiting: Waiting[] = [];
  private drain: Promise<void> | undefined;
  private sync: Promise<void> | undefined;
  private barrier: NodeJS.Timeout | undefined;
  private failure: ApplianceError | undefined;
  private closing: Promise<void> | undefined;
  private writtenSequence: number;
  /** The newest record that somebody asked for (not a barrier). */
  private askedSequence: number;
  private durable: number;
  /** The durable sequence that the newest record states. */
  private statedDurable = 0;
  private lastTimeUs: number;
  /** Bytes appended by this process, and how many of them are on stable storage. */
  private appendedBytes = 0;
  private syncedBytes = 0;
  private totalBytes: number;

  /**
   * Opens the log in `directory`, which is created when missing, after bringing it into order (`recoverWriteLog`). The
   * caller makes sure that nobody else uses the directory. Reads every byte of the log once.
   *
   * Errors: WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, BAD_ARGUMENT (other machine), NO_SPACE, IO_FAILED.
   */
  static async open(directory: string, options: WriteLogOptions): Promise<WriteLog> {
    invariant(options.key === null || options.key.length === 32, 'a key has 32 bytes');
    const fileSystem = options.fileSystem ?? realFileSystem;
    await makeDirectoryDurably(directory, fileSystem);
    const index = new Map<number, ExtentMap<number>>();
    const recovered = await recoverWriteLog({
      directory,
      fileSystem,
      key: options.key,
      onRecord: (record, segment) => {
        place(index, record.header, locationOf(segment.header.number, record.position));
      },
    });
    try {
      return new WriteLog(directory, options, recovered, index);
    } catch (error) {
      for (const segment of recovered.segments) await segment.file.close();
      throw error;
    }
  }

  private constructor(
    directory: string,
    options: WriteLogOptions,
    recovered: Recovered,
    index: Map<number, ExtentMap<number>>,
  ) {
    const first = recovered.segments[0]?.header;
    if (first !== undefined && !first.machineId.equals(machineBytes(options.machineId))) {
      const details = { directory, wanted: options.machineId, found: first.machineId.toString('hex') };
      throw new ApplianceError('BAD_ARGUMENT', `the write log in ${directory} is another machine's`, { details });
    }
    this.directory = directory;
    this.options = options;
    this.fileSystem = options.fileSystem ?? realFileSystem;
    this.clock = options.clock ?? systemClock;
    this.logId = first?.logId ?? randomBytes(ID_BYTES);
    for (const segment of recovered.segments) this.segments.set(segment.header.number, segment);
    this.reader = new WriteLogReader(this.segments);
    this.index = index;
    this.tornBytes = recovered.tornBytes;
    this.totalBytes = recovered.logBytes;
    this.lastTimeUs = recovered.lastTimeUs;
    this.writtenSequence = recovered.lastSequence;
    this.askedSequence = recovered.lastSequence;
    // Records that survived in the page cache alone are not durable yet: the first flush syncs the last old segment.
    this.durable = 0;
  }

  /** Sequence of the newest record; 0 in an empty log. */
  get lastSequence(): number {
    return this.writtenSequence;
  }

  /** All records up to it are on stable storage, as far as this process knows. */
  get durableSequence(): number {
    return this.durable;
  }

  /** Bytes of all segments. */
  get sizeBytes(): number {
    return this.totalBytes;
  }

  /** The error that ended the log, if one did. */
  get failedWith(): ApplianceError | undefined {
    return this.failure;
  }

  /** Disks that have records, in order. */
  get disks(): number[] {
    return [...this.index.keys()].sort((a, b) => a - b);
  }

  /** Appends a write. The buffer belongs to the log until the promise settles. Errors: see the class; CLOSED. */
  async append(write: { disk: number; offset: number; data: Buffer }): Promise<Appended> {
    const { disk, offset, data } = write;
    return await this.enqueue({ kind: 'write', disk, offset, length: data.length, data });
  }

  /** Appends that a range reads as zeroes from now on; `trim` says that the guest trimmed it. */
  async appendZero(range: DiskRange, kind: 'zero' | 'trim' = 'zero'): Promise<Appended> {
    return await this.enqueue(dataless(kind, range));
  }

  /** Appends a named moment; the name has at most 4096 bytes of UTF-8 (BAD_ARGUMENT). */
  async appendMark(name: string): Promise<Appended> {
    const data = Buffer.from(name, 'utf8');
    if (data.length > MAX_MARK_BYTES) {
      throw new ApplianceError('BAD_ARGUMENT', `a mark takes at most ${MAX_MARK_BYTES} bytes`);
    }
    return await this.enqueue({ kind: 'mark', disk: NO_DISK, offset: 0, length: data.length, data });
  }

  /** Settles when everything whose append settled before this call is on stable storage. */
  async flush(): Promise<void> {
    this.checkUsable();
    const target = this.askedSequence;
    while (this.durable < target) {
      this.sync ??= this.syncOnce();
      await this.sync;
    }
  }

  /**
   * What covers a range of a disk: a record (its location, to be given to `read`), `ZEROES`, or nothing (undefined). The
   * answer is a copy; later appends do not change it, and its records stay readable.
   */
  slices(place: DiskRange): Slice<number>[] {
    const map = this.index.get(place.disk);
    if (map === undefined) return [{ offset: place.offset, length: place.length, value: undefined, valueOffset: 0 }];
    return [...map.slices(place)];
  }

  /** The same one by one, for ranges that may have many; the log must not change until the iteration has ended. */
  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return (this.index.get(place.disk) ?? new ExtentMap<number>()).slices(place);
  }

  /** Fills `into` from byte `from` on of a record's data. WRITE_LOG_CORRUPT when it is not what was written; IO_FAILED. */
  async read(location: number, from: number, into: Buffer): Promise<void> {
    await this.reader.read(location, from, into);
  }

  /** The same at once, when the record is cached; false otherwise. */
  readCached(location: number, from: number, into: Buffer): boolean {
    return this.reader.readCached(location, from, into);
  }

  /** Visits all records that are written now, in order, verified. The payload is valid during the visit only. */
  async replay(visit: (record: FoundRecord) => void): Promise<void> {
    const last = this.writtenSequence;
    for (const segment of this.segments.values()) {
      await scanSegment(segment, (record) => {
        if (record.header.sequence <= last) visit(record);
      });
    }
  }

  /** Flushes unless the log has failed, and closes its files. Idempotent. Appends that wait are written first. */
  close(): Promise<void> {
    this.closing ??= this.finish();
    return this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async finish(): Promise<void> {
    clearTimeout(this.barrier);
    try {
      while (this.drain !== undefined) await this.drain;
      while (this.failure === undefined && this.durable < this.askedSequence) {
        this.sync ??= this.syncOnce();
        await this.sync;
      }
      await this.writeBarrier();
      while (this.sync !== undefined) await this.sync;
    } finally {
      for (const segment of this.segments.values()) await segment.file.close();
    }
  }

  private enqueue(change: Change): Promise<Appended> {
    invariant(change.disk === NO_DISK || (change.disk >= 0 && change.disk < NO_DISK), 'a disk has an index');
    invariant(change.length > 0 || change.kind === 'mark', 'a change covers bytes');
    return new Promise<Appended>((resolve, reject) => {
      this.checkUsable();
      this.waiting.push({ change, resolve, reject });
      this.drain ??= this.writeWaiting();
    });
  }

  private checkUsable(): void {
    if (this.failure !== undefined) throw this.failure;
    if (this.closing !== undefined) throw new ApplianceError('CLOSED', 'the write log is closed');
  }

  /** Writes batch after batch until nothing waits. Never rejects. */
  private async writeWaiting(): Promise<void> {
    // What is asked for in the same turn goes into one batch.
    await Promise.resolve();
    while (this.waiting.length > 0) {
      const batch = this.takeBatch();
      try {
        const appended = await this.writeBatch(batch.map((one) => one.change));
        for (const [index, one] of batch.entries()) one.resolve(appended[index] ?? invariantBroken());
      } catch (error) {
        const problem = storageError(error, 'append to the write log in', this.directory);
        for (const one of batch) one.reject(problem);
        // A full disk ends the log only when what was half written could not be cut off.
        if (!hasCode(problem, 'NO_SPACE')) this.fail(problem);
      }
    }
    this.drain = undefined;
  }

  private takeBatch(): Waiting[] {
    const limit = Math.min(MAX_BATCH_BYTES, this.options.segmentBytes ?? DEFAULT_SEGMENT_BYTES);
    let bytes = 0;
    let count = 0;
    for (const { change } of this.waiting) {
      bytes += encodedBytes(change);
      if (count > 0 && (bytes > limit || count === MAX_BATCH_CHANGES)) break;
      count += 1;
    }
    return this.waiting.splice(0, count);
  }

  private async writeBatch(changes: readonly Change[]): Promise<Appended[]> {
    if (this.failure !== undefined) throw this.failure;
    let bytes = 0;
    for (const change of changes) bytes += encodedBytes(change);
    const segment = await this.segmentFor(bytes);
    this.lastTimeUs = Math.max(this.lastTimeUs, Math.floor(this.clock.nowMs() * 1000));
    const facts = {
      firstSequence: this.writtenSequence + 1,
      timeUs: this.lastTimeUs,
      durableSequence: this.durable,
    };
    const encoded = encodeBatch(changes, facts, segment.cipher);
    try {
      await segment.file.write(encoded.parts, this.position);
    } catch (error) {
      await this.cutFailedAppend(segment, error);
      throw error;
    }
    return this.commit(segment, encoded, facts.durableSequence);
  }

  /** Makes a written batch visible. */
  private commit(segment: Segment, encoded: EncodedBatch, statedDurable: number): Appended[] {
    const appended: Appended[] = [];
    for (const { facts, position } of encoded.records) {
      place(this.index, facts, locationOf(segment.header.number, this.position + position));
      if (!facts.continues) appended.push({ sequence: facts.sequence, timeUs: facts.timeUs });
      this.writtenSequence = facts.sequence;
      if (facts.kind !== 'barrier') this.askedSequence = facts.sequence;
    }
    this.position += encoded.bytes;
    this.totalBytes += encoded.bytes;
    this.appendedBytes += encoded.bytes;
    this.statedDurable = statedDurable;
    const unsyncedBytes = this.appendedBytes - this.syncedBytes;
    if (unsyncedBytes >= BACKGROUND_SYNC_BYTES && this.sync === undefined) this.syncInBackground();
    return appended;
  }

  /** The segment to append `bytes` to: the current one, or a new one after the current one has been synced. */
  private async segmentFor(bytes: number): Promise<Segment> {
    const limit = Math.min(this.options.segmentBytes ?? DEFAULT_SEGMENT_BYTES, MAX_SEGMENT_BYTES / 2);
    const isFull = this.position > SEGMENT_HEADER_BYTES && this.position + bytes > limit;
    if (this.current !== undefined && !isFull) return this.current;
    // Nothing may follow a segment that is not on stable storage: only the last one can have a torn tail.
    await this.syncLastSegment();
    this.current = undefined;
    const segment = await createSegment(this.fileSystem, {
      directory: this.directory,
      key: this.options.key,
      facts: {
        logId: this.logId,
        machineId: machineBytes(this.options.machineId),
        number: this.segments.size + 1,
        baseSequence: this.writtenSequence + 1,
        createdUs: Math.floor(this.clock.nowMs() * 1000),
      },
    });
    this.segments.set(segment.header.number, segment);
    this.current = segment;
    this.position = SEGMENT_HEADER_BYTES;
    this.totalBytes += SEGMENT_HEADER_BYTES;
    return segment;
  }

  /**
   * After a failed write: nothing of it may stay behind the last good record, not even after a power failure, because the
   * log goes on in a new segment (the nonces are used up).
   */
  private async cutFailedAppend(segment: Segment, error: unknown): Promise<void> {
    if (!hasCode(storageError(error, 'append to', segment.path), 'NO_SPACE')) return;
    this.current = undefined;
    try {
      await segment.file.truncate(this.position);
      await segment.file.syncData();
    } catch (problem) {
      throw this.fail(storageError(problem, 'cut off a failed append to', segment.path));
    }
    this.durable = this.writtenSequence;
  }

  private async syncOnce(): Promise<void> {
    try {
      await this.syncLastSegment();
    } finally {
      this.sync = undefined;
    }
    if (this.durable > this.statedDurable) this.scheduleBarrier();
  }

  private async syncLastSegment(): Promise<void> {
    const covered = this.writtenSequence;
    const last = this.segments.get(this.segments.size);
    const bytes = this.appendedBytes;
    if (last === undefined || this.durable >= covered) return;
    try {
      await last.file.syncData();
    } catch (error) {
      // The kernel may have dropped the pages and will not say so again: what is on the disk is unknown for good.
      throw this.fail(storageError(error, 'sync', last.path));
    }
    if (this.failure !== undefined) throw this.failure;
    this.durable = Math.max(this.durable, covered);
    this.syncedBytes = Math.max(this.syncedBytes, bytes);
  }

  private syncInBackground(): void {
    const sync = this.syncOnce();
    this.sync = sync;
    // A failure has ended the log already; whoever appends or flushes next gets it.
    sync.catch((error: unknown) => this.fail(storageError(error, 'sync', this.directory)));
  }

  private scheduleBarrier(): void {
    if (this.barrier !== undefined || this.closing !== undefined) return;
    this.barrier = setTimeout(() => {
      this.barrier = undefined;
      void this.writeBarrier();
    }, BARRIER_DELAY_MS);
    this.barrier.unref();
  }

  /** States in the log how far it is durable, so that later damage there is not taken for a torn tail. Never rejects. */
  private async writeBarrier(): Promise<void> {
    const isStated = this.current === undefined || this.durable <= this.statedDurable;
    if (this.failure !== undefined || isStated || this.durable < this.askedSequence) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const change = dataless('barrier', { disk: NO_DISK, offset: 0, length: 0 });
    // Without room it can be left out; other failures have ended the log.
    this.waiting.push({ change, resolve: () => resolve(), reject: () => resolve() });
    this.drain ??= this.writeWaiting();
    await promise;
  }

  private fail(error: ApplianceError): ApplianceError {
    this.failure ??= error;
    return this.failure;
  }
}

/** Enters a record into the index. */
function place(index: Map<number, ExtentMap<number>>, record: RecordFacts, location: number): void {
  if (record.kind === 'mark' || record.kind === 'barrier') return;
  let map = index.get(record.disk);
  if (map === undefined) {
    map = new ExtentMap<number>();
    index.set(record.disk, map);
  }
  // Zeroes count their bytes from the start of the disk, so that neighbours merge.
  if (record.kind === 'write') map.set(record, location);
  else map.set(record, ZEROES, record.offset);
}

function machineBytes(machineId: MachineId): Buffer {
  return Buffer.from(machineId.replaceAll('-', ''), 'hex');
}

function invariantBroken(): never {
  throw new Error('every change of a batch has one last record');
}
