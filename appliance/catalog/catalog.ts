// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyAt, keyBytes } from '../core/content-id.ts';
import type { PackId, PointId } from '../core/ids.ts';
import type { ChunkLocation, Damage, ManagedIndex, PackInfo } from '../repository/chunk-index.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { PackEntry } from '../repository/pack-format.ts';
import { binaryKey, PREFIX, type Prefix, rangeOf, textKey } from './keys.ts';
import { type Change, LevelStore } from './level-store.ts';
import { catalogDamaged, decodeLocation, decodeRecord, encodeLocation, encodeRecord } from './records.ts';

/** Deletions of one batch; keeps a batch small beside what LevelDB buffers. */
const BATCH_ENTRIES = 10_000;

/** Of the arrangement of keys and values; noted in a new catalog. */
export const CATALOG_VERSION = 1;
export const FORMAT_NOTE = 'format';

/** What the repository holds, from the packs' sums. */
export interface StorageTotals {
  readonly packs: number;
  readonly frames: number;
  readonly uniqueBytes: number;
  readonly storedBytes: number;
}

/** The points that the catalog knows. */
export interface PointLists {
  readonly listed: readonly RecoveryPoint[];
  /** Their manifests disappeared; see `losePoint`. */
  readonly lost: readonly RecoveryPoint[];
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
  readonly #db: LevelStore;
  readonly #packs = new Map<PackId, PackInfo>();
  readonly #damages = new Map<ContentKey, Damage>();
  /** The listed and the lost points, as they were last read; made anew after each change. */
  #listed: Promise<PointLists> | undefined;

  private constructor(db: LevelStore) {
    this.#db = db;
  }

  /** @throws ApplianceError LOCKED when another process has it open, CATALOG_DAMAGED */
  static async open(directory: string): Promise<Catalog> {
    const db = await LevelStore.open(directory);
    const catalog = new Catalog(db);
    try {
      await catalog.#refuseNewer();
      await catalog.#load();
    } catch (error) {
      await db.close();
      throw error;
    }
    return catalog;
  }

