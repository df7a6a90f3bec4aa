// SPDX-License-Identifier: Apache-2.0
import { readdir } from 'node:fs/promises';
import { Level } from 'level';
import { type ContentKey, keyAt, keyBytes } from '../core/content-id.ts';
import { systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { PackId, PointId } from '../core/ids.ts';
import type { ChunkLocation, Damage, ManagedIndex, PackInfo } from '../repository/chunk-index.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { PackEntry } from '../repository/pack-format.ts';
import { binaryKey, PREFIX, type Prefix, rangeOf, textKey } from './keys.ts';
import { guard, guardEach, guardSync, openError } from './level-errors.ts';
import { catalogDamaged, decodeLocation, decodeRecord, encodeLocation, encodeRecord } from './records.ts';

/** Deletions of one batch; keeps a batch small beside what LevelDB buffers. */
const BATCH_ENTRIES = 10_000;
const WRITE_BUFFER_BYTES: number = 8 * 1024 * 1024;
const BLOCK_CACHE_BYTES: number = 32 * 1024 * 1024;
/** Names of LevelDB's files; with one of them there was a database here. */
const LEVELDB_FILE = /^(MANIFEST-\d+|\d+\.(log|ldb|sst))$/;

type Batch = ReturnType<Level<Buffer, Buffer>['batch']>;

/** What the repository holds, from the packs' sums. */
export interface StorageTotals {
  readonly packs: number;
  readonly frames: number;
  readonly uniqueBytes: number;
  readonly storedBytes: number;
}

/** A name under which the appliance keeps small values of its own. */
export type RecordPrefix = 'session/' | 'meta/' | 'run/';

/**
 * The catalog: an index in LevelDB over what the repository holds. It is not the truth: `rebuildCatalog` makes it again
 * from the packs and manifests. One process at a time has it open.
 *
 * Invariants: what is said of one pack is written in one batch, so that a batch that LevelDB lost takes the pack's
 * record with it and `reconcile` sees an unknown pack; an entry that lies in an unknown pack is not answered; whatever
 * a caller relies on after the call is written with `sync`.
 */
export class Catalog implements ManagedIndex, AsyncDisposable {
  readonly #db: Level<Buffer, Buffer>;
  readonly #packs = new Map<PackId, PackInfo>();
  readonly #damages = new Map<ContentKey, Damage>();

  private constructor(db: Level<Buffer, Buffer>) {
    this.#db = db;
  }

  /** @throws ApplianceError LOCKED when another process has it open, CATALOG_DAMAGED */
  static async open(directory: string): Promise<Catalog> {
    await refuseWithoutCurrent(directory);
    const db = new Level<Buffer, Buffer>(directory, {
      keyEncoding: 'buffer',
      valueEncoding: 'buffer',
      writeBufferSize: WRITE_BUFFER_BYTES,
      cacheSize: BLOCK_CACHE_BYTES,
    });
    try {
      await db.open();
    } catch (error) {
      throw openError(error, directory);
    }
    const catalog = new Catalog(db);
    try {
      await catalog.#load();
    } catch (error) {
      await db.close();
      throw error;
    }
    return catalog;
  }

  async findMany(ids: readonly ContentKey[]): Promise<readonly (ChunkLocation | undefined)[]> {
    if (ids.length === 0) return [];
    const values = await guard(this.#db.getMany(ids.map((id) => binaryKey(PREFIX.chunk, keyBytes(id)))));
    return ids.map((id, n) => this.#known(id, values[n]));
  }

  find(id: ContentKey): ChunkLocation | undefined {
    const value = guardSync(() => this.#db.getSync(binaryKey(PREFIX.chunk, keyBytes(id))));
    return this.#known(id, value) ?? this.#damagedPlace(id);
  }

  async addPack(packId: PackId, info: PackInfo, entries: readonly PackEntry[]): Promise<void> {
    const batch = this.#batch();
    const healed: ContentKey[] = [];
    for (const entry of entries) {
      const damage = this.#damages.get(entry.id);
      if (damage !== undefined) {
        if (damage.packId === packId && damage.offset === entry.offset) continue;
        healed.push(entry.id);
        batch.del(binaryKey(PREFIX.damage, keyBytes(entry.id)));
      }
      batch.put(binaryKey(PREFIX.chunk, keyBytes(entry.id)), encodeLocation(entry.id, { packId, ...entry }));
    }
    const key = textKey(PREFIX.pack, packId);
    batch.put(key, encodeRecord(key, info));
    await guard(batch.write({ sync: true }));
    this.#packs.set(packId, info);
    for (const id of healed) this.#damages.delete(id);
  }

  async removePack(packId: PackId, ids: readonly ContentKey[]): Promise<void> {
    const locations = await this.findMany(ids);
    const batch = this.#batch();
    for (const [n, id] of ids.entries()) {
      if (locations[n]?.packId === packId) batch.del(binaryKey(PREFIX.chunk, keyBytes(id)));
    }
    const damaged = [...this.#damages].filter(([, damage]) => damage.packId === packId).map(([id]) => id);
    for (const id of damaged) batch.del(binaryKey(PREFIX.damage, keyBytes(id)));
    batch.del(textKey(PREFIX.pack, packId));
    this.#packs.delete(packId);
    await guard(batch.write({ sync: true }));
    for (const id of damaged) this.#damages.delete(id);
  }

  async packs(): Promise<Map<PackId, PackInfo>> {
    return new Map(this.#packs);
  }

  async totals(): Promise<StorageTotals> {
    const totals = { packs: 0, frames: 0, uniqueBytes: 0, storedBytes: 0 };
    for (const info of this.#packs.values()) {
      totals.packs += 1;
      totals.frames += info.frames;
      totals.uniqueBytes += info.plainBytes;
      totals.storedBytes += info.packBytes;
    }
    return totals;
  }

  /** Lists a point. */
  async putPoint(point: RecoveryPoint): Promise<void> {
    const batch = this.#batch();
    this.#put(batch, PREFIX.point, point.id, point);
    batch.del(textKey(PREFIX.lost, point.id));
    await guard(batch.write({ sync: true }));
  }

  async deletePoint(id: string): Promise<void> {
    await guard(this.#db.del(textKey(PREFIX.point, id), { sync: true }));
  }

  /** Every listed point, in no particular order. */
  async points(): Promise<RecoveryPoint[]> {
    return [...(await this.#all<RecoveryPoint>(PREFIX.point)).values()];
  }

  /** Takes a point off the list because its manifest disappeared; what it named is kept from garbage collection. */
  async losePoint(point: RecoveryPoint): Promise<void> {
    const batch = this.#batch();
    this.#put(batch, PREFIX.lost, point.id, point);
    batch.del(textKey(PREFIX.point, point.id));
    await guard(batch.write({ sync: true }));
  }

  async lostPoints(): Promise<RecoveryPoint[]> {
    return [...(await this.#all<RecoveryPoint>(PREFIX.lost)).values()];
  }

  /** The operator's decision that a lost point does not come back. */
  async forgetLostPoint(id: PointId): Promise<void> {
    await guard(this.#db.del(textKey(PREFIX.lost, id), { sync: true }));
  }

  damages(): Map<ContentKey, Damage> {
    return new Map(this.#damages);
  }

  async markDamaged(id: ContentKey, what: string): Promise<void> {
    const [location] = await this.findMany([id]);
    if (location === undefined) return;
    const damage: Damage = { ...location, what };
    const key = binaryKey(PREFIX.damage, keyBytes(id));
    const batch = this.#batch();
    batch.put(key, encodeRecord(key, damage));
    batch.del(binaryKey(PREFIX.chunk, keyBytes(id)));
    await guard(batch.write({ sync: true }));
    this.#damages.set(id, damage);
  }

  async clearDamage(id: ContentKey): Promise<void> {
    const damage = this.#damages.get(id);
    if (damage === undefined) return;
    const batch = this.#batch();
    batch.put(binaryKey(PREFIX.chunk, keyBytes(id)), encodeLocation(id, damage));
    batch.del(binaryKey(PREFIX.damage, keyBytes(id)));
    await guard(batch.write({ sync: true }));
    this.#damages.delete(id);
  }

  async purgeDangling(): Promise<ContentKey[]> {
    const gone: ContentKey[] = [];
    let batch = this.#batch();
    for await (const [key, value] of guardEach(() => this.#db.iterator(rangeOf(PREFIX.chunk)))) {
      const id = keyAt(key, PREFIX.chunk.length);
      if (this.#packs.has(decodeLocation(id, value).packId)) continue;
      gone.push(id);
      batch.del(key);
      if (batch.length < BATCH_ENTRIES) continue;
      await guard(batch.write());
      batch = this.#batch();
    }
    await guard(batch.write({ sync: true }));
    return gone;
  }

  async note(name: string): Promise<unknown> {
    const key = textKey(PREFIX.meta, name);
    const value = await guard(this.#db.get(key));
    return value === undefined ? undefined : decodeRecord(key, value);
  }

  putNote(name: string, value: unknown): Promise<void> {
    return this.putRecord('meta/', name, value);
  }

  /** A small JSON value of the appliance itself, durable when settled. */
  async putRecord(prefix: RecordPrefix, name: string, value: unknown): Promise<void> {
    const key = textKey(prefix, name);
    await guard(this.#db.put(key, encodeRecord(key, value), { sync: true }));
  }

  async deleteRecord(prefix: RecordPrefix, name: string): Promise<void> {
    await guard(this.#db.del(textKey(prefix, name), { sync: true }));
  }

  /** Everything under a prefix, by name. The values are whatever was put. */
  records<T>(prefix: RecordPrefix): Promise<Map<string, T>> {
    return this.#all<T>(prefix);
  }

  async close(): Promise<void> {
    await this.#db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #load(): Promise<void> {
    for (const [id, info] of await this.#all<PackInfo>(PREFIX.pack)) this.#packs.set(id as PackId, info);
    for await (const [key, value] of guardEach(() => this.#db.iterator(rangeOf(PREFIX.damage)))) {
      this.#damages.set(keyAt(key, PREFIX.damage.length), decodeRecord<Damage>(key, value));
    }
  }

  async #all<T>(prefix: Prefix): Promise<Map<string, T>> {
    const found = new Map<string, T>();
    for await (const [key, value] of guardEach(() => this.#db.iterator(rangeOf(prefix)))) {
      found.set(key.toString('utf8', prefix.length), decodeRecord<T>(key, value));
    }
    return found;
  }

  #batch(): Batch {
    return guardSync(() => this.#db.batch());
  }

  #put(batch: Batch, prefix: Prefix, name: string, value: unknown): void {
    const key = textKey(prefix, name);
    batch.put(key, encodeRecord(key, value));
  }

  #known(id: ContentKey, value: Buffer | undefined): ChunkLocation | undefined {
    if (value === undefined) return undefined;
    const location = decodeLocation(id, value);
    return this.#packs.has(location.packId) ? location : undefined;
  }

  #damagedPlace(id: ContentKey): ChunkLocation | undefined {
    const damage = this.#damages.get(id);
    return damage !== undefined && this.#packs.has(damage.packId) ? damage : undefined;
  }
}

/** LevelDB would quietly begin anew in a directory whose file CURRENT was lost. */
async function refuseWithoutCurrent(directory: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw storageError(error, 'list', directory);
  }
  if (!names.includes('CURRENT') && names.some((name) => LEVELDB_FILE.test(name))) {
    throw catalogDamaged(`its file CURRENT is missing from ${directory}`);
  }
}
