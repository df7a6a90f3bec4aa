// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyToHex } from '../core/content-id.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import { type Arena, SlabPool } from './arena.ts';
import { ChunkCache } from './chunk-cache.ts';
import type { ChunkIndex, ChunkLocation } from './chunk-index.ts';
import type { CodecPool } from './codec-pool.ts';
import type { FrameToDecode } from './codec-protocol.ts';
import { NODE_BYTES } from './format.ts';
import { checkNode } from './node.ts';
import type { ObjectStore } from './object-store.ts';
import { packKey } from './pack-writer.ts';

/** Nodes that are kept decoded: 32 MiB, which maps 64 GiB of disk at 64 KiB a chunk. */
const MAX_CACHED_NODES = 16_384;
const NODE_SLABS = 64;
/** Plain bytes of one job of a codec thread: half of a read of 1 MiB, so that two threads share it. */
const MAX_BYTES_PER_DECODE: number = 512 * 1024;

export interface ChunkReaderOptions {
  readonly pool: CodecPool;
  readonly index: ChunkIndex;
  readonly store: ObjectStore;
  readonly chunkBytes: number;
  readonly cacheBytes: number;
}

/** Where a content is decoded to: the arena, or other shared memory. */
interface DecodeTarget {
  readonly outAt: number;
  readonly outBytes: number;
  readonly target?: SharedArrayBuffer;
}

/** A whole chunk, and the shared memory where it goes: as many bytes as a chunk has. */
export interface ChunkRead {
  readonly key: ContentKey;
  readonly into: Buffer;
}

/** Chunks of one pack that lie one behind the other, and go to the same memory. */
interface ReadGroup {
  readonly packId: PackId;
  readonly target: SharedArrayBuffer;
  readonly reads: ChunkRead[];
  readonly frames: FrameToDecode[];
}

/** Arena bytes that a reader takes. */
export function chunkReaderArenaBytes(chunkBytes: number, cacheBytes: number): number {
  return cacheBytes + chunkBytes + NODE_SLABS * (NODE_BYTES + 64);
}

/** Reads contents by id. Everything it hands out was verified against its id when it was decoded. */
export class ChunkReader {
  readonly #options: ChunkReaderOptions;
  readonly #cache: ChunkCache;
  readonly #nodeSlabs: SlabPool;
  readonly #nodes = new Map<ContentKey, Buffer>();
  readonly #loading = new Map<ContentKey, Promise<Buffer>>();

  constructor(arena: Arena, options: ChunkReaderOptions) {
    this.#options = options;
    const slots = Math.max(1, Math.floor(options.cacheBytes / options.chunkBytes));
    this.#cache = new ChunkCache(arena, options.chunkBytes, { slots, fill: (key, at) => this.#decodeChunk(key, at) });
    this.#nodeSlabs = new SlabPool(arena, NODE_SLABS, NODE_BYTES);
  }

  /** Copies from a cached chunk at once; false when it is not cached. */
  tryReadChunk(key: ContentKey, at: number, into: Buffer): boolean {
    return this.#cache.tryRead(key, at, into);
  }

  /**
   * Copies `into.length` bytes of a chunk from `at`.
   * @throws ApplianceError CHUNK_MISSING, OBJECT_NOT_FOUND, REPOSITORY_CORRUPT, IO_FAILED
   */
  async readChunk(key: ContentKey, at: number, into: Buffer): Promise<void> {
    if (this.takesWhole(into)) await this.readChunks([{ key, into }]);
    else await this.#cache.read(key, at, into);
  }

  /** True when a read into this memory can be given to `readChunks`. */
  takesWhole(into: Buffer): boolean {
    return into.length === this.#options.chunkBytes && into.buffer instanceof SharedArrayBuffer;
  }

