// SPDX-License-Identifier: Apache-2.0
import { type FileSystem, storageError } from '../core/file-system.ts';
import type { EncodedBatch } from './write-log-batch.ts';
import { MAX_SEGMENT_BYTES, SEGMENT_HEADER_BYTES, type SegmentVersion } from './write-log-format.ts';
import { createSegment, type Segment } from './write-log-segment.ts';

const DEFAULT_SEGMENT_BYTES: number = 256 * 1024 * 1024;

/** What all new segments of a log have in common. */
export interface TailOptions {
  readonly directory: string;
  readonly fileSystem: FileSystem;
  readonly key: Buffer | null;
  readonly version: SegmentVersion;
  readonly logId: Buffer;
  readonly machineId: Buffer;
  /** A segment is not appended to beyond it. */
  readonly segmentBytes: number | undefined;
}

/**
 * The segments of a log, and the end of the last one, where records go.
 *
 * Invariants: segments are numbered without a gap; one that was there at the start, or in which an append failed, is never
 * appended to; `position` is the end of the last whole record of `current`.
 */
export class WriteLogTail {
  readonly segments: Map<number, Segment> = new Map<number, Segment>();
  private readonly options: TailOptions;
  /** The segment that is appended to. */
  private current: Segment | undefined;
  private position = 0;
  private isEndAsked = false;
  private lastNumber: number;
  private totalBytes: number;

  constructor(options: TailOptions, found: { segments: readonly Segment[]; lastNumber: number; bytes: number }) {
    this.options = options;
    for (const segment of found.segments) this.segments.set(segment.header.number, segment);
    this.lastNumber = found.segments.at(-1)?.header.number ?? found.lastNumber;
    this.totalBytes = found.bytes;
  }

  /** Bytes of all segments. */
  get sizeBytes(): number {
    return this.totalBytes;
  }

  /** The last segment, appended to or not. */
  get last(): Segment | undefined {
    return this.segments.get(this.lastNumber);
  }

  /** True when there is a segment that records are appended to. */
  get isOpen(): boolean {
    return this.current !== undefined;
  }

  /** The segment that records are appended to, if that is one. */
  get openNumber(): number | undefined {
    return this.current?.header.number;
  }

  /** The end of the last whole record of the segment that is appended to. */
  get endPosition(): number {
    return this.position;
  }

  /** The segment to which `bytes` can be appended now; undefined when a new one has to be begun. */
  roomFor(bytes: number): Segment | undefined {
    if (this.isEndAsked) this.current = undefined;
    this.isEndAsked = false;
    const limit = Math.min(this.options.segmentBytes ?? DEFAULT_SEGMENT_BYTES, MAX_SEGMENT_BYTES / 2);
    const isFull = this.position > SEGMENT_HEADER_BYTES && this.position + bytes > limit;
    return isFull ? undefined : this.current;
  }

  /** The next batch begins a new segment. */
  endCurrent(): void {
    this.isEndAsked = true;
  }

  /** Begins a new segment; everything before must be on stable storage. */
  async begin(first: { sequence: number; createdUs: number }): Promise<Segment> {
    this.current = undefined;
    const { directory, fileSystem, key, version, logId, machineId } = this.options;
    const number = this.lastNumber + 1;
    const facts = { version, logId, machineId, number, baseSequence: first.sequence, createdUs: first.createdUs };
    const segment = await createSegment(fileSystem, { directory, key, facts });
    this.segments.set(number, segment);
    this.lastNumber = number;
    this.current = segment;
    this.position = SEGMENT_HEADER_BYTES;
    this.totalBytes += SEGMENT_HEADER_BYTES;
    return segment;
  }

  /** Writes a batch behind the last record at once, or says false. It counts only after `advance`. */
  writeNow(segment: Segment, batch: EncodedBatch): boolean {
    return segment.file.writeNow?.(batch.bytes, this.position) === true;
  }

  /** Writes a batch behind the last record. It counts only after `advance`. */
  async write(segment: Segment, batch: EncodedBatch): Promise<void> {
    if (segment.file.writeNow?.(batch.bytes, this.position) === true) return;
    await segment.file.write(batch.bytes, this.position);
  }

  advance(bytes: number): void {
    this.position += bytes;
    this.totalBytes += bytes;
  }

  /**
   * After a failed write: nothing of it may stay behind the last whole record, not even after a power failure, because the
   * log goes on in a new segment (the nonces are used up).
   */
  async cutFailedAppend(segment: Segment): Promise<void> {
    this.current = undefined;
    try {
      await segment.file.truncate(this.position);
      await segment.file.syncData();
    } catch (problem) {
      throw storageError(problem, 'cut off a failed append to', segment.path);
    }
  }

  /** Takes a segment out of the log; its file is the caller's from then on. Not the last one while it is appended to. */
  detach(number: number): Segment | undefined {
    const segment = this.segments.get(number);
    if (segment === undefined || segment === this.current) return undefined;
    this.segments.delete(number);
    return segment;
  }

  async close(): Promise<void> {
    for (const segment of this.segments.values()) await segment.file.close();
  }
}
