// SPDX-License-Identifier: Apache-2.0
import { crc32 } from 'node:zlib';
import { ApplianceError } from '../core/errors.ts';

/** The bytes of a write log, without I/O and without keys. Byte tables and a worked example: `docs/formats/write-log.md`. */

export const SEGMENT_MAGIC: Buffer = Buffer.from('USWLOG\0\x01', 'latin1');
/** What a segment may hold: 1 writes, zeroes, trims, marks and barriers; 2 events as well. */
export type SegmentVersion = 1 | 2;
export const SEGMENT_HEADER_BYTES = 128;
export const SALT_BYTES = 16;
export const ID_BYTES = 16;
export const KEY_CHECK_BYTES = 8;

export const RECORD_MAGIC = 0x5553574c; // "USWL"
export const RECORD_HEADER_BYTES = 64;
/** Bytes of the header in front of its checksums: the AEAD's additional data. */
export const RECORD_AAD_BYTES = 52;
export const TAG_BYTES = 16;
/** Records start at multiples of it; the bytes between are zero. */
export const RECORD_ALIGNMENT = 8;
/** Most bytes of a disk in one record; longer writes are cut at multiples of it. */
export const MAX_RECORD_DATA_BYTES = 65_536;
/** Longest text of a mark, in bytes of UTF-8. */
export const MAX_MARK_BYTES = 4096;
/** Longest JSON text of an event, in bytes of UTF-8. */
export const MAX_EVENT_BYTES = 4096;
/** Positions in a segment stay below it, so that segment and position fit one safe integer. */
export const MAX_SEGMENT_BYTES: number = 2 ** 32;
/** Disk index of records that belong to the machine. */
export const NO_DISK = 0xffff;

/**
 * `write`: the range holds the payload. `zero`, `trim`: the range reads as zeroes. `mark`: a named moment (payload: its
 * name in UTF-8). `barrier`: nothing but its durable sequence. `event`: something about the log itself (payload: JSON).
 */
export type RecordKind = 'write' | 'zero' | 'trim' | 'mark' | 'barrier' | 'event';

export const KIND_CODES: Readonly<Record<RecordKind, number>> = {
  write: 1,
  zero: 2,
  trim: 3,
  mark: 4,
  barrier: 5,
  event: 6,
};
/** Record kinds by their code. */
export const KINDS: ReadonlyMap<number, RecordKind> = new Map(
  (Object.keys(KIND_CODES) as RecordKind[]).map((kind) => [KIND_CODES[kind], kind]),
);

const FLAG_ENCRYPTED = 1;
const FLAG_CONTINUES = 1;

export interface SegmentHeader {
  readonly version: SegmentVersion;
  readonly isEncrypted: boolean;
  /** 16 bytes, random, the same in all segments of a log. */
  readonly logId: Buffer;
  /** 16 bytes: the machine's UUID. */
  readonly machineId: Buffer;
  /** 16 bytes, random for each segment: salt of its key and start of its checksums. */
  readonly salt: Buffer;
  /** 1, 2, 3, … */
  readonly number: number;
  /** Sequence of its first record. */
  readonly baseSequence: number;
  /** Microseconds since the Unix epoch. */
  readonly createdUs: number;
  /** Tells a wrong key from damage; zero without encryption. */
  readonly keyCheck: Buffer;
}

/** What a record says, without its payload. */
export interface RecordFacts {
  readonly kind: RecordKind;
  readonly disk: number;
  /** 1, 2, 3, … in the whole log, without gaps. */
  readonly sequence: number;
  /** Microseconds since the Unix epoch; never less than the record before. */
  readonly timeUs: number;
  readonly offset: number;
  readonly length: number;
  /** All records up to it were on stable storage when this one was written. */
  readonly durableSequence: number;
  /** More records of the same request follow: no state between them was ever asked for. */
  readonly continues: boolean;
}

export interface RecordHeader extends RecordFacts {
  /** Stored bytes after the header, tag included. */
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

export function encodeSegmentHeader(header: SegmentHeader, magic: Buffer = SEGMENT_MAGIC): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  magic.copy(bytes, 0);
  bytes.writeUInt16BE(header.version, 8);
  bytes.writeUInt16BE(header.isEncrypted ? FLAG_ENCRYPTED : 0, 10);
  header.logId.copy(bytes, 16, 0, ID_BYTES);
  header.machineId.copy(bytes, 32, 0, ID_BYTES);
  header.salt.copy(bytes, 48, 0, SALT_BYTES);
  writeUInt64(bytes, header.number, 64);
  writeUInt64(bytes, header.baseSequence, 72);
  writeUInt64(bytes, header.createdUs, 80);
  header.keyCheck.copy(bytes, 88, 0, KEY_CHECK_BYTES);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4)), SEGMENT_HEADER_BYTES - 4);
  return bytes;
}