  /**
   * Whole chunks straight into shared memory: nothing is copied, what lies together in a pack is read together, and large
   * sequential reads do not drive others out of the cache. When it settles, nothing writes to the memory any more.
   * @throws ApplianceError as `readChunk`, for the first chunk that fails
   */
  async readChunks(reads: readonly ChunkRead[]): Promise<void> {
    const missed = reads.filter(({ key, into }) => !this.#cache.tryRead(key, 0, into));
    if (missed.length === 0) return;
    if (this.#options.index.ready() !== undefined) await this.#untilReady();
    const groups = this.#groupsOf(missed);
    const settled = await Promise.allSettled(groups.map((group) => this.#readGroup(group)));
    for (const result of settled) if (result.status === 'rejected') throw result.reason;
  }

  /** A cached node; undefined when it has to be loaded. The buffer is shared: never write to it. */
  cachedNode(key: ContentKey): Buffer | undefined {
    return this.#nodes.get(key);
  }

  /** A node of the given level. The buffer is shared: never write to it. Errors as `readChunk`. */
  async node(key: ContentKey, level: number): Promise<Buffer> {
    const cached = this.#nodes.get(key);
    if (cached !== undefined) return cached;
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = this.#loadNode(key, level).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  /** Reads the stored frame of a content and checks all of it, past every cache. False when it is damaged or missing. */
  async verifies(key: ContentKey): Promise<boolean> {
    if (this.#options.index.ready() !== undefined) await this.#untilReady();
    const { packId, offset, frameBytes } = this.#locate(key);
    const path = this.#options.store.localPath(packKey(packId));
    try {
      const frames = [{ offset, frameBytes, id: key, checksum: undefined }];
      return (await this.#options.pool.verify({ packId, path, frames })).length === 0;
    } catch (error) {
      if (hasCode(error, 'OBJECT_NOT_FOUND')) return false;
      throw error;
    }
  }

  /** Forgets cached contents, so that the next reads come from the store. */
  dropCaches(): void {
    this.#cache.clear();
    this.#nodes.clear();
  }

  async #loadNode(key: ContentKey, level: number): Promise<Buffer> {
    const slab = await this.#nodeSlabs.acquire();
    try {
      const length = await this.#decode(key, { outAt: slab.offset, outBytes: NODE_BYTES });
      const node = Buffer.from(slab.buffer.subarray(0, length));
      checkNode(node, level);
      if (this.#nodes.size >= MAX_CACHED_NODES) this.#evictNode();
      this.#nodes.set(key, node);
      return node;
    } finally {
      this.#nodeSlabs.release(slab);
    }
  }

  #evictNode(): void {
    const oldest = this.#nodes.keys().next().value;
    if (oldest !== undefined) this.#nodes.delete(oldest);
  }

  async #decodeChunk(key: ContentKey, outAt: number): Promise<void> {
    const length = await this.#decode(key, { outAt, outBytes: this.#options.chunkBytes });
    // A short content must not leave the slot's former one visible behind it.
    this.#options.pool.arena.bytes.fill(0, outAt + length, outAt + this.#options.chunkBytes);
  }

  /** Decodes to the arena; once more when garbage collection has moved the content meanwhile. */
  async #decode(key: ContentKey, out: DecodeTarget): Promise<number> {
    if (this.#options.index.ready() !== undefined) await this.#untilReady();
    const location = this.#locate(key);
    try {
      return await this.#decodeAt(key, location, out);
    } catch (error) {
      if (!hasCode(error, 'OBJECT_NOT_FOUND')) throw error;
      if (this.#options.index.ready() !== undefined) await this.#untilReady();
      const moved = this.#locate(key);
      if (moved.packId === location.packId) throw error;
      return this.#decodeAt(key, moved, out);
    }
  }

  async #decodeAt(key: ContentKey, { packId, offset, frameBytes }: ChunkLocation, out: DecodeTarget): Promise<number> {
    const { outAt, ...place } = out;
    const { plainBytes, problems } = await this.#options.pool.decode({
      packId,
      path: this.#options.store.localPath(packKey(packId)),
      frames: [{ offset, frameBytes, id: key, outAt }],
      verify: 'seal',
      ...place,
    });
    const [problem] = problems;
    if (problem !== undefined) throw new ApplianceError(problem.code ?? 'INTERNAL', problem.message);
    return plainBytes[0] ?? 0;
  }

  /** In order, so that neighbours meet. */
  #groupsOf(reads: readonly ChunkRead[]): ReadGroup[] {
    const limit = Math.max(1, Math.floor(MAX_BYTES_PER_DECODE / this.#options.chunkBytes));
    const groups: ReadGroup[] = [];
    let end = 0;
    for (const read of reads) {
      const target = read.into.buffer;
      invariant(target instanceof SharedArrayBuffer, 'other threads write to the memory of a whole chunk');
      const { packId, offset, frameBytes } = this.#locate(read.key);
      let group = groups.at(-1);
      const isNext =
        group?.packId === packId && end === offset && group.target === target && group.reads.length < limit;
      if (group === undefined || !isNext) {
        group = { packId, target, reads: [], frames: [] };
        groups.push(group);
      }
      group.reads.push(read);
      group.frames.push({ offset, frameBytes, id: read.key, outAt: read.into.byteOffset });
      end = offset + frameBytes;
    }
    return groups;
  }

  async #readGroup({ packId, target, reads, frames }: ReadGroup): Promise<void> {
    const { plainBytes, problems } = await this.#options.pool.decode({
      packId,
      path: this.#options.store.localPath(packKey(packId)),
      frames,
      outBytes: this.#options.chunkBytes,
      target,
      verify: 'seal',
    });
    let decoded = 0;
    for (const [n, { key, into }] of reads.entries()) {
      const problem = problems.find(({ frame }) => frame === n);
      if (problem === undefined) {
        into.fill(0, plainBytes[decoded] ?? 0);
        decoded += 1;
      } else if (problem.code === 'OBJECT_NOT_FOUND') {
        // Garbage collection may have moved it meanwhile.
        const length = await this.#decode(key, { outAt: into.byteOffset, outBytes: into.length, target });
        into.fill(0, length);
      } else throw new ApplianceError(problem.code ?? 'INTERNAL', problem.message);
    }
  }

  /** Rarely needed: jobs for the threads travel together only when nothing is awaited before they are given. */
  async #untilReady(): Promise<void> {
    const { index } = this.#options;
    for (let ready = index.ready(); ready !== undefined; ready = index.ready()) await ready;
  }

  #locate(key: ContentKey): ChunkLocation {
    const location = this.#options.index.find(key);
    if (location === undefined) {
      throw new ApplianceError('CHUNK_MISSING', `content ${keyToHex(key)} is not in the index`, {
        details: { id: keyToHex(key) },
      });
    }
    return location;
  }
}
