// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import type { Moment } from './journal-event.ts';
import { RecordTable, TABLE_ENTRY_BYTES } from './record-table.ts';
import { BLOCK_BYTES, BlockCodec, SEALED_MAGIC, TRAILER_BYTES } from './sealed-format.ts';
import type { SealedSummary } from './sealed-summary.ts';
import { type SegmentCipher, segmentCipher } from './write-log-cipher.ts';
import {
  encodeSegmentHeader,
  MAX_RECORD_DATA_BYTES,
  type RecordHeader,
  recordSpan,
  type SegmentHeader,
} from './write-log-format.ts';
import { recordAt } from './write-log-segment.ts';
import { WriteRates } from './write-rates.ts';

/** What one sealing is given; plain values, so that it can go to a thread. */
export interface SealingTask {
  /** 32 bytes, or null. */
  readonly key: Uint8Array | null;
  /** Of the segment as it was written. */
  readonly header: SegmentHeader;
  /** 16 random bytes for the sealed one. */
  readonly salt: Uint8Array;
  /** What was true before the segment's first record. */
  readonly before: Pick<SealedSummary, 'lastWhole' | 'stretch'>;
}

/**
 * Turns the bytes of a segment's records into those of a sealed segment: `begin`, `feed` with the records' bytes in order,
 * cut anywhere, and `finish`. Each gives what comes next in the sealed file. Every record is verified on the way:
 * WRITE_LOG_CORRUPT for one that is not intact. Pure: no I/O.
 */
export class SegmentSealer {
  private readonly cipher: SegmentCipher;
  private readonly codec: BlockCodec;
  private readonly sealedHeader: SegmentHeader;
  private readonly before: SealingTask['before'];
  private readonly table: RecordTable;
  private readonly rates = new WriteRates();
  private readonly events: [number, number, string][] = [];
  private readonly dataBlocks: number[] = [];
  private readonly tableBlocks: number[] = [];
  private rest: Buffer = Buffer.alloc(0);
  private plain: Buffer = Buffer.allocUnsafeSlow(BLOCK_BYTES + MAX_RECORD_DATA_BYTES);
  private plainUsed = 0;
  /** Where the open block begins in the plain data of the segment. */
  private plainStart = 0;
  private filePosition = 0;
  private blockCount = 0;
  private nextSequence: number;
  private lastWhole: Moment;
  private times: { first: number; last: number } | undefined;

  constructor(task: SealingTask) {
    const key = task.key === null ? null : Buffer.from(task.key);
    const header = asHeader(task.header);
    this.cipher = segmentCipher(key, header);
    const facts = { ...header, version: 1 as const, salt: Buffer.from(task.salt) };
    this.codec = new BlockCodec(key, facts);
    this.sealedHeader = { ...facts, keyCheck: this.codec.keyCheck };
    this.before = task.before;
    this.lastWhole = task.before.lastWhole;
    this.nextSequence = header.baseSequence;
    this.table = new RecordTable(header.baseSequence);
  }

  begin(): Buffer {
    return this.emit(encodeSegmentHeader(this.sealedHeader, SEALED_MAGIC));
  }

  feed(bytes: Buffer): Buffer[] {
    const out: Buffer[] = [];
    const all = this.rest.length === 0 ? bytes : Buffer.concat([this.rest, bytes]);
    let at = 0;
    for (let found = recordAt(this.cipher, all, at); found !== undefined; found = recordAt(this.cipher, all, at)) {
      this.take(found.header, found.payload);
      if (this.plainUsed >= BLOCK_BYTES) out.push(this.closeDataBlock());
      at += recordSpan(found.header.payloadBytes);
    }
    this.rest = Buffer.from(all.subarray(at));
    return out;
  }

  finish(): Buffer[] {
    if (this.rest.length > 0) throw this.corrupt();
    const out: Buffer[] = [];
    if (this.plainUsed > 0) out.push(this.closeDataBlock());
    const { entries } = this.table;
    const step = Math.floor(BLOCK_BYTES / TABLE_ENTRY_BYTES) * TABLE_ENTRY_BYTES;
    for (let at = 0; at < entries.length; at += step) {
      this.tableBlocks.push(this.filePosition);
      out.push(this.emit(this.codec.seal('table', this.blockCount++, entries.subarray(at, at + step))));
    }
    const summaryPosition = this.filePosition;
    const text = Buffer.from(JSON.stringify(this.summary()), 'utf8');
    out.push(this.emit(this.codec.seal('summary', this.blockCount++, text)));
    const fileBytes = this.filePosition + TRAILER_BYTES;
    out.push(this.emit(this.codec.encodeTrailer({ summaryPosition, fileBytes, blockCount: this.blockCount })));
    return out;
  }

  private take(header: RecordHeader, payload: Buffer): void {
    if (header.sequence !== this.nextSequence) throw this.corrupt();
    this.nextSequence += 1;
    const { timeUs, sequence } = header;
    this.times = { first: this.times?.first ?? timeUs, last: timeUs };
    this.table.add(header, this.plainStart + this.plainUsed);
    if (!header.continues) this.lastWhole = { sequence, timeUs };
    if (header.kind === 'write') {
      this.rates.add(timeUs, header.length);
      payload.copy(this.plain, this.plainUsed);
      this.plainUsed += payload.length;
    } else if (header.kind === 'zero' || header.kind === 'trim') this.rates.add(timeUs, 0);
    else if (header.kind === 'event') this.events.push([sequence, timeUs, payload.toString('utf8')]);
  }

  private closeDataBlock(): Buffer {
    this.dataBlocks.push(this.filePosition, this.plainStart);
    const block = this.codec.seal('data', this.blockCount++, this.plain.subarray(0, this.plainUsed));
    this.plainStart += this.plainUsed;
    this.plainUsed = 0;
    return this.emit(block);
  }

  private emit(bytes: Buffer): Buffer {
    this.filePosition += bytes.length;
    return bytes;
  }

  private summary(): SealedSummary {
    invariant(this.times !== undefined, 'a segment that is sealed has records');
    return {
      firstSequence: this.table.baseSequence,
      lastSequence: this.table.lastSequence,
      firstTimeUs: this.times.first,
      lastTimeUs: this.times.last,
      lastWhole: this.lastWhole,
      stretch: this.before.stretch,
      events: this.events,
      rates: this.rates.packed(),
      dataBlocks: this.dataBlocks,
      tableBlocks: this.tableBlocks,
    };
  }

  private corrupt(): ApplianceError {
    const { number } = this.sealedHeader;
    return new ApplianceError('WRITE_LOG_CORRUPT', `record ${this.nextSequence} of segment ${number} is damaged`, {
      details: { segment: number, sequence: this.nextSequence },
    });
  }
}

/** A header whose buffers may have come from another thread as plain arrays. */
function asHeader(header: SegmentHeader): SegmentHeader {
  return {
    ...header,
    logId: Buffer.from(header.logId),
    machineId: Buffer.from(header.machineId),
    salt: Buffer.from(header.salt),
    keyCheck: Buffer.from(header.keyCheck),
  };
}
