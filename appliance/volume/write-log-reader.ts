// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { readExactly } from '../core/file-system.ts';
import { decodeRecordHeader, isPlausible, RECORD_HEADER_BYTES, TAG_BYTES } from './write-log-format.ts';
import { positionOf, segmentOf } from './write-log-index.ts';
import { corrupt, type Segment } from './write-log-segment.ts';

/** Plain payloads of the records that were read last, so that small reads from large records verify them once. */
const CACHE_BYTES: number = 4 * 1024 * 1024;
/** What the cache counts for a record beside its bytes. */
const CACHE_ENTRY_BYTES = 200;

/** Where the plain data of records is brought from, verified: of a record at least its first `leastBytes`, in memory of its own. */
export type RecordSource = (segmentNumber: number, position: number, leastBytes: number) => Promise<Buffer>;

/** Reads the data of single records, each verified on the very read that brings it from the file. */
export class WriteLogReader {
  private readonly source: RecordSource;
  private readonly cache = new Map<number, Buffer>();
  private cachedBytes = 0;
  /** Records that are being read, so that concurrent small reads of one record share its verification. */
  private readonly fetching = new Map<number, { readonly fetch: Promise<Buffer>; readonly leastBytes: number }>();

  constructor(source: RecordSource) {
    this.source = source;
  }

  /**
   * Fills `into` from byte `from` on of the data of the record at `location`. WRITE_LOG_CORRUPT when the record is not
   * what was written; IO_FAILED.
   */
  async read(location: number, from: number, into: Buffer): Promise<void> {
    if (this.readCached(location, from, into)) return;
    const payload = await this.fetchOnce(location, from + into.length);
    // The index was built from this record, or from the append that made it.
    if (payload.length < from + into.length) {
      throw new ApplianceError('WRITE_LOG_CORRUPT', 'a record of the write log is shorter than it was');
    }
    payload.copy(into, 0, from, from + into.length);
    if (into.length < payload.length) this.remember(location, payload);
  }

  private async fetchOnce(location: number, leastBytes: number): Promise<Buffer> {
    const running = this.fetching.get(location);
    if (running !== undefined && running.leastBytes >= leastBytes) return await running.fetch;
    const fetch = this.source(segmentOf(location), positionOf(location), leastBytes);
    this.fetching.set(location, { fetch, leastBytes });
    try {
      return await fetch;
    } finally {
      this.fetching.delete(location);
    }
  }

  /** Fills `into` if the record is cached. */
  readCached(location: number, from: number, into: Buffer): boolean {
    const payload = this.cache.get(location);
    if (payload === undefined || payload.length < from + into.length) return false;
    payload.copy(into, 0, from, from + into.length);
    return true;
  }

  private remember(location: number, payload: Buffer): void {
    const known = this.cache.get(location);
    if (known !== undefined && known.length >= payload.length) return;
    if (known !== undefined) this.cachedBytes -= known.length + CACHE_ENTRY_BYTES;
    this.cache.set(location, payload);
    this.cachedBytes += payload.length + CACHE_ENTRY_BYTES;
    for (const [oldest, old] of this.cache) {
      if (this.cachedBytes <= CACHE_BYTES) break;
      this.cache.delete(oldest);
      this.cachedBytes -= old.length + CACHE_ENTRY_BYTES;
    }
  }
}

/** The whole plain payload of a record of a segment, which has at least `leastBytes` of it. */
export async function fetchRecord(segment: Segment, position: number, leastBytes: number): Promise<Buffer> {
  const { cipher, file, path } = segment;
  const guess = RECORD_HEADER_BYTES + (cipher.isEncrypted ? TAG_BYTES : 0) + leastBytes;
  let bytes: Buffer = Buffer.allocUnsafe(guess);
  await readExactly(file, bytes, position, path);
  const header = decodeRecordHeader(bytes, 0, cipher.saltCrc);
  if (header === undefined || !isPlausible(header, cipher.isEncrypted)) {
    throw corrupt(path, position, 'the header of a record is damaged');
  }
  const total = RECORD_HEADER_BYTES + header.payloadBytes;
  if (total > bytes.length) {
    const whole = Buffer.allocUnsafe(total);
    bytes.copy(whole);
    await readExactly(file, whole.subarray(bytes.length), position + bytes.length, path);
    bytes = whole;
  }
  const stored = bytes.subarray(RECORD_HEADER_BYTES, total);
  const payload = cipher.open(header, bytes.subarray(0, RECORD_HEADER_BYTES), stored);
  if (payload === undefined) throw corrupt(path, position, 'the data of a record is damaged');
  return payload;
}
