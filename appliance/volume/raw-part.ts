// SPDX-License-Identifier: Apache-2.0
import type { JournalPart } from './journal-part.ts';
import { RecordTable } from './record-table.ts';
import { expectedPayloadBytes, type RecordFacts, recordSpan, SEGMENT_HEADER_BYTES } from './write-log-format.ts';
import { positionOf, segmentOf } from './write-log-index.ts';
import { fetchRecord } from './write-log-reader.ts';
import type { Segment } from './write-log-segment.ts';
import { WriteRates } from './write-rates.ts';

export interface RawPartOptions {
  /** Finds the open segment, which may not be known yet when its first record is. */
  readonly segmentAt: (number: number) => Segment | undefined;
  readonly isEncrypted: boolean;
}

/**
 * A segment as it was written, with the headers of its records in memory. Its file is open from the beginning, belongs to
 * the log until `release`, and to the part from then on: it is closed when nobody holds it any more.
 */
export class RawPart implements JournalPart {
  readonly number: number;
  readonly firstSequence: number;
  readonly firstTimeUs: number;
  readonly rates: WriteRates = new WriteRates();
  private readonly records: RecordTable;
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
    this.records = new RecordTable(first.sequence);
    this.options = options;
  }

  get lastSequence(): number {
    return this.records.lastSequence;
  }

  get lastTimeUs(): number {
    return this.lastUs;
  }

  get sizeBytes(): number {
    return this.endPosition;
  }

  /** Its headers, at once. */
  get headers(): RecordTable {
    return this.records;
  }

  add(facts: RecordFacts, location: number): void {
    this.records.add(facts, positionOf(location));
    this.lastUs = facts.timeUs;
    const payloadBytes = expectedPayloadBytes(facts, this.options.isEncrypted);
    this.endPosition = positionOf(location) + recordSpan(payloadBytes);
    if (facts.kind === 'write') this.rates.add(facts.timeUs, facts.length);
    else if (facts.kind === 'zero' || facts.kind === 'trim') this.rates.add(facts.timeUs, 0);
  }

  async table(): Promise<RecordTable> {
    return this.records;
  }

  async fetch(position: number, leastBytes: number): Promise<Buffer> {
    const segment = this.released ?? this.options.segmentAt(this.number);
    if (segment === undefined) throw new Error('a part that is held has its segment');
    return await fetchRecord(segment, position, leastBytes);
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

  private closeUnheld(): void {
    if (this.holds === 0) void this.released?.file.close();
  }
}