/** Undefined for bytes that are no intact header. REPOSITORY_FORMAT for an intact one of another version. */
export function decodeSegmentHeader(bytes: Buffer, magic: Buffer = SEGMENT_MAGIC): SegmentHeader | undefined {
  if (bytes.length < SEGMENT_HEADER_BYTES || !bytes.subarray(0, magic.length).equals(magic)) {
    return undefined;
  }
  const checksum = bytes.readUInt32BE(SEGMENT_HEADER_BYTES - 4);
  if (checksum !== crc32(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4))) return undefined;
  const version = bytes.readUInt16BE(8);
  const flags = bytes.readUInt16BE(10);
  const isReservedZero = bytes.readUInt32BE(12) === 0 && isZero(bytes.subarray(96, SEGMENT_HEADER_BYTES - 4));
  if ((version !== 1 && version !== 2) || (flags !== 0 && flags !== FLAG_ENCRYPTED) || !isReservedZero) {
    const details = { version, flags, supported: [1, 2] };
    throw new ApplianceError('REPOSITORY_FORMAT', `write log of version ${version}, flags ${flags}`, { details });
  }
  const number = readUInt64(bytes, 64);
  const baseSequence = readUInt64(bytes, 72);
  const createdUs = readUInt64(bytes, 80);
  if (number === undefined || baseSequence === undefined || createdUs === undefined) return undefined;
  return {
    version,
    isEncrypted: flags === FLAG_ENCRYPTED,
    logId: Buffer.from(bytes.subarray(16, 32)),
    machineId: Buffer.from(bytes.subarray(32, 48)),
    salt: Buffer.from(bytes.subarray(48, 64)),
    number,
    baseSequence,
    createdUs,
    keyCheck: Buffer.from(bytes.subarray(88, 96)),
  };
}

/** Writes the first 52 bytes of a record's header, which the payload's tag covers. `into` is 64 bytes at least. */
export function encodeRecordFacts(facts: RecordFacts, payloadBytes: number, into: Buffer): void {
  into.writeUInt32BE(RECORD_MAGIC, 0);
  into.writeUInt8(KIND_CODES[facts.kind], 4);
  into.writeUInt8(facts.continues ? FLAG_CONTINUES : 0, 5);
  into.writeUInt16BE(facts.disk, 6);
  writeUInt64(into, facts.sequence, 8);
  writeUInt64(into, facts.timeUs, 16);
  writeUInt64(into, facts.offset, 24);
  writeUInt64(into, facts.length, 32);
  writeUInt64(into, facts.durableSequence, 40);
  into.writeUInt32BE(payloadBytes, 48);
}

/** Writes the checksums behind the facts; `saltCrc` is `crc32(salt)` of the segment. */
export function sealRecordHeader(into: Buffer, payloadCrc: number, saltCrc: number): void {
  into.writeUInt32BE(payloadCrc, 52);
  into.writeUInt32BE(0, 56);
  into.writeUInt32BE(crc32(into.subarray(0, 60), saltCrc), 60);
}

/**
 * The header at `at`, or undefined when there is no intact one. The checksum starts from the segment's salt, which guests
 * do not know: a guest cannot write data that passes for a record.
 */
export function decodeRecordHeader(bytes: Buffer, at: number, saltCrc: number): RecordHeader | undefined {
  if (at + RECORD_HEADER_BYTES > bytes.length || bytes.readUInt32BE(at) !== RECORD_MAGIC) return undefined;
  if (bytes.readUInt32BE(at + 60) !== crc32(bytes.subarray(at, at + 60), saltCrc)) return undefined;
  const kind = KINDS.get(bytes.readUInt8(at + 4));
  const flags = bytes.readUInt8(at + 5);
  const sequence = readUInt64(bytes, at + 8);
  const timeUs = readUInt64(bytes, at + 16);
  const offset = readUInt64(bytes, at + 24);
  const length = readUInt64(bytes, at + 32);
  const durableSequence = readUInt64(bytes, at + 40);
  const payloadBytes = bytes.readUInt32BE(at + 48);
  if (kind === undefined || flags > FLAG_CONTINUES || bytes.readUInt32BE(at + 56) !== 0) return undefined;
  if (sequence === undefined || timeUs === undefined || durableSequence === undefined) return undefined;
  if (offset === undefined || length === undefined || !Number.isSafeInteger(offset + length)) return undefined;
  const disk = bytes.readUInt16BE(at + 6);
  const continues = flags === FLAG_CONTINUES;
  const payloadCrc = bytes.readUInt32BE(at + 52);
  const facts = { kind, disk, sequence, timeUs, offset, length, durableSequence, continues };
  return { ...facts, payloadBytes, payloadCrc };
}

/** How many payload bytes a record of these facts must have. */
export function expectedPayloadBytes(facts: RecordFacts, isEncrypted: boolean): number {
  const hasPayload = facts.kind === 'write' || facts.kind === 'mark' || facts.kind === 'event';
  return (hasPayload ? facts.length : 0) + (isEncrypted ? TAG_BYTES : 0);
}

/** True when the fields of an intact header make sense together. */
export function isPlausible(header: RecordHeader, isEncrypted: boolean): boolean {
  if (header.payloadBytes !== expectedPayloadBytes(header, isEncrypted)) return false;
  if (header.durableSequence >= header.sequence) return false;
  switch (header.kind) {
    case 'write':
      return header.length > 0 && header.length <= MAX_RECORD_DATA_BYTES;
    case 'zero':
    case 'trim':
      return header.length > 0;
    case 'mark':
      return header.length <= MAX_MARK_BYTES;
    case 'event':
      return header.length <= MAX_EVENT_BYTES;
    case 'barrier':
      return header.length === 0;
  }
}

/** Bytes from one record's start to the next. */
export function recordSpan(payloadBytes: number): number {
  return Math.ceil((RECORD_HEADER_BYTES + payloadBytes) / RECORD_ALIGNMENT) * RECORD_ALIGNMENT;
}

/** Numbers up to 2^53 - 1. */
export function writeUInt64(into: Buffer, value: number, at: number): void {
  into.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
  into.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}

/** Undefined beyond 2^53 - 1. */
export function readUInt64(bytes: Buffer, at: number): number | undefined {
  const high = bytes.readUInt32BE(at);
  return high > 0x1f_ffff ? undefined : high * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}
