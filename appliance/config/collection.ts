// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { canonicalJson } from '../core/canonical-json.ts';
import { writeDurably } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, realFileSystem } from '../core/file-system.ts';
import { readSmallFile } from '../core/small-file.ts';
import { decodeCollection, encodeCollection } from './collection-file.ts';

/*
 * Invariants:
 *  - What `get` and `list` give is durable: a change is in memory only after its file was written.
 *  - revisions of one collection never repeat: revision(next change) > revision of every change before it, failed and
 *    deleted ones included, so that an ETag that was seen once never fits another content.
 *  - the value in memory equals the value that a new process would read: both went through JSON and `check`.
 */

/** One document. `value` is frozen, all of it. */
export interface Entry<T> {
  readonly id: string;
  /** Grows with each change in the collection; for ETags, and `expect`. */
  readonly revision: number;
  readonly value: T;
}

/** A document that is there now, or that is not there any more. */
export interface CollectionChange<T> {
  readonly id: string;
  readonly entry: Entry<T> | undefined;
}

/** What a change rests on: the revision that was read, or `absent` for a document that must not be there. */
export interface Expectation {
  readonly expect?: number | 'absent' | undefined;
}

export interface CollectionOptions<T> {
  /** Must exist; belongs to the process that holds the lock of the state directory. */
  readonly directory: string;
  /** Lower-case letters and dashes; the file is called `NAME.json`. */
  readonly name: string;
  /** The value itself, with defaults filled in where it was written by an older program; throws BAD_ARGUMENT for what is none. */
  readonly check: (value: unknown, id: string) => T;
  readonly maxRecords?: number;
  readonly maxBytes?: number;
  readonly fileSystem?: FileSystem;
}

/** A kind of document, as its owner declares it; `Configuration.collection` opens it. Two of the same name are the same. */
export type CollectionDefinition<T> = Pick<CollectionOptions<T>, 'name' | 'check' | 'maxRecords' | 'maxBytes'>;

/** Most documents of one collection, when nothing else is said. */
export const MAX_RECORDS = 10_000;
/** Most bytes of one document as JSON. */
export const MAX_RECORD_BYTES: number = 256 * 1024;
/** Most bytes of a collection's file, when nothing else is said: it is written whole for each change. */
export const MAX_COLLECTION_BYTES: number = 16 * 1024 * 1024;

const NAME = /^[a-z][a-z-]{0,40}$/;
const MAX_ID_CHARACTERS = 200;

type Records<T> = ReadonlyMap<string, Entry<T>>;

/** A change that waits for its turn: changes the records, or throws and leaves them as they were. */
interface Pending<T> {
  readonly apply: (records: Map<string, Entry<T>>) => Entry<T> | undefined;
  readonly ids: readonly string[] | undefined;
  readonly resolve: (entry: Entry<T> | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Documents by id, in one durable file with a checksum, whole in memory. Reads are synchronous and take no copy. Changes
 * settle when they are durable; those that arrive during a write share the next one. After a change that failed with
 * IO_FAILED or NO_SPACE memory has the old state, and so will the file after the next change; a process that dies before
 * that may leave the new one. Format: `docs/formats/configuration.md`.
 */
export class Collection<T> {
  readonly name: string;
  readonly #options: CollectionOptions<T>;
  readonly #path: string;
  readonly #fileSystem: FileSystem;
  readonly #listeners = new Set<(change: CollectionChange<T>) => void>();
  #records: Records<T>;
  /** The last one that was given out, also to a change that is not durable yet. */
  #revision: number;
  #shownRevision: number;
  #queue: Pending<T>[] = [];
  #writing: Promise<void> | undefined;

  private constructor(options: CollectionOptions<T>, records: Records<T>, revision: number) {
    this.name = options.name;
    this.#options = options;
    this.#path = collectionPath(options.directory, options.name);
    this.#fileSystem = options.fileSystem ?? realFileSystem;
    this.#records = records;
    this.#revision = revision;
    this.#shownRevision = revision;
  }

  /** A file that is missing is an empty collection. @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT, IO_FAILED */
  static async open<T>(options: CollectionOptions<T>): Promise<Collection<T>> {
    if (!NAME.test(options.name)) throw new ApplianceError('BAD_ARGUMENT', `${options.name} is no collection's name`);
    const path = collectionPath(options.directory, options.name);
    const { fileSystem = realFileSystem } = options;
    const stored = await readSmallFile(path, { maxBytes: maxBytesOf(options), fileSystem });
    if (stored === undefined) return new Collection(options, new Map(), 0);
    const { revision, records } = decodeCollection(stored, { name: options.name, path });
    const entries = records.map((record): [string, Entry<T>] => {
      const value = checkStored(record, options, path);
      return [record.id, freezeAll({ id: record.id, revision: record.revision, value })];
    });
    return new Collection(options, new Map(entries), revision);
  }

  /**
   * Of what can be read now: grows with each change, in the moment in which it can be read. 0 for a collection that was never written.
   */
  get revision(): number {
    return this.#shownRevision;
  }

  get size(): number {
    return this.#records.size;
  }

  /** @throws ApplianceError NOT_FOUND */
  get(id: string): Entry<T> {
    return this.#records.get(id) ?? this.#missing(id);
  }

  find(id: string): Entry<T> | undefined {
    return this.#records.get(id);
  }

  /** Sorted by id. */
  list(): readonly Entry<T>[] {
    return [...this.#records.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** @throws ApplianceError CONFLICT when there is one already, BAD_ARGUMENT, LIMIT_REACHED, NO_SPACE, IO_FAILED */
  create(id: string, value: T): Promise<Entry<T>> {
    return this.put(id, value, { expect: 'absent' });
  }

  /** Creates or replaces. @throws ApplianceError CONFLICT, BAD_ARGUMENT, LIMIT_REACHED, NO_SPACE, IO_FAILED */
  async put(id: string, value: T, expectation: Expectation = {}): Promise<Entry<T>> {
    checkId(id);
    const plain = this.#plain(id, value);
    return this.#changed(id, (records) => {
      this.#check(records.get(id), id, expectation);
      return plain;
    });
  }

  /**
   * Replaces what is there at its turn by what `change` makes of it, so that no other change is lost.
   * @throws ApplianceError NOT_FOUND, CONFLICT, what `change` throws, and errors as `put`
   */
  update(id: string, change: (value: T) => T, expectation: Expectation = {}): Promise<Entry<T>> {
    return this.#changed(id, (records) => {
      const before = records.get(id) ?? this.#missing(id);
      this.#check(before, id, expectation);
      return this.#plain(id, change(before.value));
    });
  }

