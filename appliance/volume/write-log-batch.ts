// SPDX-License-Identifier: Apache-2.0
import type { SegmentCipher } from './write-log-cipher.ts';
import {
  MAX_RECORD_DATA_BYTES,
  RECORD_ALIGNMENT,
  RECORD_HEADER_BYTES,
  type RecordFacts,
  type RecordKind,
  recordSpan,
  TAG_BYTES,
} from './write-log-format.ts';

/** One change as it was asked for. */
export interface Change {
  readonly kind: RecordKind;
  readonly disk: number;
  readonly offset: number;
  readonly length: number;
  /** Of `length` bytes for `write`, `mark` and `event`, empty otherwise. */
  readonly data: Buffer;
}

/** One record of an encoded batch; its position is relative to the batch. */
export interface BatchRecord {
  readonly facts: RecordFacts;
  readonly position: number;
  /** As it was asked for. */
  readonly payload: Buffer;
}

/** Records ready to be written in one go, in order. */
export interface EncodedBatch {
  /** All of it, in memory of the encoder: valid until the next batch. */
  readonly bytes: Buffer;
  readonly records: readonly BatchRecord[];
}

/** What the records of a batch have in common. */
export interface BatchFacts {
  readonly firstSequence: number;
  readonly timeUs: number;
  readonly durableSequence: number;
}

const NO_DATA: Buffer = Buffer.alloc(0);
/** Memory that an encoder keeps between batches; larger batches have their own. */
const KEPT_BYTES: number = 256 * 1024;

/** An upper bound of the bytes that a change takes in the log. */
export function encodedBytes(change: Change): number {
  const records = Math.ceil(change.data.length / MAX_RECORD_DATA_BYTES) + 1;
  return change.data.length + records * recordSpan(TAG_BYTES + RECORD_ALIGNMENT);
}

/**
 * Encodes changes as records, one batch after the other into the same memory: a batch has been written before the next one
 * is encoded. Writes are cut at multiples of 64 KiB of the disk, so that a later write of the same place covers whole
 * records.
 */
export class BatchEncoder {
  private kept: Buffer = Buffer.alloc(0);

  encode(changes: readonly Change[], facts: BatchFacts, cipher: SegmentCipher): EncodedBatch {
    let most = 0;
    for (const change of changes) most += encodedBytes(change);
    const memory = this.memory(most);
    const records: BatchRecord[] = [];
    let sequence = facts.firstSequence;
    let at = 0;
    for (const change of changes) {
      for (const piece of piecesOf(change)) {
        const record: RecordFacts = {
          kind: change.kind,
          disk: change.disk,
          sequence,
          timeUs: facts.timeUs,
          offset: piece.offset,
          length: piece.length,
          durableSequence: facts.durableSequence,
          continues: piece.continues,
        };
        const end = cipher.seal(record, piece.data, memory.subarray(at));
        const span = recordSpan(end - RECORD_HEADER_BYTES);
        if (span > end) memory.fill(0, at + end, at + span);
        records.push({ facts: record, position: at, payload: piece.data });
        at += span;
        sequence += 1;
      }
    }
    return { bytes: memory.subarray(0, at), records };
  }

  private memory(bytes: number): Buffer {
    if (bytes > KEPT_BYTES) return Buffer.allocUnsafeSlow(bytes);
    if (this.kept.length < bytes) this.kept = Buffer.allocUnsafeSlow(Math.min(KEPT_BYTES, bytes * 2));
    return this.kept;
  }
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer;
  readonly continues: boolean;
}

function piecesOf(change: Change): readonly Piece[] {
  const { kind, offset, length, data } = change;
  const isOne = kind !== 'write' || (offset % MAX_RECORD_DATA_BYTES) + length <= MAX_RECORD_DATA_BYTES;
  if (isOne) return [{ offset, length, data, continues: false }];
  const pieces: Piece[] = [];
  for (let done = 0; done < length; ) {
    const start = offset + done;
    const part = Math.min(length - done, MAX_RECORD_DATA_BYTES - (start % MAX_RECORD_DATA_BYTES));
    pieces.push({
      offset: start,
      length: part,
      data: data.subarray(done, done + part),
      continues: done + part < length,
    });
    done += part;
  }
  return pieces;
}

/** A change without data. */
export function dataless(kind: RecordKind, place: { disk: number; offset: number; length: number }): Change {
  return { kind, disk: place.disk, offset: place.offset, length: place.length, data: NO_DATA };
}
