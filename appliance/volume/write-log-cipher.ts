// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createDecipheriv, createHmac, createSecretKey, hkdfSync, type KeyObject } from 'node:crypto';
import { crc32 } from 'node:zlib';
import {
  encodeRecordFacts,
  KEY_CHECK_BYTES,
  RECORD_AAD_BYTES,
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
  /** Fills the 64 bytes of `header` and gives the stored payload in parts. Plain payloads are not copied. */
  seal(facts: RecordFacts, payload: Buffer, header: Buffer): readonly Buffer[];
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
  if (key === null) return new PlainCipher(saltCrc);
  const numbers = Buffer.alloc(24);
  numbers.writeBigUInt64BE(BigInt(header.number), 0);
  numbers.writeBigUInt64BE(BigInt(header.baseSequence), 8);
  numbers.writeBigUInt64BE(BigInt(header.createdUs), 16);
  const info = Buffer.concat([Buffer.from(KEY_LABEL, 'latin1'), header.logId, header.machineId, numbers]);
  return new GcmCipher(Buffer.from(hkdfSync('sha256', key, header.salt, info, 32)), saltCrc);
}

const KEY_LABEL = 'understudy write log segment 1';
const KEY_CHECK_LABEL = 'understudy write log key check 1';

class PlainCipher implements SegmentCipher {
  readonly isEncrypted = false;
  readonly saltCrc: number;
  readonly keyCheck: Buffer = Buffer.alloc(KEY_CHECK_BYTES);

  constructor(saltCrc: number) {
    this.saltCrc = saltCrc;
  }

  seal(facts: RecordFacts, payload: Buffer, header: Buffer): readonly Buffer[] {
    encodeRecordFacts(facts, payload.length, header);
    sealRecordHeader(header, crc32(payload), this.saltCrc);
    return payload.length === 0 ? [] : [payload];
  }

  open(header: RecordHeader, _headerBytes: Buffer, stored: Buffer): Buffer | undefined {
    return crc32(stored) === header.payloadCrc ? stored : undefined;
  }
}

class GcmCipher implements SegmentCipher {
  readonly isEncrypted = true;
  readonly saltCrc: number;
  readonly keyCheck: Buffer;
  private readonly key: KeyObject;

  constructor(key: Buffer, saltCrc: number) {
    this.saltCrc = saltCrc;
    this.key = createSecretKey(key);
    this.keyCheck = createHmac('sha256', key).update(KEY_CHECK_LABEL).digest().subarray(0, KEY_CHECK_BYTES);
    key.fill(0);
  }

  seal(facts: RecordFacts, payload: Buffer, header: Buffer): readonly Buffer[] {
    encodeRecordFacts(facts, payload.length + TAG_BYTES, header);
    const cipher = createCipheriv('aes-256-gcm', this.key, nonceOf(facts.sequence));
    cipher.setAAD(header.subarray(0, RECORD_AAD_BYTES));
    const sealed = cipher.update(payload);
    cipher.final();
    const tag = cipher.getAuthTag();
    sealRecordHeader(header, crc32(sealed, crc32(tag)), this.saltCrc);
    return sealed.length === 0 ? [tag] : [tag, sealed];
  }

  open(header: RecordHeader, headerBytes: Buffer, stored: Buffer): Buffer | undefined {
    if (crc32(stored) !== header.payloadCrc) return undefined;
    const decipher = createDecipheriv('aes-256-gcm', this.key, nonceOf(header.sequence));
    decipher.setAAD(headerBytes.subarray(0, RECORD_AAD_BYTES));
    decipher.setAuthTag(stored.subarray(0, TAG_BYTES));
    const plain = decipher.update(stored.subarray(TAG_BYTES));
    try {
      decipher.final();
      return plain;
    } catch {
      // Node's only way to say that the tag does not fit: the record is damaged, which is the answer.
      return undefined;
    }
  }
}

/** 12 bytes: zeroes and the sequence. */
function nonceOf(sequence: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(Math.floor(sequence / 0x1_0000_0000), 4);
  nonce.writeUInt32BE(sequence % 0x1_0000_0000, 8);
  return nonce;
}
