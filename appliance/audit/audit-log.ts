// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { syncDirectory } from '../core/durable-file.ts';
import { hasCode } from '../core/errors.ts';
import { type FileSystem, type OpenFile, realFileSystem, storageError } from '../core/file-system.ts';
import { type AuditAnchor, signAnchor } from './anchor.ts';
import { type AuditEntry, type AuditEvent, encodeEntry, fitting, GENESIS_HASH, hashEntry } from './entry.ts';
import { AUDIT_FORMAT, AUDIT_VERSION, decodeSegment, encodeHeader, type SegmentContent } from './segment.ts';
import { SegmentFiles } from './segment-files.ts';

/*
 * Invariants:
 *  - hash(n) = SHA-256(hash(n - 1) ‖ canonical JSON of entry n), across segments; hash(0) is 64 zeroes.
 *  - an entry that `record` settled for is durable; one that it rejected may be there, whole, or not.
 *  - what a crash left of a write is cut at the next start, and the log says so; whole entries are never cut.
 */

export interface AuditLogOptions {
  readonly stateDirectory: string;
  readonly clock: Clock;
  /** Authenticates anchors. */
  readonly key: KeyObject;
  /** Where each entry goes, too, once it is durable. Must not throw or wait. */
  readonly onEntry?: (entry: AuditEntry) => void;
  readonly fileSystem?: FileSystem;
  /** Told, whenever a segment is closed, of a log that takes more than `MAX_LOG_BYTES`. Must not throw. */
  readonly onLarge?: (sizeBytes: number) => void;
  /** A segment is closed when it is larger. */
  readonly segmentBytes?: number;
  /** For tests. */
  readonly logBytes?: number;
}

/** Where the log ends. */
export interface AuditHead {
  readonly sequence: number;
  readonly hash: string;
}

export const AUDIT_DIRECTORY = 'audit';
/** A segment is closed, and archived, when it is larger. */
export const MAX_SEGMENT_BYTES: number = 4 * 1024 * 1024;
/** Above this on the disk the log asks for archived segments to be moved away; it never removes one itself. */
export const MAX_LOG_BYTES: number = 1024 * 1024 * 1024;
/** Entries of one write. */
const MAX_BATCH = 256;

const APPLIANCE = { kind: 'appliance', id: 'appliance', name: 'appliance', role: 'admin' } as const;

interface Pending {
  readonly event: AuditEvent;
  readonly resolve: (entry: AuditEntry) => void;
  readonly reject: (error: unknown) => void;
}

interface OpenSegment {
  readonly number: number;
  readonly file: OpenFile;
  sizeBytes: number;
}

/**
 * Who did what: an append-only log of hash-chained entries, in segments below `audit/` of the state directory. Each entry is
 * synced to the disk before `record` settles; those that arrive meanwhile share a write. Format: `docs/formats/audit.md`.
 */
export class AuditLog implements AsyncDisposable {
  readonly files: SegmentFiles;
  readonly #options: AuditLogOptions;
  #head: AuditHead = { sequence: 0, hash: GENESIS_HASH };
  #segment: OpenSegment | undefined;
  #queue: Pending[] = [];
  #writing: Promise<void> | undefined;
  readonly #listeners = new Set<(entry: AuditEntry) => void>();

  private constructor(options: AuditLogOptions) {
    this.#options = options;
    const { stateDirectory, fileSystem = realFileSystem } = options;
    this.files = new SegmentFiles(join(stateDirectory, AUDIT_DIRECTORY), fileSystem);
    if (options.onEntry !== undefined) this.#listeners.add(options.onEntry);
  }

  /** For the process that holds the state directory. @throws ApplianceError CONFIG_FORMAT, NO_SPACE, IO_FAILED */
  static async open(options: AuditLogOptions): Promise<AuditLog> {
    const log = new AuditLog(options);
    await log.files.prepare();
    await log.#recover();
    return log;
  }

