// SPDX-License-Identifier: Apache-2.0
import { crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { AEAD_NONCE_BYTES, AEAD_TAG_BYTES, type Aead } from '../core/aead.ts';
import { fastestAead } from '../core/fastest-aead.ts';
import { invariant } from '../core/invariant.ts';
import { keyCheckOf, segmentKey } from './write-log-cipher.ts';
import { KEY_CHECK_BYTES, readUInt64, type SegmentHeader, writeUInt64 } from './write-log-format.ts';

/** The bytes of a sealed segment, without I/O. Byte tables and a worked example: `docs/formats/journal.md`. */

export const SEALED_MAGIC: Buffer = Buffer.from('USSEAL\0\x01', 'latin1');
export const BLOCK_HEADER_BYTES = 32;
export const TRAILER_BYTES = 32;
/** A block of data is closed when it has this much; it ends with a whole record. */
export const BLOCK_BYTES: number = 256 * 1024;
/** Most plain bytes of one block that is read. */
export const MAX_BLOCK_BYTES: number = 256 * 1024 * 1024;

const BLOCK_MAGIC = 0x55535742; // "USWB"
const TRAILER_MAGIC = 0x55535754; // "USWT"
const BLOCK_ALIGNMENT = 8;
const AAD_BYTES = 24;
const CODEC_PLAIN = 0;
const CODEC_ZSTD = 1;
const KEY_LABEL = 'understudy sealed segment 1';
/** What zstd gains less than this by is kept plain: reading it is cheaper then. */
const MIN_GAIN_BYTES = 64;

/** `data`: plain data of records. `table`: entries of the record table. `summary`: JSON. */
export type BlockKind = 'data' | 'table' | 'summary';
const BLOCK_KINDS: Readonly<Record<BlockKind, number>> = { data: 1, table: 2, summary: 3 };

export interface Trailer {
  readonly summaryPosition: number;
  readonly fileBytes: number;
  readonly blockCount: number;
}

export interface BlockHeader {
  readonly number: number;
  readonly plainBytes: number;
  /** Bytes after the header, tag included, padding not. */
  readonly storedBytes: number;
  readonly isCompressed: boolean;
}

/**
 * Seals and opens the blocks of one sealed segment: zstd, then AES-256-GCM under a key of the segment's own with the
 * block's number as nonce; checksums alone without a key. Blocks are numbered 0, 1, 2, … in the order of the file.
 */
export class BlockCodec {
  readonly keyCheck: Buffer;
  private readonly saltCrc: number;
  private readonly key: Buffer | undefined;
  private readonly aead: Aead = fastestAead();

  constructor(key: Buffer | null, header: Omit<SegmentHeader, 'keyCheck'>) {
    this.saltCrc = crc32(header.salt);
    this.key = key === null ? undefined : segmentKey(key, header, KEY_LABEL);
    this.keyCheck = this.key === undefined ? Buffer.alloc(KEY_CHECK_BYTES) : keyCheckOf(this.key);
  }

  /** Header, payload and padding of a block. It was opened again, and is what went in. */
  seal(kind: BlockKind, number: number, plain: Buffer): Buffer {
    const compressed = zstdCompressSync(plain);
    const isCompressed = compressed.length + MIN_GAIN_BYTES <= plain.length;
    const payload = isCompressed ? compressed : plain;
    const tagBytes = this.key === undefined ? 0 : AEAD_TAG_BYTES;
    const storedBytes = payload.length + tagBytes;
    const block = Buffer.alloc(blockSpan(storedBytes));
    block.writeUInt32BE(BLOCK_MAGIC, 0);
    block[4] = BLOCK_KINDS[kind];
    block[5] = isCompressed ? CODEC_ZSTD : CODEC_PLAIN;
    block.writeUInt32BE(number, 8);
    block.writeUInt32BE(plain.length, 12);
    block.writeUInt32BE(storedBytes, 16);
    const stored = block.subarray(BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + storedBytes);
    if (this.key === undefined) payload.copy(stored);
    else this.aead.seal(this.sealing(this.key, block), payload, stored.subarray(tagBytes));
    block.writeUInt32BE(crc32(stored), 24);
    block.writeUInt32BE(crc32(block.subarray(0, 28), this.saltCrc), 28);
    invariant(this.open(kind, number, block)?.equals(plain) === true, 'a sealed block opens to what went in');
    return block;
  }

  /** The header at the start of `bytes`; undefined when it is not that of an intact block of this kind and number. */
  header(kind: BlockKind, number: number, bytes: Buffer): BlockHeader | undefined {
    if (bytes.length < BLOCK_HEADER_BYTES || bytes.readUInt32BE(0) !== BLOCK_MAGIC) return undefined;
    if (bytes.readUInt32BE(28) !== crc32(bytes.subarray(0, 28), this.saltCrc)) return undefined;
    const isExpected = bytes[4] === BLOCK_KINDS[kind] && bytes.readUInt32BE(8) === number;
    const codec = bytes[5];
    const isReservedZero = bytes.readUInt16BE(6) === 0 && bytes.readUInt32BE(20) === 0;
    if (!isExpected || !isReservedZero || (codec !== CODEC_PLAIN && codec !== CODEC_ZSTD)) return undefined;
    const plainBytes = bytes.readUInt32BE(12);
    if (plainBytes > MAX_BLOCK_BYTES) return undefined;
    return { number, plainBytes, storedBytes: bytes.readUInt32BE(16), isCompressed: codec === CODEC_ZSTD };
  }

  /** The plain content of a block that lies at the start of `bytes`; undefined when it is damaged. */
  open(kind: BlockKind, number: number, bytes: Buffer): Buffer | undefined {
    const header = this.header(kind, number, bytes);
    if (header === undefined || bytes.length < BLOCK_HEADER_BYTES + header.storedBytes) return undefined;
    const stored = bytes.subarray(BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + header.storedBytes);
    if (crc32(stored) !== bytes.readUInt32BE(24)) return undefined;
    let payload = stored;
    if (this.key !== undefined) {
      if (stored.length < AEAD_TAG_BYTES) return undefined;
      payload = Buffer.allocUnsafe(stored.length - AEAD_TAG_BYTES);
      if (!this.aead.open(this.sealing(this.key, bytes), stored.subarray(AEAD_TAG_BYTES), payload)) return undefined;
    }
    const plain = header.isCompressed ? decompress(payload, header.plainBytes) : payload;
    return plain?.length === header.plainBytes ? plain : undefined;
  }

  encodeTrailer(trailer: Trailer): Buffer {
    const bytes = Buffer.alloc(TRAILER_BYTES);
    bytes.writeUInt32BE(TRAILER_MAGIC, 0);
    bytes.writeUInt32BE(trailer.blockCount, 4);
    writeUInt64(bytes, trailer.summaryPosition, 8);
    writeUInt64(bytes, trailer.fileBytes, 16);
    bytes.writeUInt32BE(crc32(bytes.subarray(0, 28), this.saltCrc), 28);
    return bytes;
  }

  decodeTrailer(bytes: Buffer): Trailer | undefined {
    if (bytes.length !== TRAILER_BYTES || bytes.readUInt32BE(0) !== TRAILER_MAGIC) return undefined;
    if (bytes.readUInt32BE(28) !== crc32(bytes.subarray(0, 28), this.saltCrc)) return undefined;
    const summaryPosition = readUInt64(bytes, 8);
    const fileBytes = readUInt64(bytes, 16);
    if (summaryPosition === undefined || fileBytes === undefined || bytes.readUInt32BE(24) !== 0) return undefined;
    return { summaryPosition, fileBytes, blockCount: bytes.readUInt32BE(4) };
  }

  private sealing(key: Buffer, block: Buffer): Parameters<Aead['seal']>[0] {
    const nonce = Buffer.alloc(AEAD_NONCE_BYTES);
    nonce.writeUInt32BE(block.readUInt32BE(8), 8);
    const tag = block.subarray(BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + AEAD_TAG_BYTES);
    return { key, nonce, additionalData: block.subarray(0, AAD_BYTES), tag };
  }
}

/** Bytes from one block's start to the next. */
export function blockSpan(storedBytes: number): number {
  return Math.ceil((BLOCK_HEADER_BYTES + storedBytes) / BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT;
}

function decompress(payload: Buffer, plainBytes: number): Buffer | undefined {
  try {
    return zstdDecompressSync(payload, { maxOutputLength: Math.max(1, plainBytes) });
  } catch {
    // Whatever zstd says, the block is not what was written.
    return undefined;
  }
}
