// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, type OpenFile, readExactly, storageError } from '../core/file-system.ts';
import { type SegmentCipher, segmentCipher } from './write-log-cipher.ts';
import {
  decodeRecordHeader,
  decodeSegmentHeader,
  encodeSegmentHeader,
  isPlausible,
  MAX_RECORD_DATA_BYTES,
  RECORD_ALIGNMENT,
  RECORD_HEADER_BYTES,
  RECORD_MAGIC,
  type RecordHeader,
  recordSpan,
  SALT_BYTES,
  SEGMENT_HEADER_BYTES,
  type SegmentHeader,
  TAG_BYTES,
} from './write-log-format.ts';

/** One file of a write log, open. */
export interface Segment {
  readonly path: string;
  readonly header: SegmentHeader;
  readonly cipher: SegmentCipher;
  readonly file: OpenFile;
}

/** A record where it was found. `payload` is verified, plain, and valid only during the call that gets it. */
export interface FoundRecord {
  readonly header: RecordHeader;
  readonly position: number;
  readonly payload: Buffer;
}

/** How far a segment is intact: `endPosition` is the end of its last good record, `fileBytes` the end of the file. */
export interface ScanEnd {
  readonly endPosition: number;
  readonly fileBytes: number;
  readonly nextSequence: number;
  readonly lastTimeUs: number;
}

const SEGMENT_NAME = /^segment-([0-9]{10})\.log$/;
/** A scan reads this much at once: a few milliseconds of work between turns of the event loop. */
const SCAN_BYTES: number = 1024 * 1024;
/** Longest record. */
export const MAX_SPAN: number = recordSpan(MAX_RECORD_DATA_BYTES + TAG_BYTES);

export function segmentName(number: number): string {
  return `segment-${String(number).padStart(10, '0')}.log`;
}

