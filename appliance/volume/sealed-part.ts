// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, type OpenFile, readExactly, storageError } from '../core/file-system.ts';
import type { BlockCache } from './block-cache.ts';
import { type Moment, parseJournalEvent } from './journal-event.ts';
import { JournalHistory } from './journal-history.ts';
import type { JournalPart } from './journal-part.ts';
import { RecordTable } from './record-table.ts';
import { BlockCodec, type BlockKind, SEALED_MAGIC, TRAILER_BYTES } from './sealed-format.ts';
import { parseSummary, type SealedSummary } from './sealed-summary.ts';
import { decodeSegmentHeader, SEGMENT_HEADER_BYTES, type SegmentHeader } from './write-log-format.ts';
import { corrupt } from './write-log-segment.ts';
import { WriteRates } from './write-rates.ts';

export interface SealedPlace {
  readonly fileSystem: FileSystem;
  readonly path: string;
  readonly key: Buffer | null;
  readonly cache: BlockCache;
}

const SEALED_NAME = /^segment-([0-9]{10})\.sealed$/;

export function sealedName(number: number): string {
  return `segment-${String(number).padStart(10, '0')}.sealed`;
}

/** The number in a sealed segment's file name, or undefined for other files. */
export function sealedNumber(name: string): number | undefined {
  const digits = SEALED_NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/**
 * A segment in its sealed form. Its summary is in memory; headers and data are read when they are asked for, each block
 * verified. Its file is open only while somebody holds the part or reads.
 */
export class SealedPart implements JournalPart {
  readonly header: SegmentHeader;
  readonly summary: SealedSummary;
  readonly fileBytes: number;
  readonly rates: WriteRates;
  private readonly place: SealedPlace;
  private readonly codec: BlockCodec;
  private readonly summaryPosition: number;
  private knownTable: WeakRef<RecordTable> | undefined;
  private file: Promise<OpenFile> | undefined;
  private users = 0;

  private constructor(place: SealedPlace, found: Found) {
    this.place = place;
    this.header = found.header;
    this.codec = found.codec;
    this.summary = found.summary;
    this.summaryPosition = found.summaryPosition;
    this.fileBytes = found.fileBytes;
    this.rates = new WriteRates(found.summary.rates);
  }

  /** Reads header, trailer and summary. WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, IO_FAILED. */
  static async open(place: SealedPlace): Promise<SealedPart> {
    const file = await openFile(place);
    try {
      return new SealedPart(place, await readSummary(place, file));
    } finally {
      await file.close();
    }
  }

  get number(): number {
    return this.header.number;
  }

  get firstSequence(): number {
    return this.summary.firstSequence;
  }

  get lastSequence(): number {
    return this.summary.lastSequence;
  }

  get firstTimeUs(): number {
    return this.summary.firstTimeUs;
  }

  get lastTimeUs(): number {
    return this.summary.lastTimeUs;
  }

  get sizeBytes(): number {
    return this.fileBytes;
  }

  get isHeld(): boolean {
    return this.users > 0;
  }

  get path(): string {
    return this.place.path;
  }

  /** Adds what its events say. */
  replay(history: JournalHistory): void {
    for (const [sequence, timeUs, text] of this.summary.events) {
      const event = parseJournalEvent(Buffer.from(text, 'utf8'));
      if (event !== undefined) history.apply(event, { sequence, timeUs });
    }
  }

  /** What is true behind its last record. */
  after(): { readonly lastWhole: Moment; readonly stretch: SealedSummary['stretch'] } {
    const { stretch, lastWhole } = this.summary;
    const history = new JournalHistory();
    if (stretch !== null) history.resume(stretch.kind, stretch.begin);
    this.replay(history);
    const { openStretch } = history;
    return {
      lastWhole,
      stretch: openStretch === undefined ? null : { kind: openStretch.kind, begin: openStretch.begin },
    };
  }

  async table(): Promise<RecordTable> {
    const known = this.knownTable?.deref();
    if (known !== undefined) return known;
    const table = await this.readTable();
    this.knownTable = new WeakRef(table);
    return table;
  }

  async fetch(position: number, leastBytes: number): Promise<Buffer> {
    const { dataBlocks } = this.summary;
    let low = 0;
    let high = dataBlocks.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((dataBlocks[middle * 2 + 1] ?? 0) <= position) low = middle + 1;
      else high = middle;
    }
    const block = low - 1;
    const plain = await this.place.cache.get(`${this.place.path}:${block}`, () => this.readData(block));
    const from = position - (dataBlocks[block * 2 + 1] ?? 0);
    if (from < 0 || from + leastBytes > plain.length) throw this.damaged(dataBlocks[block * 2] ?? 0);
    return Buffer.from(plain.subarray(from, from + leastBytes));
  }

  hold(): Disposable {
    this.users += 1;
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (isHeld) this.leave();
        isHeld = false;
      },
    };
  }

  private async readTable(): Promise<RecordTable> {
    const { tableBlocks, dataBlocks } = this.summary;
    const entries: Buffer[] = [];
    await this.withFile(async (file) => {
      for (const [index, position] of tableBlocks.entries()) {
        const end = tableBlocks[index + 1] ?? this.summaryPosition;
        entries.push(await this.readBlock(file, 'table', dataBlocks.length / 2 + index, { position, end }));
      }
    });
    const table = new RecordTable(this.firstSequence, Buffer.concat(entries));
    if (table.lastSequence !== this.lastSequence) throw this.damaged(tableBlocks[0] ?? this.summaryPosition);
    return table;
  }

  private async readData(block: number): Promise<Buffer> {
    const { dataBlocks, tableBlocks } = this.summary;
    const position = dataBlocks[block * 2];
    if (position === undefined) throw this.damaged(0);
    const end = dataBlocks[block * 2 + 2] ?? tableBlocks[0] ?? this.summaryPosition;
    return await this.withFile((file) => this.readBlock(file, 'data', block, { position, end }));
  }

  private async readBlock(
    file: OpenFile,
    kind: BlockKind,
    number: number,
    place: { readonly position: number; readonly end: number },
  ): Promise<Buffer> {
    const { position, end } = place;
    if (end <= position || end > this.summaryPosition) throw this.damaged(position);
    const bytes = Buffer.allocUnsafe(end - position);
    await readExactly(file, bytes, position, this.place.path);
    return this.codec.open(kind, number, bytes) ?? this.throwDamaged(position);
  }

  private async withFile<T>(work: (file: OpenFile) => Promise<T>): Promise<T> {
    this.users += 1;
    try {
      this.file ??= openFile(this.place);
      return await work(await this.file);
    } finally {
      this.leave();
    }
  }

  private leave(): void {
    this.users -= 1;
    if (this.users > 0 || this.file === undefined) return;
    const { file } = this;
    this.file = undefined;
    // A file that could not be opened has nothing to close; whoever opened it heard of it.
    void file.then(
      (open) => open.close(),
      () => undefined,
    );
  }

  private throwDamaged(position: number): never {
    throw this.damaged(position);
  }

  private damaged(position: number): ApplianceError {
    return corrupt(this.place.path, position, 'a block of a sealed segment is damaged');
  }
}