  /** @throws ApplianceError NOT_FOUND, CONFLICT, NO_SPACE, IO_FAILED */
  async delete(id: string, expectation: Expectation = {}): Promise<void> {
    await this.#enqueue([id], (records) => {
      this.#check(records.get(id) ?? this.#missing(id), id, expectation);
      records.delete(id);
      this.#revision += 1;
      return undefined;
    });
  }

  /** Makes these all the documents there are, in one write; what stays the same keeps its revision. Errors as `put`. */
  async replaceAll(values: ReadonlyMap<string, T>): Promise<void> {
    const plain = new Map([...values].map(([id, value]) => [checkId(id), this.#plain(id, value)]));
    await this.#enqueue(undefined, (records) => {
      this.#checkCount(plain.size);
      for (const id of records.keys()) if (!plain.has(id)) records.delete(id);
      for (const [id, value] of plain) {
        const before = records.get(id);
        if (before === undefined || canonicalJson(before.value) !== canonicalJson(value)) {
          records.set(id, this.#entry(id, value));
        }
      }
      this.#revision += 1;
      return undefined;
    });
  }

  /** The value as this collection would keep it. @throws ApplianceError BAD_ARGUMENT, LIMIT_REACHED */
  parse(id: string, value: unknown): T {
    return this.#plain(checkId(id), value as T);
  }

  /** Called after each durable change, one document at a time, and never before. Must not throw. Gives the way to end it. */
  onChange(listener: (change: CollectionChange<T>) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Settles when no change is under way any more, whatever became of them. */
  async settled(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  async #changed(id: string, make: (records: Records<T>) => T): Promise<Entry<T>> {
    const entry = await this.#enqueue([id], (records) => {
      const made = this.#entry(id, make(records));
      this.#checkCount(records.has(id) ? 0 : records.size + 1);
      records.set(id, made);
      return made;
    });
    return entry ?? this.#missing(id);
  }

  #enqueue(ids: readonly string[] | undefined, apply: Pending<T>['apply']): Promise<Entry<T> | undefined> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ apply, ids, resolve, reject });
      this.#writing ??= this.#writeQueue();
    });
  }

  async #writeQueue(): Promise<void> {
    // Whoever asked in this turn of the event loop shares the first write, too.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const batch = this.#queue;
      this.#queue = [];
      await this.#writeBatch(batch);
    }
    this.#writing = undefined;
  }

  async #writeBatch(batch: readonly Pending<T>[]): Promise<void> {
    const before = this.#records;
    const draft = new Map(before);
    const applied: { readonly pending: Pending<T>; readonly entry: Entry<T> | undefined }[] = [];
    for (const pending of batch) {
      try {
        applied.push({ pending, entry: pending.apply(draft) });
      } catch (error) {
        pending.reject(error);
      }
    }
    if (applied.length === 0) return;
    const revision = this.#revision;
    try {
      await this.#store(draft);
    } catch (error) {
      for (const { pending } of applied) pending.reject(error);
      return;
    }
    this.#records = draft;
    this.#shownRevision = revision;
    for (const { pending, entry } of applied) {
      this.#announce(pending.ids ?? changedIds(before, draft));
      pending.resolve(entry);
    }
  }

  async #store(records: Records<T>): Promise<void> {
    const bytes = encodeCollection({
      name: this.name,
      revision: this.#revision,
      records: [...records.values()].sort((a, b) => (a.id < b.id ? -1 : 1)),
    });
    const most = maxBytesOf(this.#options);
    if (bytes.length > most) {
      throw new ApplianceError('LIMIT_REACHED', `${this.name} would need ${bytes.length} bytes; ${most} are the limit`);
    }
    await writeDurably(this.#path, bytes, { fileSystem: this.#fileSystem });
  }

  #announce(ids: readonly string[]): void {
    for (const id of ids) {
      const change = { id, entry: this.#records.get(id) };
      // Not in the writer's turn: a listener that throws is a defect of its own and ends the process, not the change.
      for (const listener of this.#listeners) queueMicrotask(() => listener(change));
    }
  }

  #entry(id: string, value: T): Entry<T> {
    this.#revision += 1;
    return freezeAll({ id, revision: this.#revision, value });
  }

  /** The value as a new process would read it. */
  #plain(id: string, value: T): T {
    const text = JSON.stringify(value);
    if (text === undefined) throw new ApplianceError('BAD_ARGUMENT', `${this.name} ${id} has no value`);
    const bytes = Buffer.byteLength(text);
    if (bytes > MAX_RECORD_BYTES) {
      throw new ApplianceError(
        'LIMIT_REACHED',
        `${this.name} ${id} has ${bytes} bytes; ${MAX_RECORD_BYTES} are the limit`,
      );
    }
    return this.#options.check(JSON.parse(text), id);
  }

  #check(before: Entry<T> | undefined, id: string, { expect }: Expectation): void {
    if (expect === undefined) return;
    if (expect === 'absent' ? before === undefined : before?.revision === expect) return;
    const found = before === undefined ? 'is not there any more' : 'is there already, or was changed by somebody else';
    throw new ApplianceError('CONFLICT', `${this.name} ${id} ${found}`, {
      details: { collection: this.name, id, revision: before?.revision ?? null },
    });
  }

  #checkCount(count: number): void {
    const most = this.#options.maxRecords ?? MAX_RECORDS;
    if (count <= most) return;
    throw new ApplianceError('LIMIT_REACHED', `there are ${most} ${this.name} already, which is the limit`);
  }

  #missing(id: string): never {
    throw new ApplianceError('NOT_FOUND', `there is no ${this.name} ${id}`, { details: { collection: this.name, id } });
  }
}

