// SPDX-License-Identifier: Apache-2.0
import { randomFillSync } from 'node:crypto';
import { readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Level } from 'level';
import { type ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { guard, guardEach, guardSync, levelError, openError } from './level-errors.ts';
import { catalogDamaged } from './records.ts';

const WRITE_BUFFER_BYTES: number = 8 * 1024 * 1024;
const BLOCK_CACHE_BYTES: number = 32 * 1024 * 1024;
/** Names of LevelDB's files; with one of them there was a database here. */
const LEVELDB_FILE = /^(MANIFEST-\d+|\d+\.(log|ldb|sst))$/;
/** What opening writes besides the content of the logs, which it turns into tables. */
const OPENING_BYTES: number = 1024 * 1024;
/** A file that is written to see whether there is room; LevelDB knows no such name. */
const PROBE_NAME = 'room-probe';

type Database = Level<Buffer, Buffer>;

/** One key that a write changes. */
export type Change =
  | { readonly type: 'put'; readonly key: Buffer; readonly value: Buffer }
  | { readonly type: 'del'; readonly key: Buffer };

export interface KeyRange {
  readonly gte: Buffer;
  readonly lt: Buffer;
}

/**
 * LevelDB in a process that lives on when its disk was full. After a write that failed LevelDB may refuse all others, or
 * append them behind a torn record, where its next start does not find them; and whether the failed one took place shows
 * only then. So nothing is written after a failed write before the database was closed and opened again, which happens
 * with the next write that has room for it, and what the failed one touched is then put back to what it was: a write that
 * failed did not take place. Reads go on all the time; those that come while it is opened again wait (`ready`).
 *
 * Invariants: one write at a time; never closed while a read runs; never closed by itself without room to open it.
 */
export class LevelStore {
  readonly #directory: string;
  readonly #db: Database;
  #running = 0;
  #onIdle: (() => void) | undefined;
  #writes: Promise<unknown> = Promise.resolve();
  /** Of the last write; nothing is written before it is dealt with. */
  #failure: ApplianceError | undefined;
  #doubtfulKeys: readonly Buffer[] = [];
  /** What those keys had when the database was closed. */
  #formerValues: readonly (Buffer | undefined)[] | undefined;
  #reopening: Promise<void> | undefined;
  #isClosed = false;

  private constructor(directory: string, db: Database) {
    this.#directory = directory;
    this.#db = db;
  }

  /** @throws ApplianceError LOCKED when another process has it open, CATALOG_DAMAGED, NO_SPACE, IO_FAILED */
  static async open(directory: string): Promise<LevelStore> {
    // Before there is an object: it opens itself with the next turn of the event loop.
    await refuseWithoutCurrent(directory);
    const db = new Level<Buffer, Buffer>(directory, {
      keyEncoding: 'buffer',
      valueEncoding: 'buffer',
      writeBufferSize: WRITE_BUFFER_BYTES,
      cacheSize: BLOCK_CACHE_BYTES,
    });
    await openDatabase(db, directory);
    return new LevelStore(directory, db);
  }

  /** Undefined when `getSync` answers at once; otherwise settles when it does. Rejects when the database cannot be opened. */
  ready(): Promise<void> | undefined {
    if (this.#reopening !== undefined) return this.#reopening;
    return this.#isClosed || this.#db.status === 'open' ? undefined : this.#startReopening();
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#read((db) => guard(db.get(key)));
  }

  getMany(keys: Buffer[]): Promise<(Buffer | undefined)[]> {
    return this.#read((db) => guard(db.getMany(keys)));
  }

  /** @throws ApplianceError CLOSED also while `ready` is not undefined */
  getSync(key: Buffer): Buffer | undefined {
    return guardSync(() => this.#db.getSync(key));
  }

  /** Shows every entry of the range, in the order of the keys. */
  each(range: KeyRange, visit: (key: Buffer, value: Buffer) => void): Promise<void> {
    return this.#read(async (db) => {
      for await (const [key, value] of guardEach(() => db.iterator(range))) visit(key, value);
    });
  }

  /**
   * All of the changes or none, durable when settled unless `isSynced` is false.
   * @throws ApplianceError NO_SPACE (with room it can be done again), IO_FAILED (until the process is started anew), CATALOG_DAMAGED
   */
  write(changes: readonly Change[], isSynced = true): Promise<void> {
    const turn = this.#writes.then(() => this.#write(changes, isSynced));
    this.#writes = turn.catch(() => undefined);
    return turn;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#writes;
    await Promise.allSettled([this.#reopening]);
    await this.#db.close();
  }

  async #read<T>(action: (db: Database) => Promise<T>): Promise<T> {
    // No turn of the event loop lies between the last look and the count.
    for (let ready = this.ready(); ready !== undefined; ready = this.ready()) await ready;
    this.#running += 1;
    try {
      return await action(this.#db);
    } finally {
      this.#running -= 1;
      if (this.#running === 0) this.#onIdle?.();
    }
  }

  async #write(changes: readonly Change[], isSynced: boolean): Promise<void> {
    if (this.#failure !== undefined) await this.#recover(this.#failure);
    await this.#read(async (db) => {
      try {
        await db.batch([...changes], { sync: isSynced });
      } catch (thrown) {
        const error = levelError(thrown);
        if (error.code !== 'CLOSED') {
          this.#failure = error;
          this.#doubtfulKeys = changes.map(({ key }) => key);
        }
        throw error;
      }
    });
  }

  /** Only a lack of room goes away by itself; with another failure what can still be read is worth more. */
  async #recover(failure: ApplianceError): Promise<void> {
    if (failure.code !== 'NO_SPACE') throw failure;
    if (this.#db.status === 'open') await probeRoom(this.#directory);
    await (this.#reopening ?? this.#startReopening());
  }

  #startReopening(): Promise<void> {
    const reopening = this.#reopen().finally(() => {
      this.#reopening = undefined;
    });
    this.#reopening = reopening;
    return reopening;
  }

  async #reopen(): Promise<void> {
    const db = this.#db;
    if (db.status === 'open') {
      if (this.#running > 0) {
        await new Promise<void>((resolve) => {
          this.#onIdle = resolve;
        });
        this.#onIdle = undefined;
      }
      this.#formerValues ??= await guard(db.getMany([...this.#doubtfulKeys]));
      await guard(db.close());
    }
    await refuseWithoutCurrent(this.#directory);
    await openDatabase(db, this.#directory);
    await this.#putBack();
    this.#failure = undefined;
    this.#doubtfulKeys = [];
    this.#formerValues = undefined;
  }

  /** The failed write may be in the log after all: then it is undone. */
  async #putBack(): Promise<void> {
    const keys = this.#doubtfulKeys;
    const now = await guard(this.#db.getMany([...keys]));
    const undo = keys.flatMap((key, n): Change[] => {
      const [before, after] = [this.#formerValues?.[n], now[n]];
      if (before === undefined) return after === undefined ? [] : [{ type: 'del', key }];
      return after?.equals(before) === true ? [] : [{ type: 'put', key, value: before }];
    });
    if (undo.length > 0) await guard(this.#db.batch(undo, { sync: true }));
  }
}

async function openDatabase(db: Database, directory: string): Promise<void> {
  try {
    await db.open();
  } catch (error) {
    throw openError(error, directory);
  }
}

/** LevelDB would quietly begin anew in a directory whose file CURRENT was lost. */
async function refuseWithoutCurrent(directory: string): Promise<void> {
  const names = await listNames(directory);
  if (!names.includes('CURRENT') && names.some((name) => LEVELDB_FILE.test(name))) {
    throw catalogDamaged(`its file CURRENT is missing from ${directory}`);
  }
}

/** Takes the room that opening needs, and gives it back: quotas and file systems that promise too much are found out. */
async function probeRoom(directory: string): Promise<void> {
  const path = join(directory, PROBE_NAME);
  try {
    let neededBytes = OPENING_BYTES;
    for (const name of await listNames(directory)) {
      if (name.endsWith('.log')) neededBytes += (await stat(join(directory, name))).size;
    }
    await writeFile(path, randomFillSync(Buffer.alloc(neededBytes)));
  } catch (error) {
    throw storageError(error, 'write', path);
  } finally {
    await rm(path, { force: true });
  }
}

async function listNames(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw storageError(error, 'list', directory);
  }
}
