// SPDX-License-Identifier: Apache-2.0
import { availableParallelism } from 'node:os';
import { type Clock, systemClock } from '../core/clock.ts';
import { CONTENT_ID_BYTES, type ContentKey } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, realFileSystem } from '../core/file-system.ts';
import type { PackId } from '../core/ids.ts';
import { type HostUptime, hostUptime } from '../core/uptime.ts';
import { Arena, SlabPool } from './arena.ts';
import type { ChunkIndex } from './chunk-index.ts';
import { ChunkReader, chunkReaderArenaBytes } from './chunk-reader.ts';
import { ChunkWriter, type ChunkWriterContext } from './chunk-writer.ts';
import { CodecPool } from './codec-pool.ts';
import type { RepositoryConfig } from './config.ts';
import { MIB, NODE_BYTES } from './format.ts';
import { FrameCodec } from './frame-codec.ts';
import { deriveKeys, type RepositoryKeys } from './keys.ts';
import { ManifestStore } from './manifest-store.ts';
import type { ObjectStore } from './object-store.ts';
import { PointGuards } from './point-guards.ts';

/** Bytes of content in a slab: what one message to a worker covers. */
const SLAB_CONTENT_BYTES: number = MIB;
/** Contents of a slab at most: nodes are the smallest. */
const MAX_ITEMS_PER_SLAB: number = Math.floor(SLAB_CONTENT_BYTES / NODE_BYTES);
/** zstd's level: 2 costs a tenth more than 1 and stores 3 % less (docs/decisions/0006-chunk-size.md). */
export const DEFAULT_ZSTD_LEVEL = 2;

/** What a repository may use of the machine. */
export interface RepositoryResources {
  /** Threads that hash, compress and encrypt. */
  readonly threads: number;
  /** Verified plain chunks that are kept for readers. */
  readonly cacheBytes: number;
  /** Slabs of 1 MiB that backups fill: the bound of the bytes in flight. */
  readonly plainSlabs: number;
  readonly frameSlabs: number;
  readonly zstdLevel: number;
}

export const DEFAULT_RESOURCES: RepositoryResources = {
  threads: Math.max(2, Math.min(8, availableParallelism())),
  cacheBytes: 128 * MIB,
  plainSlabs: 16,
  frameSlabs: 8,
  zstdLevel: DEFAULT_ZSTD_LEVEL,
};

export interface RepositoryParts {
  readonly store: ObjectStore;
  readonly fileSystem?: FileSystem;
  readonly config: RepositoryConfig;
  readonly masterKey: Buffer;
  readonly index: ChunkIndex;
  readonly resources?: Partial<RepositoryResources>;
  /** What dates of holds and locks wait for; default: the machine's. */
  readonly clock?: Clock;
  readonly uptime?: () => HostUptime;
  /** Called once when nothing can be read or written any more, whatever is tried: the process has to be started anew. */
  readonly onFailure?: ((error: ApplianceError) => void) | undefined;
}

/** Where a collection marks from: the maps of disks, and chunks of attachments. */
export interface HeldRoots {
  readonly maps: readonly ContentKey[];
  readonly chunks: readonly ContentKey[];
}

/**
 * An open repository: contents in, contents out, manifests. One process at a time writes to it (the state directory's
 * lock, and the repository's own).
 */
export class Repository implements AsyncDisposable {
  readonly config: RepositoryConfig;
  readonly keys: RepositoryKeys;
  readonly store: ObjectStore;
  readonly index: ChunkIndex;
  readonly fileSystem: FileSystem;
  readonly reader: ChunkReader;
  readonly manifests: ManifestStore;
  /** Holds and locks of points. */
  readonly guards: PointGuards;
  readonly pool: CodecPool;
  /**
   * Packs that are being removed, or were: nothing may be deduplicated against them any more. An id stays here after the
   * removal, because a lookup that began before it may end after it.
   */
  readonly doomedPacks: Set<PackId> = new Set();
  readonly #writers = new Set<ChunkWriter>();
  /** Those of them that belong to a collection. */
  readonly #upkeepWriters = new Set<ChunkWriter>();
  /** While garbage is collected: what writers had pinned that have closed since. */
  #formerPins: Set<PackId> | undefined;
  readonly #holds = new Set<HeldRoots>();
  /** What runs now of what must run alone, in words. */
  #upkeep: string | undefined;
  readonly #writerContext: ChunkWriterContext;

