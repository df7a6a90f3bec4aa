// SPDX-License-Identifier: Apache-2.0
import { createHmac, hkdfSync } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { AEAD_NONCE_BYTES, type Aead, type SealParameters } from '../core/aead.ts';
import { fastestAead } from '../core/fastest-aead.ts';
import {
  encodeRecordFacts,
  KEY_CHECK_BYTES,
  RECORD_AAD_BYTES,
  RECORD_HEADER_BYTES,
  type RecordFacts,
  type RecordHeader,
  type SegmentHeader,
  sealRecordHeader,
  TAG_BYTES,
} from './write-log-format.ts';

/** What seals and opens the records of one segment. */
export interface SegmentCipher {
  readonly isEncrypted: boolean;
  readonly saltCrc: number;
  readonly keyCheck: Buffer;
  /** Writes a record's header and its payload as stored to the start of `into`, which has room; the result is their length. */
  seal(facts: RecordFacts, payload: Buffer, into: Buffer): number;
  /** The plain payload of an intact record, or undefined when it is damaged. May be a view of `stored`. */
  open(header: RecordHeader, headerBytes: Buffer, stored: Buffer): Buffer | undefined;
}

/**
 * Without a key: checksums only. With a key (32 bytes): AES-256-GCM for each record under a key of the segment's own,
 * HKDF-SHA-256(key, salt of the segment, what the header says), nonce = sequence. A sequence is used once in a segment
 * (after a failed append the log goes on in a new segment), so a nonce never repeats under a key.
 */
export function segmentCipher(key: Buffer | null, header: Omit<SegmentHeader, 'keyCheck'>): SegmentCipher {
  const saltCrc = crc32(header.salt);
  return key === null ? new PlainCipher(saltCrc) : new GcmCipher(segmentKey(key, header, KEY_LABEL), saltCrc);
}

/** The key of one segment alone: HKDF-SHA-256(key, its salt, label and what its header says). */
export function segmentKey(key: Buffer, header: Omit<SegmentHeader, 'keyCheck'>, label: string): Buffer {
  const numbers = Buffer.alloc(24);
  numbers.writeBigUInt64BE(BigInt(header.number), 0);
  numbers.writeBigUInt64BE(BigInt(header.baseSequence), 8);
  numbers.writeBigUInt64BE(BigInt(header.createdUs), 16);
  const info = Buffer.concat([Buffer.from(label, 'latin1'), header.logId, header.machineId, numbers]);
  return Buffer.from(hkdfSync('sha256', key, header.salt, info, 32));
}

/** Tells a wrong key from damage. */
export function keyCheckOf(segmentKey: Buffer): Buffer {
  return createHmac('sha256', segmentKey).update(KEY_CHECK_LABEL).digest().subarray(0, KEY_CHECK_BYTES);
}

/** Where the payload of an encrypted record begins, behind header and tag. */
const PAYLOAD_AT: number = RECORD_HEADER_BYTES + TAG_BYTES;
const KEY_LABEL = 'understudy write log segment 1';
const KEY_CHECK_LABEL = 'understudy write log key check 1';

class PlainCipher implements SegmentCipher {
  readonly isEncrypted = false;
  readonly saltCrc: number;
  readonly keyCheck: Buffer = Buffer.alloc(KEY_CHECK_BYTES);

  constructor(saltCrc: number) {
    this.saltCrc = saltCrc;
  }

  seal(facts: RecordFacts, payload: Buffer, into: Buffer): number {
    encodeRecordFacts(facts, payload.length, into);
    payload.copy(into, RECORD_HEADER_BYTES);
    sealRecordHeader(into, crc32(payload), this.saltCrc);
    return RECORD_HEADER_BYTES + payload.length;
  }

  open(header: RecordHeader, _headerBytes: Buffer, stored: Buffer): Buffer | undefined {
    return crc32(stored) === header.payloadCrc ? stored : undefined;
  }
}

class GcmCipher implements SegmentCipher {
  readonly isEncrypted = true;
  readonly saltCrc: number;
  readonly keyCheck: Buffer;
  private readonly key: Buffer;
  private readonly aead: Aead = fastestAead();
  private readonly nonce: Buffer = Buffer.alloc(AEAD_NONCE_BYTES);

  constructor(key: Buffer, saltCrc: number) {
    this.saltCrc = saltCrc;
    this.key = key;
    this.keyCheck = keyCheckOf(key);
  }

  seal(facts: RecordFacts, payload: Buffer, into: Buffer): number {
    const end = PAYLOAD_AT + payload.length;
    encodeRecordFacts(facts, payload.length + TAG_BYTES, into);
    const tag = into.subarray(RECORD_HEADER_BYTES, PAYLOAD_AT);
    this.aead.seal(this.sealing(facts.sequence, into, tag), payload, into.subarray(PAYLOAD_AT, end));
    sealRecordHeader(into, crc32(into.subarray(RECORD_HEADER_BYTES, end)), this.saltCrc);
    return end;
  }

  open(header: RecordHeader, headerBytes: Buffer, stored: Buffer): Buffer | undefined {
    if (stored.length < TAG_BYTES || crc32(stored) !== header.payloadCrc) return undefined;
    const sealing = this.sealing(header.sequence, headerBytes, stored.subarray(0, TAG_BYTES));
    const plain = Buffer.allocUnsafe(stored.length - TAG_BYTES);
    return this.aead.open(sealing, stored.subarray(TAG_BYTES), plain) ? plain : undefined;
  }

  private sealing(sequence: number, header: Buffer, tag: Buffer): SealParameters {
    // 12 bytes: zeroes and the sequence. Used up before the next call.
    this.nonce.writeUInt32BE(Math.floor(sequence / 0x1_0000_0000), 4);
    this.nonce.writeUInt32BE(sequence % 0x1_0000_0000, 8);
    return { key: this.key, nonce: this.nonce, additionalData: header.subarray(0, RECORD_AAD_BYTES), tag };
  }
}
