// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES, type ContentKey, isZeroId, keyAt } from '../core/content-id.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import type { FileSystem } from '../core/file-system.ts';
import type { PackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type { Slab, SlabPool } from './arena.ts';
import type { ChunkIndex, ChunkLocation } from './chunk-index.ts';
import type { CodecPool } from './codec-pool.ts';
import type { EncodedFrames } from './codec-protocol.ts';
import { FRAME_KIND, type FrameKind, NODE_BYTES } from './format.ts';
import { FrameCodec } from './frame-codec.ts';
import { NodeBatcher } from './node-batcher.ts';
import type { ObjectStore } from './object-store.ts';
import type { PackEntry } from './pack-format.ts';
import { type PackReservation, PackWriter } from './pack-writer.ts';

/** What a writer needs of its repository. */
export interface ChunkWriterContext {
  readonly repositoryId: string;
  readonly chunkBytes: number;
  readonly pool: CodecPool;
  readonly plainSlabs: SlabPool;
  readonly frameSlabs: SlabPool;
  /** Where in a plain slab the ids of its contents are put; contents lie in front of it. */
  readonly idsOffset: number;
  readonly store: ObjectStore;
  readonly fileSystem: FileSystem;
  readonly index: ChunkIndex;
  /** Packs that the garbage collector is about to remove: what lies in them is written anew. */
  isDoomed(packId: PackId): boolean;
}

/** Counts of one writer, chunks only (nodes are counted apart). Bytes of stored frames include their headers. */
export interface ChunkWriterStats {
  chunks: number;
  zeroChunks: number;
  newChunks: number;
  newChunkBytes: number;
  newNodes: number;
  storedBytes: number;
}

interface OpenPack {
  readonly writer: PackWriter;
  /** Ids whose frames are on their way to this pack. */
  readonly ids: ContentKey[];
}

/**
 * Stores contents for one run: hash, look up, compress, encrypt, append. Contents become part of the repository with
 * `seal`; until then nobody else sees them.
 *
 * Invariants: every id that `put` answers with is in the index after `seal`, in a durable pack; a pack that a lookup
 * hit is pinned for as long as the writer lives, so that the garbage collector leaves it; the first failure is kept and
 * every later call fails with it.
 */
export class ChunkWriter implements AsyncDisposable {
  readonly stats: ChunkWriterStats = {
    chunks: 0,
    zeroChunks: 0,
    newChunks: 0,
    newChunkBytes: 0,
    newNodes: 0,
    storedBytes: 0,
  };
  /** Packs that this run depends on, besides those that it writes. */
  readonly pinnedPacks: Set<PackId> = new Set();
  /** Packs that it has written and made part of the repository. */
  readonly sealedPacks: Set<PackId> = new Set();
  readonly #context: ChunkWriterContext;
  readonly #onClose: () => void;
  readonly #pending = new Set<ContentKey>();
  readonly #nodes: NodeBatcher;
  readonly #running = new Set<Promise<unknown>>();
  readonly #seals = new Set<Promise<void>>();
  #pack: Promise<OpenPack> | undefined;
  #failure: Error | undefined;

  constructor(context: ChunkWriterContext, onClose: () => void) {
    this.#context = context;
    this.#onClose = onClose;
    this.#nodes = new NodeBatcher(context.plainSlabs, Math.floor(context.idsOffset / NODE_BYTES), (slab, count) =>
      this.#put(slab, { kind: FRAME_KIND.node, itemBytes: NODE_BYTES, count }),
    );
  }

  get chunkBytes(): number {
    return this.#context.chunkBytes;
  }

  /** Chunks that one slab takes. */
  get chunksPerSlab(): number {
    return Math.floor(this.#context.idsOffset / this.#context.chunkBytes);
  }

  /** A slab to be filled and given to `putChunks` (or back with `releaseSlab`). Waits while too many are in use. */
  acquireSlab(signal?: AbortSignal): Promise<Slab> {
    return this.#context.plainSlabs.acquire(signal);
  }

  releaseSlab(slab: Slab): void {
    this.#context.plainSlabs.release(slab);
  }

  /**
   * Stores the first `count` chunks of the slab, which belongs to the writer from here on. Settles with their ids, 32
   * bytes each, all zero for a chunk of zeroes.
   */
  putChunks(slab: Slab, count: number): Promise<Buffer> {
    return this.#put(slab, { kind: FRAME_KIND.chunk, itemBytes: this.#context.chunkBytes, count });
  }

  /** Stores one map node of NODE_BYTES bytes (copied at once). Settles with its id. */
  putNode(node: Buffer): Promise<Buffer> {
    return this.#nodes.put(node);
  }

  /** Stores any bytes as chunks of their own; settles with the ids, 32 bytes each. */
  async putBytes(bytes: Buffer): Promise<Buffer> {
    const ids: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += this.#context.chunkBytes) {
      const part = bytes.subarray(at, at + this.#context.chunkBytes);
      const slab = await this.acquireSlab();
      part.copy(slab.buffer);
      ids.push(await this.#put(slab, { kind: FRAME_KIND.chunk, itemBytes: part.length, count: 1 }));
    }
    return Buffer.concat(ids);
  }

  /** Makes everything that was put durable and known to the index. The writer can be used on afterwards. */
  async seal(): Promise<void> {
    this.#throwIfFailed();
    await this.#nodes.drain();
    await Promise.allSettled(this.#running);
    const pack = this.#pack;
    this.#pack = undefined;
    if (pack !== undefined) this.#retire(pack);
    await Promise.allSettled(this.#seals);
    this.#throwIfFailed();
  }

  /** Ends the run. What was not sealed is thrown away. Idempotent. */
  async close(): Promise<void> {
    this.#fail(new ApplianceError('CLOSED', 'the writer was closed'));
    await Promise.allSettled(this.#running);
    await Promise.allSettled(this.#seals);
    const pack = this.#pack;
    this.#pack = undefined;
    if (pack !== undefined) {
      const [opened] = await Promise.allSettled([pack]);
      if (opened?.status === 'fulfilled') await opened.value.writer.abandon(this.#context.fileSystem);
    }
    this.#onClose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #put(slab: Slab, batch: Batch): Promise<Buffer> {
    const work = this.#store(slab, batch).finally(() => this.releaseSlab(slab));
    this.#running.add(work);
    work.then(
      () => this.#running.delete(work),
      (error) => {
        this.#running.delete(work);
        this.#fail(toError(error));
      },
    );
    return work;
  }

  async #store(slab: Slab, batch: Batch): Promise<Buffer> {
    this.#throwIfFailed();
    const idsAt = slab.offset + this.#context.idsOffset;
    await this.#context.pool.hash({ ...batch, at: slab.offset, idsAt });
    this.#throwIfFailed();
    const ids = Buffer.from(
      slab.buffer.subarray(this.#context.idsOffset, this.#context.idsOffset + batch.count * CONTENT_ID_BYTES),
    );
    const fresh = await this.#selectNew(ids, batch);
    if (fresh.length > 0) await this.#encode(slab, batch, { ids, items: fresh });
    return ids;
  }

  /** Indexes of the contents that have to be stored; they are marked as pending at once. */
  async #selectNew(ids: Buffer, batch: Batch): Promise<number[]> {
    const wanted: { readonly item: number; readonly key: ContentKey }[] = [];
    for (let item = 0; item < batch.count; item++) {
      const isZero = isZeroId(ids, item * CONTENT_ID_BYTES);
      if (batch.kind === FRAME_KIND.chunk) {
        this.stats.chunks += 1;
        if (isZero) this.stats.zeroChunks += 1;
      }
      if (!isZero) wanted.push({ item, key: keyAt(ids, item * CONTENT_ID_BYTES) });
    }
    const unknown = wanted.filter(({ key }) => !this.#pending.has(key));
    const found = await this.#context.index.findMany(unknown.map(({ key }) => key));
    const fresh: number[] = [];
    for (const [n, { item, key }] of unknown.entries()) {
      if (this.#pending.has(key) || this.#reuse(found[n])) continue;
      this.#pending.add(key);
      fresh.push(item);
    }
    return fresh;
  }

  #reuse(location: ChunkLocation | undefined): boolean {
    if (location === undefined || this.#context.isDoomed(location.packId)) return false;
    this.pinnedPacks.add(location.packId);
    return true;
  }

  async #encode(slab: Slab, batch: Batch, fresh: FreshItems): Promise<void> {
    const { pool, frameSlabs, idsOffset } = this.#context;
    const out = await frameSlabs.acquire();
    try {
      const bound = fresh.items.length * FrameCodec.frameBound(batch.itemBytes);
      const { pack, reservation } = await this.#reserve(fresh.items.length, bound);
      for (const item of fresh.items) pack.ids.push(keyAt(fresh.ids, item * CONTENT_ID_BYTES));
      const frames = pool.encode({
        kind: batch.kind,
        itemBytes: batch.itemBytes,
        at: slab.offset,
        idsAt: slab.offset + idsOffset,
        items: fresh.items,
        packId: pack.writer.packId,
        firstFrame: reservation.firstFrame,
        outAt: out.offset,
      });
      const entries = frames.then((encoded) => this.#entriesOf(batch, fresh, encoded));
      await this.#append(pack, { reservation, out }, entries);
    } finally {
      frameSlabs.release(out);
    }
  }

  async #append(
    pack: OpenPack,
    { reservation, out }: { readonly reservation: PackReservation; readonly out: Slab },
    encoding: Promise<PackEntry[]>,
  ): Promise<void> {
    let entries: PackEntry[];
    try {
      entries = await encoding;
    } catch (error) {
      pack.writer.cancel(reservation);
      throw error;
    }
    const frameBytes = entries.reduce((sum, entry) => sum + entry.frameBytes, 0);
    await pack.writer.append(reservation, out.buffer.subarray(0, frameBytes), entries);
    this.stats.storedBytes += frameBytes;
  }

  #entriesOf(batch: Batch, fresh: FreshItems, frames: EncodedFrames): PackEntry[] {
    let offset = 0;
    if (batch.kind === FRAME_KIND.node) this.stats.newNodes += fresh.items.length;
    else {
      this.stats.newChunks += fresh.items.length;
      this.stats.newChunkBytes += fresh.items.length * batch.itemBytes;
    }
    return fresh.items.map((item, n) => {
      const frameBytes = frames.lengths[n];
      const checksum = frames.checksums[n];
      invariant(frameBytes !== undefined && checksum !== undefined, 'each content has a frame');
      const id = keyAt(fresh.ids, item * CONTENT_ID_BYTES);
      const entry = { id, kind: batch.kind, offset, frameBytes, plainBytes: batch.itemBytes, checksum };
      offset += frameBytes;
      return entry;
    });
  }

  /** Room in the open pack; a full one is sealed behind our back while the next is written. */
  async #reserve(count: number, boundBytes: number): Promise<{ pack: OpenPack; reservation: PackReservation }> {
    for (;;) {
      this.#pack ??= this.#openPack();
      const opening = this.#pack;
      const pack = await opening;
      this.#throwIfFailed();
      const reservation = pack.writer.reserve(count, boundBytes);
      if (reservation !== undefined) return { pack, reservation };
      if (this.#pack === opening) {
        this.#pack = undefined;
        this.#retire(opening);
      }
    }
  }

  async #openPack(): Promise<OpenPack> {
    const writer = await PackWriter.create(this.#context.store, this.#context.fileSystem, this.#context.repositoryId);
    return { writer, ids: [] };
  }

  #retire(opening: Promise<OpenPack>): void {
    const seal = this.#sealPack(opening);
    this.#seals.add(seal);
    seal.then(
      () => this.#seals.delete(seal),
      (error) => {
        this.#seals.delete(seal);
        this.#fail(toError(error));
      },
    );
  }

  async #sealPack(opening: Promise<OpenPack>): Promise<void> {
    const pack = await opening;
    await pack.writer.idle();
    if (this.#failure !== undefined || pack.writer.entries.length === 0) {
      await pack.writer.abandon(this.#context.fileSystem);
      this.#throwIfFailed();
      return;
    }
    let packBytes: number;
    try {
      packBytes = await pack.writer.seal();
    } catch (error) {
      // The room that it takes may be what others lack.
      await pack.writer.abandon(this.#context.fileSystem);
      throw error;
    }
    const plainBytes = pack.writer.entries.reduce((sum, entry) => sum + entry.plainBytes, 0);
    this.pinnedPacks.add(pack.writer.packId);
    this.sealedPacks.add(pack.writer.packId);
    await this.#context.index.addPack(
      pack.writer.packId,
      { packBytes, frames: pack.writer.entries.length, plainBytes },
      pack.writer.entries,
    );
    for (const id of pack.ids) this.#pending.delete(id);
  }

  #throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
  }
}

/** Contents of a batch that have to be stored: the ids of the whole batch, and the indexes of these. */
interface FreshItems {
  readonly ids: Buffer;
  readonly items: readonly number[];
}

interface Batch {
  readonly kind: FrameKind;
  readonly itemBytes: number;
  readonly count: number;
}