  constructor(parts: RepositoryParts) {
    const resources = { ...DEFAULT_RESOURCES, ...parts.resources };
    const { config, store, index } = parts;
    this.config = config;
    this.store = store;
    this.index = index;
    this.fileSystem = parts.fileSystem ?? realFileSystem;
    this.keys = deriveKeys(parts.masterKey, config.id, config.encryption !== 'none');
    const contentBytes = Math.max(SLAB_CONTENT_BYTES, config.chunkBytes);
    const plainSlabBytes = contentBytes + MAX_ITEMS_PER_SLAB * CONTENT_ID_BYTES;
    const frameSlabBytes = FrameCodec.frameBound(0) * MAX_ITEMS_PER_SLAB + contentBytes;
    const arena = new Arena(
      resources.plainSlabs * (plainSlabBytes + 64) +
        resources.frameSlabs * (frameSlabBytes + 64) +
        chunkReaderArenaBytes(config.chunkBytes, resources.cacheBytes) +
        MIB,
    );
    this.pool = new CodecPool(arena, this.keys, { ...resources, onFailure: parts.onFailure });
    this.#writerContext = {
      repositoryId: config.id,
      chunkBytes: config.chunkBytes,
      pool: this.pool,
      plainSlabs: new SlabPool(arena, resources.plainSlabs, plainSlabBytes),
      frameSlabs: new SlabPool(arena, resources.frameSlabs, frameSlabBytes),
      idsOffset: contentBytes,
      store,
      fileSystem: this.fileSystem,
      index,
      isDoomed: (packId) => this.doomedPacks.has(packId),
    };
    this.reader = new ChunkReader(arena, {
      pool: this.pool,
      index,
      store,
      chunkBytes: config.chunkBytes,
      cacheBytes: resources.cacheBytes,
    });
    const { clock = systemClock, uptime = hostUptime } = parts;
    this.guards = new PointGuards(store, this.keys.manifest, { clock, uptime });
    this.manifests = new ManifestStore(store, this.keys.manifest, this.guards);
  }

  get chunkBytes(): number {
    return this.config.chunkBytes;
  }

  /** A writer for one run. Close it in every case. `isUpkeep`: it stores nothing new, for `isStoring`. */
  openWriter({ isUpkeep = false }: { readonly isUpkeep?: boolean } = {}): ChunkWriter {
    const writer: ChunkWriter = new ChunkWriter(this.#writerContext, () => {
      this.#writers.delete(writer);
      this.#upkeepWriters.delete(writer);
      for (const packId of writer.pinnedPacks) this.#formerPins?.add(packId);
    });
    this.#writers.add(writer);
    if (isUpkeep) this.#upkeepWriters.add(writer);
    return writer;
  }

  /**
   * Keeps what these roots reach from garbage collection, whatever becomes of their points, until it is disposed: an
   * incremental shares its base's nodes without writing or pinning them, and an export reads a point for days. Take the
   * hold, and look afterwards whether the point is still there: a collection has then seen one of the two.
   */
  hold({ maps, chunks }: HeldRoots): Disposable {
    const held = { maps: [...maps], chunks: [...chunks] };
    this.#holds.add(held);
    return { [Symbol.dispose]: () => void this.#holds.delete(held) };
  }

  /** Every root that is held now. */
  heldRoots(): HeldRoots {
    const holds = [...this.#holds];
    return { maps: holds.flatMap(({ maps }) => maps), chunks: holds.flatMap(({ chunks }) => chunks) };
  }

  /**
   * From here to `endCollection`, packs stay pinned when their writer closes: its manifest may be newer than the roots
   * that the collection marks from. A check asks for the same. `what` is said to whoever comes meanwhile.
   * @throws ApplianceError LOCKED when a collection or a check is running
   */
  beginCollection(what: string): void {
    if (this.#formerPins !== undefined) {
      throw new ApplianceError('LOCKED', `${this.#upkeep} is running already`, {
        details: { running: this.#upkeep },
        hint: 'Wait until it has ended.',
      });
    }
    this.#upkeep = what;
    this.#formerPins = new Set();
  }

  endCollection(): void {
    this.#formerPins = undefined;
    this.#upkeep = undefined;
  }

  /** True when a running writer depends on the pack, or one that ran since `beginCollection` did. */
  isPinned(packId: PackId): boolean {
    if (this.#formerPins?.has(packId)) return true;
    for (const writer of this.#writers) if (writer.pinnedPacks.has(packId)) return true;
    return false;
  }

  /** True while a backup or fold is storing something. */
  get isStoring(): boolean {
    return this.#writers.size > this.#upkeepWriters.size;
  }

  /** Closes writers and threads. Idempotent. */
  async close(): Promise<void> {
    await Promise.all([...this.#writers].map((writer) => writer.close()));
    await this.pool.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