/** Where a collection's file lies. */
export function collectionPath(directory: string, name: string): string {
  return join(directory, `${name}.json`);
}

function maxBytesOf(options: { readonly maxBytes?: number }): number {
  return options.maxBytes ?? MAX_COLLECTION_BYTES;
}

function checkStored<T>(
  record: { readonly id: string; readonly value: unknown },
  options: CollectionOptions<T>,
  path: string,
): T {
  try {
    return options.check(record.value, record.id);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ApplianceError('CONFIG_DAMAGED', `${path}: ${record.id} is not what belongs there: ${reason}`, { cause });
  }
}

/** The id itself. @throws ApplianceError BAD_ARGUMENT */
function checkId(id: string): string {
  if (id.length === 0 || id.length > MAX_ID_CHARACTERS || /\p{Cc}/u.test(id) || !id.isWellFormed()) {
    throw new ApplianceError(
      'BAD_ARGUMENT',
      `an id has 1 to ${MAX_ID_CHARACTERS} characters, none of them a control character`,
    );
  }
  return id;
}

function changedIds<T>(before: Records<T>, after: Records<T>): readonly string[] {
  const ids = new Set([...before.keys(), ...after.keys()]);
  return [...ids].filter((id) => before.get(id) !== after.get(id)).sort();
}

function freezeAll<V>(value: V): V {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value;
  Object.freeze(value);
  for (const member of Object.values(value)) freezeAll(member);
  return value;
}