  async findMany(ids: readonly ContentKey[]): Promise<readonly (ChunkLocation | undefined)[]> {
    if (ids.length === 0) return [];
    const values = await this.#db.getMany(ids.map((id) => binaryKey(PREFIX.chunk, keyBytes(id))));
    return ids.map((id, n) => this.#known(id, values[n]));
  }

  ready(): Promise<void> | undefined {
    return this.#db.ready();
  }

  find(id: ContentKey): ChunkLocation | undefined {
    const value = this.#db.getSync(binaryKey(PREFIX.chunk, keyBytes(id)));
    return this.#known(id, value) ?? this.#damagedPlace(id);
  }

  async addPack(packId: PackId, info: PackInfo, entries: readonly PackEntry[]): Promise<void> {
    const changes: Change[] = [];
    const healed: ContentKey[] = [];
    for (const entry of entries) {
      const damage = this.#damages.get(entry.id);
      if (damage !== undefined) {
        if (damage.packId === packId && damage.offset === entry.offset) continue;
        healed.push(entry.id);
        changes.push(del(binaryKey(PREFIX.damage, keyBytes(entry.id))));
      }
      changes.push(put(binaryKey(PREFIX.chunk, keyBytes(entry.id)), encodeLocation(entry.id, { packId, ...entry })));
    }
    const key = textKey(PREFIX.pack, packId);
    changes.push(put(key, encodeRecord(key, info)));
    await this.#db.write(changes);
    this.#packs.set(packId, info);
    for (const id of healed) this.#damages.delete(id);
  }

  async removePack(packId: PackId, ids: readonly ContentKey[]): Promise<void> {
    const locations = await this.findMany(ids);
    const changes: Change[] = [];
    for (const [n, id] of ids.entries()) {
      if (locations[n]?.packId === packId) changes.push(del(binaryKey(PREFIX.chunk, keyBytes(id))));
    }
    const damaged = [...this.#damages].filter(([, damage]) => damage.packId === packId).map(([id]) => id);
    for (const id of damaged) changes.push(del(binaryKey(PREFIX.damage, keyBytes(id))));
    changes.push(del(textKey(PREFIX.pack, packId)));
    const info = this.#packs.get(packId);
    this.#packs.delete(packId);
    try {
      await this.#db.write(changes);
    } catch (error) {
      if (info !== undefined) this.#packs.set(packId, info);
      throw error;
    }
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
    const changes: Change[] = [];
    this.#put(changes, PREFIX.point, point.id, point);
    changes.push(del(textKey(PREFIX.lost, point.id)));
    await this.#writePoints(changes);
  }

  async deletePoint(id: string): Promise<void> {
    await this.#writePoints([del(textKey(PREFIX.point, id))]);
  }

  /** Every listed point, in no particular order. */
  async points(): Promise<RecoveryPoint[]> {
    return [...(await this.pointLists()).listed];
  }

  /** Both lists of points; the very same object until one of them changes. */
  pointLists(): Promise<PointLists> {
    if (this.#listed !== undefined) return this.#listed;
    const reading = this.#readPoints();
    this.#listed = reading;
    reading.catch(() => {
      if (this.#listed === reading) this.#listed = undefined;
    });
    return reading;
  }

  /** Takes a point off the list because its manifest disappeared; what it named is kept from garbage collection. */
  async losePoint(point: RecoveryPoint): Promise<void> {
    const changes: Change[] = [];
    this.#put(changes, PREFIX.lost, point.id, point);
    changes.push(del(textKey(PREFIX.point, point.id)));
    await this.#writePoints(changes);
  }

  async lostPoints(): Promise<RecoveryPoint[]> {
    return [...(await this.pointLists()).lost];
  }

  /** The operator's decision that a lost point does not come back. */
  async forgetLostPoint(id: PointId): Promise<void> {
    await this.#writePoints([del(textKey(PREFIX.lost, id))]);
  }

  damages(): Map<ContentKey, Damage> {
    return new Map(this.#damages);
  }

  async markDamaged(id: ContentKey, what: string): Promise<void> {
    const [location] = await this.findMany([id]);
    if (location === undefined) return;
    const damage: Damage = { ...location, what };
    const key = binaryKey(PREFIX.damage, keyBytes(id));
    const changes: Change[] = [];
    changes.push(put(key, encodeRecord(key, damage)));
    changes.push(del(binaryKey(PREFIX.chunk, keyBytes(id))));
    await this.#db.write(changes);
    this.#damages.set(id, damage);
  }

  async clearDamage(id: ContentKey): Promise<void> {
    const damage = this.#damages.get(id);
    if (damage === undefined) return;
    const changes: Change[] = [];
    changes.push(put(binaryKey(PREFIX.chunk, keyBytes(id)), encodeLocation(id, damage)));
    changes.push(del(binaryKey(PREFIX.damage, keyBytes(id))));
    await this.#db.write(changes);
    this.#damages.delete(id);
  }

  async purgeDangling(): Promise<ContentKey[]> {
    const gone: ContentKey[] = [];
    await this.#db.each(rangeOf(PREFIX.chunk), (key, value) => {
      const id = keyAt(key, PREFIX.chunk.length);
      if (!this.#packs.has(decodeLocation(id, value).packId)) gone.push(id);
    });
    for (let at = 0; at < gone.length; at += BATCH_ENTRIES) {
      const ids = gone.slice(at, at + BATCH_ENTRIES);
      await this.#db.write(
        ids.map((id) => del(binaryKey(PREFIX.chunk, keyBytes(id)))),
        at + BATCH_ENTRIES >= gone.length,
      );
    }
    return gone;
  }

  note(name: string): Promise<unknown> {
    return this.record('meta/', name);
  }

  putNote(name: string, value: unknown): Promise<void> {
    return this.putRecord('meta/', name, value);
  }

  /** A small JSON value of the appliance itself, durable when settled. */
  async putRecord(prefix: RecordPrefix, name: string, value: unknown): Promise<void> {
    const key = textKey(prefix, name);
    await this.#db.write([put(key, encodeRecord(key, value))]);
  }

  async record<T>(prefix: RecordPrefix, name: string): Promise<T | undefined> {
    const key = textKey(prefix, name);
    const value = await this.#db.get(key);
    return value === undefined ? undefined : decodeRecord<T>(key, value);
  }

  async deleteRecord(prefix: RecordPrefix, name: string): Promise<void> {
    await this.#db.write([del(textKey(prefix, name))]);
  }

  /** Everything under a prefix, by name. The values are whatever was put. */
  records<T>(prefix: RecordPrefix): Promise<Map<string, T>> {
    return this.#all<T>(prefix);
  }

  async close(): Promise<void> {
    this.#listed = undefined;
    await this.#db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Nothing is read of what a later version may have arranged in another way. Without a note it is the first version. */
  async #refuseNewer(): Promise<void> {
    const version = (await this.note(FORMAT_NOTE)) ?? CATALOG_VERSION;
    if (version === CATALOG_VERSION) return;
    const what = `it has format version ${JSON.stringify(version)}, and this program knows ${CATALOG_VERSION}`;
    throw catalogDamaged(what);
  }

  async #load(): Promise<void> {
    for (const [id, info] of await this.#all<PackInfo>(PREFIX.pack)) this.#packs.set(id as PackId, info);
    await this.#db.each(rangeOf(PREFIX.damage), (key, value) => {
      this.#damages.set(keyAt(key, PREFIX.damage.length), decodeRecord<Damage>(key, value));
    });
  }

  /** Who reads while it is written gets the old or the new list, and nobody keeps the old one. */
  async #writePoints(changes: Change[]): Promise<void> {
    try {
      await this.#db.write(changes);
    } finally {
      this.#listed = undefined;
    }
  }

  async #readPoints(): Promise<PointLists> {
    const listed = await this.#all<RecoveryPoint>(PREFIX.point);
    const lost = await this.#all<RecoveryPoint>(PREFIX.lost);
    return { listed: [...listed.values()], lost: [...lost.values()] };
  }

  async #all<T>(prefix: Prefix): Promise<Map<string, T>> {
    const found = new Map<string, T>();
    await this.#db.each(rangeOf(prefix), (key, value) => {
      found.set(key.toString('utf8', prefix.length), decodeRecord<T>(key, value));
    });
    return found;
  }

  #put(changes: Change[], prefix: Prefix, name: string, value: unknown): void {
    const key = textKey(prefix, name);
    changes.push(put(key, encodeRecord(key, value)));
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

function put(key: Buffer, value: Buffer): Change {
  return { type: 'put', key, value };
}

function del(key: Buffer): Change {
  return { type: 'del', key };
}
