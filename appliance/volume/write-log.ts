// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import type { DataWrite } from '../block/block-device.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { makeDirectoryDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { Slice } from '../core/extent-map.ts';
import { type FileSystem, realFileSystem, storageError } from '../core/file-system.ts';
import type { MachineId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type { Appended, DiskRange, WriteLayer, WriteSink } from './write-layer.ts';
import { BatchEncoder, type Change, dataless, type EncodedBatch, encodedBytes } from './write-log-batch.ts';
import { ID_BYTES, MAX_EVENT_BYTES, MAX_MARK_BYTES, NO_DISK, type RecordFacts } from './write-log-format.ts';
import { locationOf, WriteLogIndex } from './write-log-index.ts';
import { WriteLogProgress } from './write-log-progress.ts';
import { AppendQueue } from './write-log-queue.ts';
import { fetchRecord, WriteLogReader } from './write-log-reader.ts';
import { type LogStart, type Recovered, recoverWriteLog } from './write-log-recovery.ts';
import { type FoundRecord, type Segment, scanSegment } from './write-log-segment.ts';
import { WriteLogTail } from './write-log-tail.ts';

/** Hears of each record, in order, the moment it is in the log: found at the start, or appended. */
export interface LogObserver {
  /** `payload` is plain, and valid during the call only. */
  recorded(facts: RecordFacts, location: number, payload: Buffer): void;
  /** The base holds everything up to here, as far as it is known: at the start the index leaves it out. */
  readonly foldedLocation?: number;
}

export interface WriteLogOptions {
  /** 32 bytes: encrypt and authenticate every record. Null: checksums only. A log keeps what it began with. */
  readonly key: Buffer | null;
  /** Stored in every segment; a log of another machine is refused (BAD_ARGUMENT). */
  readonly machineId: MachineId;
  readonly fileSystem?: FileSystem;
  readonly clock?: Clock;
  /** A segment is not appended to beyond it. */
  readonly segmentBytes?: number;
  /** Events may be appended: segments of version 2. */
  readonly hasEvents?: boolean;
  readonly observer?: LogObserver;
  /** Where the log goes on from, when its older segments are kept elsewhere. */
  readonly after?: LogStart | undefined;
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
export class WriteLog implements WriteLayer, WriteSink, AsyncDisposable {
  readonly directory: string;
  /** 16 bytes, random, of this log alone. */
  readonly logId: Buffer;
  /** Bytes of a torn tail that were cut off at the start. */
  readonly tornBytes: number;
  private readonly clock: Clock;
  private readonly observer: LogObserver | undefined;
  private readonly tail: WriteLogTail;
  private readonly queue: AppendQueue;
  private readonly encoder = new BatchEncoder();
  private readonly reader: WriteLogReader;
  private readonly index: WriteLogIndex;
  private readonly progress: WriteLogProgress;
  /** What an append at once wrote a part of, at most: the next batch cuts it off and fails. */
  private halfWritten: { readonly segment: Segment; readonly error: unknown } | undefined;
  private closing: Promise<void> | undefined;
  private lastTimeUs: number;

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
    const index = new WriteLogIndex();
    let dropped = 0;
    const recovered = await recoverWriteLog({
      directory,
      fileSystem,
      key: options.key,
      after: options.after,
      onRecord: ({ header, position, payload }, segment) => {
        const location = locationOf(segment.header.number, position);
        index.place(header, location);
        options.observer?.recorded(header, location, payload);
        const folded = options.observer?.foldedLocation ?? 0;
        if (folded > dropped) index.dropThrough(folded);
        dropped = folded;
      },
    });
    try {
      return new WriteLog(directory, options, recovered, index);
    } catch (error) {
      for (const segment of recovered.segments) await segment.file.close();
      throw error;
    }
  }

  private constructor(directory: string, options: WriteLogOptions, recovered: Recovered, index: WriteLogIndex) {
    const first = options.after ?? recovered.segments[0]?.header;
    const machineId = machineBytes(options.machineId);
    if (first !== undefined && !first.machineId.equals(machineId)) {
      const details = { directory, wanted: options.machineId, found: first.machineId.toString('hex') };
      throw new ApplianceError('BAD_ARGUMENT', `the write log in ${directory} is another machine's`, { details });
    }
    this.directory = directory;
    this.clock = options.clock ?? systemClock;
    this.observer = options.observer;
    this.logId = first?.logId ?? randomBytes(ID_BYTES);
    const { key, segmentBytes, fileSystem = realFileSystem } = options;
    const version = options.hasEvents === true ? 2 : 1;
    this.tail = new WriteLogTail(
      { directory, fileSystem, key, version, logId: this.logId, machineId, segmentBytes },
      { segments: recovered.segments, lastNumber: options.after?.segmentNumber ?? 0, bytes: recovered.logBytes },
    );
    this.queue = new AppendQueue({
      maxBatchBytes: segmentBytes ?? Number.POSITIVE_INFINITY,
      write: (changes) => this.writeBatch(changes),
      failed: (error) => this.batchFailed(error),
    });
    this.reader = new WriteLogReader((number, position, leastBytes) => {
      const segment = this.tail.segments.get(number);
      // Only a read that took longer than a released segment is kept for can meet this.
      if (segment === undefined) throw new ApplianceError('IO_FAILED', `segment ${number} of the log was released`);
      return fetchRecord(segment, position, leastBytes);
    });
    this.index = index;
    this.tornBytes = recovered.tornBytes;
    this.lastTimeUs = recovered.lastTimeUs;
    this.progress = new WriteLogProgress({
      tail: this.tail,
      directory,
      lastSequence: recovered.lastSequence,
      appendBarrier: () => this.queue.push(dataless('barrier', { disk: NO_DISK, offset: 0, length: 0 })),
    });
  }

  /** Sequence of the newest record; 0 in an empty log. */
  get lastSequence(): number {
    return this.progress.written;
  }

  /** Time of the newest record, in microseconds since the Unix epoch; 0 in an empty log. */
  get lastRecordUs(): number {
    return this.lastTimeUs;
  }

  /** All records up to it are on stable storage, as far as this process knows. */
  get durableSequence(): number {
    return this.progress.durable;
  }

  /** Bytes of all segments that were ever in it. */
  get sizeBytes(): number {
    return this.tail.sizeBytes;
  }

  /** The segments, by number. */
  get segments(): ReadonlyMap<number, Segment> {
    return this.tail.segments;
  }

  /** The number of the segment that is appended to, if there is one. */
  get openSegment(): number | undefined {
    return this.tail.openNumber;
  }

  /** The error that ended the log, if one did. */
  get failedWith(): ApplianceError | undefined {
    return this.progress.failure;
  }

  /** Disks that have records, in order. */
  get disks(): number[] {
    return this.index.disks;
  }

  /** Ranges of the index. */
  get indexedRanges(): number {
    return this.index.size;
  }

  /** Appends a write. The buffer belongs to the log until the promise settles. Errors: see the class; CLOSED. */
  append(write: { disk: number; offset: number; data: Buffer }): Promise<Appended> {
    const { disk, offset, data } = write;
    return this.enqueue({ kind: 'write', disk, offset, length: data.length, data });
  }

  /** As `WriteSink.appendNow`: when nothing waits, and the operating system takes the bytes at once. */
  appendNow(disk: number, writes: readonly DataWrite[]): Appended | undefined {
    if (!this.queue.isIdle || this.unusable() !== undefined || this.halfWritten !== undefined) return undefined;
    const changes: Change[] = [];
    let bytes = 0;
    for (const { offset, data } of writes) {
      const change: Change = { kind: 'write', disk, offset, length: data.length, data };
      changes.push(change);
      bytes += encodedBytes(change);
    }
    const segment = this.tail.roomFor(bytes);
    if (segment === undefined) return undefined;
    const encoded = this.encodeNext(changes, segment);
    try {
      if (!this.tail.writeNow(segment, encoded)) return undefined;
    } catch (error) {
      this.halfWritten = { segment, error };
      return undefined;
    }
    return this.commit(segment, encoded).at(-1);
  }

  /** Appends that a range reads as zeroes from now on; `trim` says that the guest trimmed it. */
  appendZero(range: DiskRange, kind: 'zero' | 'trim' = 'zero'): Promise<Appended> {
    return this.enqueue(dataless(kind, range));
  }

  /** Appends a named moment; the name has at most 4096 bytes of UTF-8 (BAD_ARGUMENT). */
  async appendMark(name: string): Promise<Appended> {
    const data = Buffer.from(name, 'utf8');
    if (data.length > MAX_MARK_BYTES) {
      throw new ApplianceError('BAD_ARGUMENT', `a mark takes at most ${MAX_MARK_BYTES} bytes`);
    }
    return await this.enqueue({ kind: 'mark', disk: NO_DISK, offset: 0, length: data.length, data });
  }

  /** Appends an event, as JSON of at most 4096 bytes (BAD_ARGUMENT). Only where the log has events. */
  async appendEvent(event: object): Promise<Appended> {
    const data = Buffer.from(JSON.stringify(event), 'utf8');
    if (data.length > MAX_EVENT_BYTES) {
      throw new ApplianceError('BAD_ARGUMENT', `an event of a write log takes at most ${MAX_EVENT_BYTES} bytes`);
    }
    return await this.enqueue({ kind: 'event', disk: NO_DISK, offset: 0, length: data.length, data });
  }

  /** Settles when everything whose append settled before this call is on stable storage. */
  async flush(): Promise<void> {
    const unusable = this.unusable();
    if (unusable !== undefined) throw unusable;
    await this.progress.flush();
  }

  slices(place: DiskRange): Slice<number>[] {
    return this.index.slices(place);
  }

  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return this.index.sliceIterator(place);
  }

  /** Forgets in the index what comes from records up to a location: the base beneath the log holds it from now on. */
  dropThrough(location: number): void {
    this.index.dropThrough(location);
  }

  /** The next append begins a new segment. */
  endSegment(): void {
    this.tail.endCurrent();
  }

  /** Takes a segment out of the log; its file is the caller's from then on. Undefined while it is appended to. */
  detachSegment(number: number): Segment | undefined {
    return this.tail.detach(number);
  }

  read(location: number, from: number, into: Buffer): Promise<void> {
    return this.reader.read(location, from, into);
  }

  readCached(location: number, from: number, into: Buffer): boolean {
    return this.reader.readCached(location, from, into);
  }

  /** Visits all records that are written now, in order, verified. The payload is valid during the visit only. */
  async replay(visit: (record: FoundRecord) => void): Promise<void> {
    const last = this.progress.written;
    for (const segment of this.tail.segments.values()) {
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
    try {
      await this.queue.idle();
      await this.progress.finish();
    } finally {
      await this.tail.close();
    }
  }

  private enqueue(change: Change): Promise<Appended> {
    invariant(change.disk === NO_DISK || (change.disk >= 0 && change.disk < NO_DISK), 'a disk has an index');
    invariant(change.length > 0 || change.kind === 'mark', 'a change covers bytes');
    const unusable = this.unusable();
    return unusable === undefined ? this.queue.push(change) : Promise.reject(unusable);
  }

  private unusable(): ApplianceError | undefined {
    return (
      this.progress.failure ??
      (this.closing === undefined ? undefined : new ApplianceError('CLOSED', 'the write log is closed'))
    );
  }

  /** What the writers of a failed batch get. */
  private batchFailed(error: unknown): ApplianceError {
    const problem = storageError(error, 'append to the write log in', this.directory);
    // A full disk ends the log only when what was half written could not be cut off.
    if (!hasCode(problem, 'NO_SPACE')) this.progress.fail(problem);
    return problem;
  }

  private async writeBatch(changes: readonly Change[]): Promise<Appended[]> {
    if (this.progress.failure !== undefined) throw this.progress.failure;
    await this.cutHalfWritten();
    let bytes = 0;
    for (const change of changes) bytes += encodedBytes(change);
    const segment = this.tail.roomFor(bytes) ?? (await this.beginSegment());
    const encoded = this.encodeNext(changes, segment);
    try {
      await this.tail.write(segment, encoded);
    } catch (error) {
      await this.cutFailedAppend(segment, error);
      throw error;
    }
    return this.commit(segment, encoded);
  }

  private encodeNext(changes: readonly Change[], segment: Segment): EncodedBatch {
    this.lastTimeUs = Math.max(this.lastTimeUs, Math.floor(this.clock.nowMs() * 1000));
    const facts = {
      firstSequence: this.progress.written + 1,
      timeUs: this.lastTimeUs,
      durableSequence: this.progress.durable,
    };
    return this.encoder.encode(changes, facts, segment.cipher);
  }

  /** What an append at once left behind, as if this batch had met the error. */
  private async cutHalfWritten(): Promise<void> {
    if (this.halfWritten === undefined) return;
    const { segment, error } = this.halfWritten;
    this.halfWritten = undefined;
    await this.cutFailedAppend(segment, error);
    throw error;
  }

  /** Makes a written batch visible. */
  private commit(segment: Segment, encoded: EncodedBatch): Appended[] {
    const appended: Appended[] = [];
    for (const { facts, position, payload } of encoded.records) {
      const location = locationOf(segment.header.number, this.tail.endPosition + position);
      this.index.place(facts, location);
      if (!facts.continues) appended.push({ sequence: facts.sequence, timeUs: facts.timeUs });
      this.progress.appended(facts);
      this.observer?.recorded(facts, location, payload);
    }
    this.tail.advance(encoded.bytes.length);
    this.progress.advanced(encoded.bytes.length);
    return appended;
  }

  /** Nothing may follow a segment that is not on stable storage: only the last one can have a torn tail. */
  private async beginSegment(): Promise<Segment> {
    await this.progress.syncLastSegment();
    return await this.tail.begin({
      sequence: this.progress.written + 1,
      createdUs: Math.floor(this.clock.nowMs() * 1000),
    });
  }

  private async cutFailedAppend(segment: Segment, error: unknown): Promise<void> {
    if (!hasCode(storageError(error, 'append to', segment.path), 'NO_SPACE')) return;
    try {
      await this.tail.cutFailedAppend(segment);
    } catch (problem) {
      throw this.progress.fail(storageError(problem, 'cut off a failed append to', segment.path));
    }
    this.progress.synced();
  }
}

function machineBytes(machineId: MachineId): Buffer {
  return Buffer.from(machineId.replaceAll('-', ''), 'hex');
}
