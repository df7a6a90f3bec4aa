// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../core/invariant.ts';
import { KIND_CODES, KINDS, type RecordFacts, type RecordKind, readUInt64, writeUInt64 } from './write-log-format.ts';

/** Bytes of one record in a table. */
export const TABLE_ENTRY_BYTES = 32;
const FIRST_ROOM_ENTRIES = 256;
const WRITE: number = KIND_CODES.write;
const TRIM: number = KIND_CODES.trim;

/** One change of a disk, as a table has it. */
export interface WriteFact {
  readonly sequence: number;
  /** Microseconds since the Unix epoch. */
  readonly timeUs: number;
  readonly disk: number;
  readonly offset: number;
  readonly length: number;
  readonly kind: 'write' | 'zero' | 'trim';
}

/**
 * What the headers of one segment's records say, without payloads: entry n is the record `baseSequence` + n. 32 bytes each
 * (`docs/formats/journal.md`), so that a view or a list of writes never touches the data.
 */
export class RecordTable {
  readonly baseSequence: number;
  private bytes: Buffer;
  private used: number;

  /** `bytes`: the entries of an existing table, which belongs to the new one. */
  constructor(baseSequence: number, bytes: Buffer = Buffer.alloc(0)) {
    invariant(bytes.length % TABLE_ENTRY_BYTES === 0, 'a table has whole entries');
    this.baseSequence = baseSequence;
    this.bytes = bytes;
    this.used = bytes.length;
  }

  get count(): number {
    return this.used / TABLE_ENTRY_BYTES;
  }

  get lastSequence(): number {
    return this.baseSequence + this.count - 1;
  }

  /** Memory that it takes. */
  get sizeBytes(): number {
    return this.bytes.length;
  }

  /** All entries; valid until the next `add`. */
  get entries(): Buffer {
    return this.bytes.subarray(0, this.used);
  }

  /** Adds the next record; `position` says where in its segment it is read. */
  add(facts: Omit<RecordFacts, 'durableSequence'>, position: number): void {
    invariant(facts.sequence === this.baseSequence + this.count, 'a table has every record');
    if (this.used === this.bytes.length) this.grow();
    const { bytes, used } = this;
    bytes[used] = KIND_CODES[facts.kind];
    bytes[used + 1] = facts.continues ? 1 : 0;
    bytes.writeUInt16BE(facts.disk, used + 2);
    bytes.writeUInt32BE(position, used + 4);
    writeUInt64(bytes, facts.offset, used + 8);
    writeUInt64(bytes, facts.length, used + 16);
    writeUInt64(bytes, facts.timeUs, used + 24);
    this.used += TABLE_ENTRY_BYTES;
  }

  has(sequence: number): boolean {
    return sequence >= this.baseSequence && sequence <= this.lastSequence;
  }

  kindOf(sequence: number): RecordKind {
    const kind = KINDS.get(this.bytes[this.at(sequence)] ?? 0);
    invariant(kind !== undefined, 'a table holds known kinds');
    return kind;
  }

  /** True when more records of the same request follow. */
  continues(sequence: number): boolean {
    return this.bytes[this.at(sequence) + 1] === 1;
  }

  timeOf(sequence: number): number {
    return this.number(this.at(sequence) + 24);
  }

  positionOf(sequence: number): number {
    return this.bytes.readUInt32BE(this.at(sequence) + 4);
  }

  /** The change that a record makes to a disk; undefined for marks, barriers and events. */
  writeOf(sequence: number): WriteFact | undefined {
    const at = this.at(sequence);
    const code = this.bytes[at] ?? 0;
    if (code > TRIM) return undefined;
    return {
      sequence,
      timeUs: this.number(at + 24),
      disk: this.bytes.readUInt16BE(at + 2),
      offset: this.number(at + 8),
      length: this.number(at + 16),
      kind: code === WRITE ? 'write' : code === TRIM ? 'trim' : 'zero',
    };
  }

  /** The last record that is not later than a time; undefined when all are. */
  lastAt(timeUs: number): number | undefined {
    let low = this.baseSequence;
    let high = this.baseSequence + this.count;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.timeOf(middle) <= timeUs) low = middle + 1;
      else high = middle;
    }
    return low === this.baseSequence ? undefined : low - 1;
  }

  private at(sequence: number): number {
    invariant(this.has(sequence), 'a record is looked up in the table that has it');
    return (sequence - this.baseSequence) * TABLE_ENTRY_BYTES;
  }

  private number(at: number): number {
    const value = readUInt64(this.bytes, at);
    invariant(value !== undefined, 'a table holds safe integers');
    return value;
  }

  private grow(): void {
    const larger = Buffer.alloc(Math.max(FIRST_ROOM_ENTRIES * TABLE_ENTRY_BYTES, this.bytes.length * 2));
    this.bytes.copy(larger, 0, 0, this.used);
    this.bytes = larger;
  }
}