  get head(): AuditHead {
    return this.#head;
  }

  /** Where the log ends, signed: whoever keeps it elsewhere notices when what is before it is changed or cut. */
  anchor(): AuditAnchor {
    return signAnchor({ ...this.#head, at: this.#now() }, this.#options.key);
  }

  get key(): KeyObject {
    return this.#options.key;
  }

  /** Settles when the entry is durable. @throws ApplianceError NO_SPACE, IO_FAILED: then it may be there or not */
  record(event: AuditEvent): Promise<AuditEntry> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ event: fitting(event), resolve, reject });
      this.#writing ??= this.#writeQueue();
    });
  }

  /** Called with each entry once it is durable. Must not throw or wait. */
  onEntry(listener: (entry: AuditEntry) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
    await this.#closeSegment();
  }

  async #writeQueue(): Promise<void> {
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0, MAX_BATCH);
      try {
        const entries = await this.#append(batch.map(({ event }) => event));
        for (const [index, { resolve }] of batch.entries()) resolve(entries[index] as AuditEntry);
      } catch (error) {
        // What is on the disk is looked at anew before the next entry: this one may be there, whole or in part.
        await this.#closeSegment();
        for (const { reject } of batch) reject(error);
      }
    }
    this.#writing = undefined;
  }

  async #append(events: readonly AuditEvent[]): Promise<readonly AuditEntry[]> {
    if (this.#segment === undefined) await this.#recover();
    const segment = await this.#roomySegment();
    const at = this.#now();
    let { sequence, hash } = this.#head;
    let text = '';
    const entries: AuditEntry[] = [];
    for (const event of events) {
      sequence += 1;
      // As it will be read: members that are undefined are not there.
      const entry = JSON.parse(JSON.stringify({ ...event, sequence, at })) as AuditEntry;
      hash = hashEntry(hash, entry);
      text += encodeEntry(entry, hash);
      entries.push(entry);
    }
    await this.#write(segment, Buffer.from(text, 'utf8'));
    this.#head = { sequence, hash };
    for (const entry of entries) for (const listener of this.#listeners) listener(entry);
    return entries;
  }

  async #write(segment: OpenSegment, bytes: Buffer): Promise<void> {
    try {
      await segment.file.write(bytes, segment.sizeBytes);
      await segment.file.syncData();
      segment.sizeBytes += bytes.length;
    } catch (error) {
      throw storageError(error, 'write', this.files.path(segment.number));
    }
  }

  /** The segment that is being written, or a new one after it when it is full. */
  async #roomySegment(): Promise<OpenSegment> {
    const segment = this.#segment;
    if (segment !== undefined && segment.sizeBytes < (this.#options.segmentBytes ?? MAX_SEGMENT_BYTES)) return segment;
    const numbers = await this.files.numbers();
    await this.#closeSegment();
    this.#segment = await this.#createSegment((numbers.at(-1) ?? 0) + 1);
    for (const number of numbers) if (!(await this.files.isArchived(number))) await this.files.archive(number);
    const sizeBytes = await this.files.sizeBytes();
    if (sizeBytes > (this.#options.logBytes ?? MAX_LOG_BYTES)) this.#options.onLarge?.(sizeBytes);
    return this.#segment;
  }

  async #createSegment(number: number): Promise<OpenSegment> {
    const path = this.files.path(number);
    const { sequence, hash } = this.#head;
    const header = encodeHeader({
      format: AUDIT_FORMAT,
      version: AUDIT_VERSION,
      segment: number,
      sequence: sequence + 1,
      previous: hash,
    });
    try {
      const file = await this.files.fileSystem.open(path, 'create', 0o600);
      const segment = { number, file, sizeBytes: 0 };
      await this.#write(segment, Buffer.from(header, 'utf8'));
      await syncDirectory(this.files.directory, this.files.fileSystem);
      return segment;
    } catch (error) {
      throw storageError(error, 'create', path);
    }
  }

  /** Finds the end of the log; cuts what a crash left of a write, and says so in the log. */
  async #recover(): Promise<void> {
    await this.#closeSegment();
    const number = (await this.files.numbers()).at(-1);
    if (number === undefined) return;
    const found = await this.#readSegment(number);
    if (found === undefined) return this.#passOver(number);
    const { bytes, content } = found;
    if (content === undefined) {
      // Created, and not even its first line written: nothing was ever recorded in it.
      await this.files.remove(number);
      return this.#recover();
    }
    this.#head = { sequence: content.header.sequence + content.entries.length - 1, hash: content.hash };
    if (await this.files.isArchived(number)) return;
    const { bad } = content;
    if (bad === undefined) return this.#reopen(number, bytes.length);
    await this.#repair({ number, bytes, content });
  }

  /** Undefined for a segment that cannot be made out at all. */
  async #readSegment(
    number: number,
  ): Promise<{ readonly bytes: Buffer; readonly content: SegmentContent | undefined } | undefined> {
    try {
      const bytes = await this.files.read(number);
      return { bytes, content: decodeSegment(bytes, this.files.path(number)) };
    } catch (error) {
      if (hasCode(error, 'AUDIT_DAMAGED')) return undefined;
      throw error;
    }
  }

  /** Goes on behind a segment that cannot be made out, from what is before it: protection does not end with a damaged log. */
  async #passOver(number: number): Promise<void> {
    for (const earlier of (await this.files.numbers()).filter((one) => one < number).reverse()) {
      const content = (await this.#readSegment(earlier))?.content;
      if (content === undefined) continue;
      this.#head = { sequence: content.header.sequence + content.entries.length - 1, hash: content.hash };
      break;
    }
    this.#segment = await this.#createSegment(number + 1);
    await this.#append([logEvent('audit-damaged', { segment: number, sequence: this.#head.sequence + 1 })]);
  }

  /** A broken end: cut when it is what a write left that a crash interrupted; otherwise left as it is, for `verify` to name. */
  async #repair(found: {
    readonly number: number;
    readonly bytes: Buffer;
    readonly content: SegmentContent;
  }): Promise<void> {
    const { number, bytes, content } = found;
    const offset = content.bad?.offset ?? bytes.length;
    const tail = bytes.subarray(offset);
    if (isTorn(tail)) {
      await this.#reopen(number, offset);
      await this.#append([logEvent('audit-torn', { bytes: tail.length })]);
      return;
    }
    // Somebody changed it. The log goes on in a new segment, from the last entry that is as it was written.
    const last = content.header.sequence + content.entries.length;
    this.#segment = await this.#createSegment(number + 1);
    await this.#append([logEvent('audit-damaged', { segment: number, sequence: last })]);
  }

  async #reopen(number: number, sizeBytes: number): Promise<void> {
    const path = this.files.path(number);
    try {
      const file = await this.files.fileSystem.open(path, 'update');
      this.#segment = { number, file, sizeBytes };
      await file.truncate(sizeBytes);
      await file.syncData();
    } catch (error) {
      throw storageError(error, 'open', path);
    }
  }

  async #closeSegment(): Promise<void> {
    const segment = this.#segment;
    this.#segment = undefined;
    await segment?.file.close();
  }

  #now(): string {
    return new Date(this.#options.clock.nowMs()).toISOString();
  }
}

/** An event of the log itself. */
function logEvent(action: string, params: Readonly<Record<string, unknown>>): AuditEvent {
  const nobody = { from: null, requestId: null, target: null, code: null, approval: null };
  return { phase: 'event', action, who: APPLIANCE, params, outcome: 'ok', ...nobody };
}

/**
 * What a loss of power leaves of one write: a piece without its end, or blocks of zeroes in place of some of it. Whole lines of
 * text in which something else stands are somebody's work.
 */
function isTorn(tail: Buffer): boolean {
  return tail.includes(0) || tail.indexOf(0x0a) < 0;
}
