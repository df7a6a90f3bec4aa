// SPDX-License-Identifier: Apache-2.0
import { Level } from 'level';
import { type ContentKey, keyBytes } from '../core/content-id.ts';
import { ApplianceError, systemErrorCode, toError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { ChunkIndex, ChunkLocation, PackInfo } from '../repository/chunk-index.ts';
import { FRAME_KIND } from '../repository/format.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { PackEntry } from '../repository/pack-format.ts';
import { binaryKey, PREFIX, rangeOf, textKey } from './keys.ts';

const LOCATION_BYTES = 30;
/** Deletions of one batch; keeps a batch small beside what LevelDB buffers (4 MiB). */
const BATCH_ENTRIES = 10_000;
const WRITE_BUFFER_BYTES: number = 8 * 1024 * 1024;
const BLOCK_CACHE_BYTES: number = 32 * 1024 * 1024;

/** What the repository holds, from the packs' sums. */
export interface StorageTotals {
  readonly packs: number;
  readonly frames: number;
  readonly uniqueBytes: number;
  readonly storedBytes: number;
}

/**
 * The catalog: an index in LevelDB over what the repository holds. It is not the truth: `rebuildCatalog` makes it again
 * from the packs and manifests. One process at a time has it open.
 */
export class Catalog implements ChunkIndex, AsyncDisposable {
  readonly #db: Level<Buffer, Buffer>;

  private constructor(db: Level<Buffer, Buffer>) {
    this.#db = db;
  }

  /** @throws ApplianceError LOCKED when another process has it open, CATALOG_DAMAGED */
  static async open(directory: string): Promise<Catalog> {
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
    return new Catalog(db);
  }

  async findMany(ids: readonly ContentKey[]): Promise<readonly (ChunkLocation | undefined)[]> {
    if (ids.length === 0) return [];
    const values = await guard(this.#db.getMany(ids.map((id) => binaryKey(PREFIX.chunk, keyBytes(id)))));
    return values.map((value) => (value === undefined ? undefined : decodeLocation(value)));
  }

  find(id: ContentKey): ChunkLocation | undefined {
    const value = this.#db.getSync(binaryKey(PREFIX.chunk, keyBytes(id)));
    return value === undefined ? undefined : decodeLocation(value);
  }

  async addPack(packId: PackId, info: PackInfo, entries: readonly PackEntry[]): Promise<void> {
    const batch = this.#db.batch();
    for (const entry of entries) batch.put(binaryKey(PREFIX.chunk, keyBytes(entry.id)), encodeLocation(packId, entry));
    batch.put(textKey(PREFIX.pack, packId), Buffer.from(JSON.stringify(info)));
    await guard(batch.write());
  }

  async removePack(packId: PackId, ids: readonly ContentKey[]): Promise<void> {
    for (let at = 0; at < ids.length; at += BATCH_ENTRIES) {
      const part = ids.slice(at, at + BATCH_ENTRIES);
      const locations = await this.findMany(part);
      const batch = this.#db.batch();
      for (const [n, id] of part.entries()) {
        if (locations[n]?.packId === packId) batch.del(binaryKey(PREFIX.chunk, keyBytes(id)));
      }
      await guard(batch.write());
    }
    await guard(this.#db.del(textKey(PREFIX.pack, packId), { sync: true }));
  }

  /** Every pack that the index knows. */
  async packs(): Promise<Map<PackId, PackInfo>> {
    const packs = new Map<PackId, PackInfo>();
    const range = rangeOf(PREFIX.pack);
    for await (const [key, value] of this.#db.iterator(range)) {
      packs.set(key.toString('utf8', PREFIX.pack.length) as PackId, parseJson<PackInfo>(value));
    }
    return packs;
  }

  async totals(): Promise<StorageTotals> {
    const totals = { packs: 0, frames: 0, uniqueBytes: 0, storedBytes: 0 };
    for (const info of (await this.packs()).values()) {
      totals.packs += 1;
      totals.frames += info.frames;
      totals.uniqueBytes += info.plainBytes;
      totals.storedBytes += info.packBytes;
    }
    return totals;
  }

  /** Lists a point; with it everything that was written before becomes durable. */
  async putPoint(point: RecoveryPoint): Promise<void> {
    await guard(this.#db.put(textKey(PREFIX.point, point.id), Buffer.from(JSON.stringify(point)), { sync: true }));
  }

  async deletePoint(id: string): Promise<void> {
    await guard(this.#db.del(textKey(PREFIX.point, id), { sync: true }));
  }

  /** Every listed point, in no particular order. */
  async points(): Promise<RecoveryPoint[]> {
    const points: RecoveryPoint[] = [];
    for await (const value of this.#db.values(rangeOf(PREFIX.point))) points.push(parseJson<RecoveryPoint>(value));
    return points;
  }

  /** Remembers that a stored content is damaged, and forgets where it lies: the next backup stores it anew. */
  async markDamaged(id: ContentKey, what: string): Promise<void> {
    const batch = this.#db.batch();
    batch.put(binaryKey(PREFIX.damage, keyBytes(id)), Buffer.from(what));
    batch.del(binaryKey(PREFIX.chunk, keyBytes(id)));
    await guard(batch.write({ sync: true }));
  }

  /** A small JSON value of the appliance itself, under `session/` or `meta/`. */
  async putRecord(prefix: 'session/' | 'meta/', name: string, value: unknown): Promise<void> {
    await guard(this.#db.put(textKey(prefix, name), Buffer.from(JSON.stringify(value)), { sync: true }));
  }

  async deleteRecord(prefix: 'session/' | 'meta/', name: string): Promise<void> {
    await guard(this.#db.del(textKey(prefix, name), { sync: true }));
  }

  /** Everything under `session/` or `meta/`, by name. The values are whatever was put. */
  async records<T>(prefix: 'session/' | 'meta/'): Promise<Map<string, T>> {
    const records = new Map<string, T>();
    for await (const [key, value] of this.#db.iterator(rangeOf(prefix))) {
      records.set(key.toString('utf8', prefix.length), parseJson<T>(value));
    }
    return records;
  }

  async close(): Promise<void> {
    await this.#db.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** 16 bytes pack id, kind, reserved, offset, frame bytes, plain bytes. */
function encodeLocation(packId: PackId, entry: PackEntry): Buffer {
  const value = Buffer.alloc(LOCATION_BYTES);
  value.write(packId, 0, 16, 'hex');
  value.writeUInt8(entry.kind, 16);
  value.writeUInt32BE(entry.offset, 18);
  value.writeUInt32BE(entry.frameBytes, 22);
  value.writeUInt32BE(entry.plainBytes, 26);
  return value;
}

function decodeLocation(value: Buffer): ChunkLocation {
  if (value.length !== LOCATION_BYTES) throw damaged('an entry of the chunk index has the wrong length');
  return {
    packId: value.toString('hex', 0, 16) as PackId,
    kind: value.readUInt8(16) === FRAME_KIND.node ? FRAME_KIND.node : FRAME_KIND.chunk,
    offset: value.readUInt32BE(18),
    frameBytes: value.readUInt32BE(22),
    plainBytes: value.readUInt32BE(26),
  };
}

function parseJson<T>(value: Buffer): T {
  try {
    return JSON.parse(value.toString('utf8')) as T;
  } catch (cause) {
    throw damaged('an entry is not JSON', cause);
  }
}

async function guard<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw catalogError(error);
  }
}

function catalogError(error: unknown): ApplianceError {
  const message = toError(error).message;
  if (/No space left|ENOSPC/i.test(`${message} ${causeOf(error)}`)) {
    return new ApplianceError('NO_SPACE', 'no space left for the catalog', { cause: error });
  }
  return damaged(message, error);
}

function openError(error: unknown, directory: string): ApplianceError {
  const cause = error instanceof Error ? error.cause : undefined;
  if (systemErrorCode(cause) === 'LEVEL_LOCKED') {
    return new ApplianceError('LOCKED', `the catalog in ${directory} is in use by another process`, { cause: error });
  }
  return damaged(`${toError(error).message} ${causeOf(error)}`, error);
}

function causeOf(error: unknown): string {
  return error instanceof Error && error.cause instanceof Error ? error.cause.message : '';
}

function damaged(message: string, cause?: unknown): ApplianceError {
  return new ApplianceError('CATALOG_DAMAGED', `the catalog cannot be used: ${message}`, { cause });
}