interface Found {
  readonly header: SegmentHeader;
  readonly codec: BlockCodec;
  readonly summary: SealedSummary;
  readonly summaryPosition: number;
  readonly fileBytes: number;
}

async function openFile(place: SealedPlace): Promise<OpenFile> {
  try {
    return await place.fileSystem.open(place.path, 'read');
  } catch (error) {
    throw storageError(error, 'open', place.path);
  }
}

async function readSummary({ path, key }: SealedPlace, file: OpenFile): Promise<Found> {
  const bytes = await sizeOf(file, path);
  const damaged = (position: number): ApplianceError => corrupt(path, position, 'the sealed segment is damaged');
  if (bytes < SEGMENT_HEADER_BYTES + TRAILER_BYTES) throw damaged(0);
  const headerBytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  await readExactly(file, headerBytes, 0, path);
  const header = decodeSegmentHeader(headerBytes, SEALED_MAGIC);
  if (header === undefined) throw damaged(0);
  const codec = new BlockCodec(key, header);
  if (header.isEncrypted !== (key !== null) || !codec.keyCheck.equals(header.keyCheck)) {
    throw new ApplianceError('REPOSITORY_KEY', `the key does not fit the sealed segment ${path}`, {
      details: { path },
    });
  }
  const trailerBytes = Buffer.alloc(TRAILER_BYTES);
  await readExactly(file, trailerBytes, bytes - TRAILER_BYTES, path);
  const trailer = codec.decodeTrailer(trailerBytes);
  const summaryEnd = bytes - TRAILER_BYTES;
  const isPlausible = trailer?.fileBytes === bytes && trailer.blockCount > 0 && trailer.summaryPosition < summaryEnd;
  if (trailer === undefined || !isPlausible) throw damaged(summaryEnd);
  const block = Buffer.allocUnsafe(summaryEnd - trailer.summaryPosition);
  await readExactly(file, block, trailer.summaryPosition, path);
  const text = codec.open('summary', trailer.blockCount - 1, block);
  const summary = text === undefined ? undefined : parseSummary(text);
  if (summary === undefined || summary.firstSequence !== header.baseSequence) throw damaged(trailer.summaryPosition);
  return { header, codec, summary, summaryPosition: trailer.summaryPosition, fileBytes: bytes };
}

async function sizeOf(file: OpenFile, path: string): Promise<number> {
  try {
    return await file.sizeBytes();
  } catch (error) {
    throw storageError(error, 'measure', path);
  }
}