/** The number in a segment's file name, or undefined for other files. */
export function segmentNumber(name: string): number | undefined {
  const digits = SEGMENT_NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

export interface NewSegment {
  readonly directory: string;
  readonly key: Buffer | null;
  readonly facts: Pick<SegmentHeader, 'version' | 'logId' | 'machineId' | 'number' | 'baseSequence' | 'createdUs'>;
}

/** Creates a segment, its header and its name durable. After an error nothing of it is left, if that can be had. */
export async function createSegment(fileSystem: FileSystem, wanted: NewSegment): Promise<Segment> {
  const path = join(wanted.directory, segmentName(wanted.facts.number));
  const facts = { ...wanted.facts, isEncrypted: wanted.key !== null, salt: randomBytes(SALT_BYTES) };
  const cipher = segmentCipher(wanted.key, facts);
  const header = { ...facts, keyCheck: cipher.keyCheck };
  const file = await fileSystem.open(path, 'create');
  try {
    await file.write(encodeSegmentHeader(header), 0);
    await file.syncData();
    await fileSystem.syncDirectory(wanted.directory);
    return { path, header, cipher, file };
  } catch (error) {
    await file.close();
    await fileSystem.unlink(path);
    throw error;
  }
}

/**
 * Opens a segment and checks its header. Undefined for a file that a crash left before it held a record: no intact header
 * and no byte behind it. Errors: WRITE_LOG_CORRUPT, REPOSITORY_KEY (wrong, missing or unexpected key), REPOSITORY_FORMAT.
 */
export async function openSegment(
  fileSystem: FileSystem,
  path: string,
  key: Buffer | null,
): Promise<Segment | undefined> {
  const file = await attempt('open', path, () => fileSystem.open(path, 'update'));
  try {
    const fileBytes = await attempt('measure', path, () => file.sizeBytes());
    const bytes = Buffer.alloc(Math.min(SEGMENT_HEADER_BYTES, fileBytes));
    await readExactly(file, bytes, 0, path);
    const header = decodeSegmentHeader(bytes);
    if (header === undefined) {
      if (fileBytes > SEGMENT_HEADER_BYTES) throw corrupt(path, 0, 'the header is damaged');
      await file.close();
      return undefined;
    }
    if (header.isEncrypted !== (key !== null)) {
      const problem = header.isEncrypted ? 'encrypted, and no key was given' : 'not encrypted, but a key was given';
      throw new ApplianceError('REPOSITORY_KEY', `the write log ${path} is ${problem}`, { details: { path } });
    }
    const cipher = segmentCipher(key, header);
    if (!cipher.keyCheck.equals(header.keyCheck)) {
      throw new ApplianceError('REPOSITORY_KEY', `the key does not fit the write log ${path}`, { details: { path } });
    }
    return { path, header, cipher, file };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads a segment from its first record, verifies each, and hands it to `onRecord`, up to the first place where no
 * intact record stands. WRITE_LOG_CORRUPT for an intact record that is out of sequence.
 */
export async function scanSegment(segment: Segment, onRecord: (record: FoundRecord) => void): Promise<ScanEnd> {
  const { path, file, header } = segment;
  const fileBytes = await attempt('measure', path, () => file.sizeBytes());
  const window = Buffer.allocUnsafeSlow(SCAN_BYTES + MAX_SPAN);
  let position = SEGMENT_HEADER_BYTES;
  let nextSequence = header.baseSequence;
  let lastTimeUs = 0;
  while (position < fileBytes) {
    const bytes = window.subarray(0, Math.min(window.length, fileBytes - position));
    await readExactly(file, bytes, position, path);
    let at = 0;
    while (at < bytes.length) {
      const record = recordAt(segment.cipher, bytes, at);
      if (record === undefined) break;
      if (record.header.sequence !== nextSequence) {
        throw corrupt(path, position + at, `record ${record.header.sequence} stands where ${nextSequence} belongs`);
      }
      onRecord({ ...record, position: position + at });
      nextSequence += 1;
      lastTimeUs = record.header.timeUs;
      at += recordSpan(record.header.payloadBytes);
    }
    position += at;
    // No record here, although a whole one would have fitted into the window.
    if (at === 0 || (bytes.length - at >= MAX_SPAN && bytes.length === window.length)) break;
  }
  return { endPosition: position, fileBytes, nextSequence, lastTimeUs };
}

/**
 * Tells a torn tail from damage: true when behind `from` an intact record says that `sequence` had been on stable
 * storage before. Then its loss is no crash but damage.
 */
export async function wasDurable(segment: Segment, from: ScanEnd): Promise<boolean> {
  const { path, file, cipher } = segment;
  const window = Buffer.allocUnsafeSlow(SCAN_BYTES);
  const step = SCAN_BYTES - RECORD_HEADER_BYTES;
  const magic = Buffer.alloc(4);
  magic.writeUInt32BE(RECORD_MAGIC);
  for (let position = from.endPosition; position < from.fileBytes; position += step) {
    const bytes = window.subarray(0, Math.min(window.length, from.fileBytes - position));
    await readExactly(file, bytes, position, path);
    for (let at = bytes.indexOf(magic); at !== -1; at = bytes.indexOf(magic, at + 1)) {
      if ((position + at) % RECORD_ALIGNMENT !== 0) continue;
      const header = decodeRecordHeader(bytes, at, cipher.saltCrc);
      if (header !== undefined && header.durableSequence >= from.nextSequence) return true;
    }
  }
  return false;
}

export function corrupt(path: string, position: number, problem: string): ApplianceError {
  const details = { path, position };
  return new ApplianceError('WRITE_LOG_CORRUPT', `${path} at byte ${position}: ${problem}`, { details });
}

/** The intact record at `at`, verified, if there is one and all of it is in `bytes`. */
export function recordAt(cipher: SegmentCipher, bytes: Buffer, at: number): Omit<FoundRecord, 'position'> | undefined {
  const header = decodeRecordHeader(bytes, at, cipher.saltCrc);
  if (header === undefined || !isPlausible(header, cipher.isEncrypted)) return undefined;
  const span = recordSpan(header.payloadBytes);
  if (at + span > bytes.length) return undefined;
  const payloadAt = at + RECORD_HEADER_BYTES;
  const payloadEnd = payloadAt + header.payloadBytes;
  for (let padding = payloadEnd; padding < at + span; padding++) if (bytes[padding] !== 0) return undefined;
  const headerBytes = bytes.subarray(at, payloadAt);
  const payload = cipher.open(header, headerBytes, bytes.subarray(payloadAt, payloadEnd));
  return payload === undefined ? undefined : { header, payload };
}

async function attempt<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw storageError(error, action, path);
  }
}
