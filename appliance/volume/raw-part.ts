// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../core/invariant.ts';
import type { JournalPart } from './journal-part.ts';
import { RecordTable } from './record-table.ts';
import { expectedPayloadBytes, type RecordFacts, recordSpan, SEGMENT_HEADER_BYTES } from './write-log-format.ts';
import { positionOf, segmentOf } from './write-log-index.ts';
import { fetchRecord } from './write-log-reader.ts';
import { corrupt, type Segment, scanSegment } from './write-log-segment.ts';
import { WriteRates } from './write-rates.ts';

export interface RawPartOptions {
  /** Finds the open segment, which may not be known yet when its first record is. */
  readonly segmentAt: (number: number) => Segment | undefined;
  readonly isEncrypted: boolean;
}

/**
 * A segment as it was written. The headers of its records are in memory until `forgetTable`; from then on they are read
 * from the file when they are asked for. Its file is open from the beginning, belongs to the log until `release`, and to the
 * part from then on: it is closed when nobody holds it any more.
 */
export class RawPart implements JournalPart {
  readonly number: number;
  readonly firstSequence: number;
  readonly firstTimeUs: number;
  readonly rates: WriteRates = new WriteRates();
  /** Undefined once it was forgotten. */
  private records: RecordTable | undefined;
  /** One that was read from the file, as long as somebody uses it. */
  private knownTable: WeakRef<RecordTable> | undefined;
  private reading: Promise<RecordTable> | undefined;
  private lastRecord: number;
  private readonly options: RawPartOptions;
  private released: Segment | undefined;
  private holds = 0;
  private lastUs: number;
  private endPosition: number = SEGMENT_HEADER_BYTES;

  constructor(first: RecordFacts, location: number, options: RawPartOptions) {
    this.number = segmentOf(location);
    this.firstSequence = first.sequence;
    this.firstTimeUs = first.timeUs;
    this.lastUs = first.timeUs;
    this.lastRecord = first.sequence - 1;
    this.records = new RecordTable(first.sequence);
    this.options = options;
  }

  get lastSequence(): number {
    return this.lastRecord;
  }

  get lastTimeUs(): number {
    return this.lastUs;
  }

  get sizeBytes(): number {
    return this.endPosition;
  }

  /** Memory of the headers. */
  get tableBytes(): number {
    return this.records?.sizeBytes ?? 0;
  }

  add(facts: RecordFacts, location: number): void {
    invariant(this.records !== undefined, 'a segment that is appended to has its headers in memory');
    this.records.add(facts, positionOf(location));
    this.lastRecord = facts.sequence;
    this.lastUs = facts.timeUs;
    const payloadBytes = expectedPayloadBytes(facts, this.options.isEncrypted);
    this.endPosition = positionOf(location) + recordSpan(payloadBytes);
    if (facts.kind === 'write') this.rates.add(facts.timeUs, facts.length);
    else if (facts.kind === 'zero' || facts.kind === 'trim') this.rates.add(facts.timeUs, 0);
  }

  /** Where a record begins; undefined when its header would have to be read. */
  positionInMemory(sequence: number): number | undefined {
    return this.records?.positionOf(sequence);
  }

  /** Nothing is appended to the segment any more: its headers need no memory until somebody asks for them. */
  forgetTable(): void {
    this.records = undefined;
  }

  async table(): Promise<RecordTable> {
    const known = this.records ?? this.knownTable?.deref();
    if (known !== undefined) return known;
    this.reading ??= this.readTable();
    return await this.reading;
  }

  async fetch(position: number, leastBytes: number): Promise<Buffer> {
    return await fetchRecord(this.segment(), position, leastBytes);
  }

  hold(): Disposable {
    this.holds += 1;
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (isHeld) this.holds -= 1;
        isHeld = false;
        this.closeUnheld();
      },
    };
  }

  /** The log gives the segment up. */
  release(segment: Segment): void {
    this.released = segment;
    this.closeUnheld();
  }

  private async readTable(): Promise<RecordTable> {
    using _ = this.hold();
    try {
      const segment = this.segment();
      const table = new RecordTable(this.firstSequence);
      const end = await scanSegment(segment, ({ header, position }) => {
        if (header.sequence <= this.lastRecord) table.add(header, position);
      });
      if (table.lastSequence !== this.lastRecord) {
        throw corrupt(segment.path, end.endPosition, `record ${end.nextSequence} is damaged`);
      }
      this.knownTable = new WeakRef(table);
      return table;
    } finally {
      this.reading = undefined;
    }
  }

  private segment(): Segment {
    const segment = this.released ?? this.options.segmentAt(this.number);
    invariant(segment !== undefined, 'a part that is held has its segment');
    return segment;
  }

  private closeUnheld(): void {
    if (this.holds === 0) void this.released?.file.close();
  }
}
