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
  readonly parts: readonly Buffer[];
  readonly records: readonly BatchRecord[];
  readonly bytes: number;
}

/** What the records of a batch have in common. */
export interface BatchFacts {
  readonly firstSequence: number;
  readonly timeUs: number;
  readonly durableSequence: number;
}

const NO_DATA: Buffer = Buffer.alloc(0);
const PADDING: Buffer = Buffer.alloc(RECORD_ALIGNMENT);

/** An upper bound of the bytes that a change takes in the log. */
export function encodedBytes(change: Change): number {
  const records = Math.ceil(change.data.length / MAX_RECORD_DATA_BYTES) + 1;
  return change.data.length + records * recordSpan(TAG_BYTES + RECORD_ALIGNMENT);
}

/**
 * Encodes changes as records. Writes are cut at multiples of 64 KiB of the disk, so that a later write of the same place
 * covers whole records. Without encryption the parts are views of the changes' data.
 */
export function encodeBatch(changes: readonly Change[], facts: BatchFacts, cipher: SegmentCipher): EncodedBatch {
  const parts: Buffer[] = [];
  const records: BatchRecord[] = [];
  let sequence = facts.firstSequence;
  let bytes = 0;
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
      const header = Buffer.allocUnsafe(RECORD_HEADER_BYTES);
      const payload = cipher.seal(record, piece.data, header);
      let payloadBytes = 0;
      parts.push(header);
      for (const part of payload) {
        parts.push(part);
        payloadBytes += part.length;
      }
      const span = recordSpan(payloadBytes);
      const padding = span - RECORD_HEADER_BYTES - payloadBytes;
      if (padding > 0) parts.push(PADDING.subarray(0, padding));
      records.push({ facts: record, position: bytes, payload: piece.data });
      bytes += span;
      sequence += 1;
    }
  }
  return { parts, records, bytes };
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly data: Buffer;
  readonly continues: boolean;
}

function* piecesOf(change: Change): Generator<Piece, void, undefined> {
  if (change.kind !== 'write') {
    yield { offset: change.offset, length: change.length, data: change.data, continues: false };
    return;
  }
  for (let done = 0; done < change.length; ) {
    const offset = change.offset + done;
    const length = Math.min(change.length - done, MAX_RECORD_DATA_BYTES - (offset % MAX_RECORD_DATA_BYTES));
    const data = change.data.subarray(done, done + length);
    done += length;
    yield { offset, length, data, continues: done < change.length };
  }
}

/** A change without data. */
export function dataless(kind: RecordKind, place: { disk: number; offset: number; length: number }): Change {
  return { kind, disk: place.disk, offset: place.offset, length: place.length, data: NO_DATA };
}
