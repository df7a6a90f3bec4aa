// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../core/clock.ts';
import { CONTENT_ID_BYTES, keyBytes } from '../core/content-id.ts';
import type { Pace } from '../core/duty-cycle.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type { ManagedIndex, PackInfo } from './chunk-index.ts';
import type { ChunkWriter } from './chunk-writer.ts';
import { type CollectionRoots, gatherRoots } from './collection-roots.ts';
import { type DividedPack, dividePack, type Marked, type SurveyedPack, surveyPacks } from './collection-survey.ts';
import { deletedPointKey } from './deleted-point.ts';
import { MAX_PACK_BYTES, MIB, NODE_FANOUT, NODE_HEADER_BYTES } from './format.ts';
import { IdSet } from './id-set.ts';
import { walkMaps } from './map-walk.ts';
import { isZeroChild } from './node.ts';
import { PackCompactor } from './pack-compactor.ts';
import { packKey } from './pack-writer.ts';
import type { Repository } from './repository.ts';

/** How long a deleted point can be brought back. */
export const DEFAULT_GRACE_MS: number = 7 * 24 * 3_600_000;
/** A pack of which less than this share is live is rewritten. */
export const DEFAULT_MIN_LIVE_SHARE = 0.5;
/** Packs smaller than this are put together when there are many: short incrementals leave one each. */
const SMALL_PACK_BYTES: number = 16 * MIB;
const MANY_SMALL_PACKS = 32;
/** Nodes that are marked before others may have the disk. */
const NODES_PER_STEP = 64;
/** Live bytes that are copied before the packs they come from are removed. */
const COMPACTION_BATCH_BYTES: number = MAX_PACK_BYTES / 2;

export interface CollectProgress {
  readonly phase: 'mark' | 'survey' | 'delete' | 'rewrite';
  readonly done: number;
  /** Undefined where it is not known. */
  readonly total: number | undefined;
}

export interface CollectOptions {
  readonly clock: Clock;
  /** Default DEFAULT_GRACE_MS. Counted in lived time (`LivedTime`). With 0 everything that was deleted is freed at once. */
  readonly graceMs?: number;
  readonly minLiveShare?: number;
  readonly signal?: AbortSignal;
  /** Called between steps of reading and copying; for a collection that is to leave the disk to others. */
  readonly pace?: Pace;
  readonly onProgress?: (progress: CollectProgress) => void;
}

export interface CollectResult {
  readonly markedNodes: number;
  readonly markedChunks: number;
  /** Memory that the marks took. */
  readonly markBytes: number;
  readonly packsDeleted: number;
  readonly packsRewritten: number;
  /** Packs that are mostly garbage and stay, because there is no room to copy what lives in them. */
  readonly packsWithoutRoom: number;
  /** Bytes of removed packs minus those of packs that their contents were copied to. */
  readonly freedBytes: number;
  /** Live bytes in all packs that were surveyed. */
  readonly liveBytes: number;
  /** Dead bytes that stay: in packs that are mostly live, in use, or damaged. */
  readonly keptGarbageBytes: number;
  readonly pointsPurged: number;
  /** Deleted points that can still be brought back. */
  readonly pointsInGrace: number;
  /** Of those: the grace period is over by the clock, but the appliance has not lived through it. */
  readonly pointsNotLivedThrough: number;
}

/**
 * Removes what no point reaches. It runs beside backups and readers (docs/locking.md says why that is safe).
 *
 * Order: mark from every root, survey every pack, and only when all of that was read without an error: purge the
 * expired points, remove packs without live frames, then copy the live frames out of packs that are mostly garbage and
 * remove those. A pack leaves the index before its file goes; a crash in between leaves a file that the next
 * `reconcile` indexes again. Damaged packs are never removed. Copying needs room: without it, packs are rewritten one at a
 * time, each making room for the next, and those that do not fit are counted and stay.
 *
 * Marks take about 16 bytes for each chunk and 32 for each node that is reachable: 0.3 GB for 1 TiB of unique data.
 * @throws ApplianceError LOCKED (a collection or a check is running), REPOSITORY_CORRUPT, CHUNK_MISSING, IO_FAILED, NO_SPACE, ABORTED
 */
export async function collectGarbage(
  repository: Repository,
  index: ManagedIndex,
  options: CollectOptions,
): Promise<CollectResult> {
  repository.beginCollection('a garbage collection');
  try {
    return await new Collection(repository, index, options).run();
  } finally {
    repository.endCollection();
  }
}

class Collection {
  readonly #repository: Repository;
  readonly #index: ManagedIndex;
  readonly #options: CollectOptions;
  readonly #marked: Marked = { nodes: new IdSet(16), chunks: new IdSet(8) };
  #packsDeleted = 0;
  #packsRewritten = 0;
  #packsWithoutRoom = 0;
  #freedBytes = 0;
  #keptGarbageBytes = 0;

  constructor(repository: Repository, index: ManagedIndex, options: CollectOptions) {
    this.#repository = repository;
    this.#index = index;
    this.#options = options;
  }

  async run(): Promise<CollectResult> {
    const { clock, graceMs = DEFAULT_GRACE_MS } = this.#options;
    // Packs that are not known before the roots are listed belong to later points: they are none of our business.
    const candidates = await this.#index.packs();
    const roots = await gatherRoots(this.#repository, this.#index, { nowMs: clock.nowMs(), graceMs });
    let surveyed: SurveyedPack[];
    try {
      await this.#mark(roots);
      surveyed = await this.#survey(candidates);
    } catch (error) {
      this.#repository.manifests.pardon(roots.expired.map(({ pointId }) => pointId));
      throw error;
    }
    await this.#purge(roots);
    await this.#sweep(surveyed);
    return {
      markedNodes: this.#marked.nodes.size,
      markedChunks: this.#marked.chunks.size,
      markBytes: this.#marked.nodes.memoryBytes + this.#marked.chunks.memoryBytes,
      packsDeleted: this.#packsDeleted,
      packsRewritten: this.#packsRewritten,
      packsWithoutRoom: this.#packsWithoutRoom,
      freedBytes: this.#freedBytes,
      liveBytes: surveyed.reduce((sum, pack) => sum + pack.liveBytes, 0),
      keptGarbageBytes: this.#keptGarbageBytes,
      pointsPurged: roots.expired.length,
      pointsInGrace: roots.keptDeletedPoints,
      pointsNotLivedThrough: roots.notLivedThrough,
    };
  }

  async #mark(roots: CollectionRoots): Promise<void> {
    const { nodes, chunks } = this.#marked;
    for (const chunk of roots.chunks) chunks.add(keyBytes(chunk));
    let count = 0;
    await walkMaps({
      roots: roots.maps,
      nodes: this.#repository.reader,
      visited: nodes,
      signal: this.#options.signal,
      onNode: async (node, level) => {
        count += 1;
        if (count % 1024 === 0) this.#report('mark', count, undefined);
        if (count % NODES_PER_STEP === 0) await this.#options.pace?.();
        if (level > 0) return;
        for (let slot = 0; slot < NODE_FANOUT; slot++) {
          if (!isZeroChild(node, slot)) chunks.add(node, NODE_HEADER_BYTES + slot * CONTENT_ID_BYTES);
        }
      },
    });
  }

  #survey(candidates: ReadonlyMap<PackId, PackInfo>): Promise<SurveyedPack[]> {
    let count = 0;
    return surveyPacks(this.#repository, this.#index, candidates, {
      marked: this.#marked,
      signal: this.#options.signal,
      onPack: async () => {
        count += 1;
        this.#report('survey', count, candidates.size);
        await this.#options.pace?.();
      },
    });
  }

  /** The manifests go before their contents, so that nothing half can be brought back. */
  async #purge({ expired, staleCopies }: CollectionRoots): Promise<void> {
    try {
      for (const ref of [...expired, ...staleCopies]) {
        this.#throwIfAborted();
        await this.#repository.store.delete(deletedPointKey(ref.machineId, ref.pointId));
      }
      for (const ref of expired) await this.#repository.guards.forget(ref);
    } finally {
      // After an error those that are left can be brought back again: nothing of them is swept.
      this.#repository.manifests.pardon(expired.map(({ pointId }) => pointId));
    }
  }

  async #sweep(surveyed: readonly SurveyedPack[]): Promise<void> {
    const { minLiveShare = DEFAULT_MIN_LIVE_SHARE } = this.#options;
    const sound = surveyed.filter((pack) => pack.untouchable === undefined);
    const dead = sound.filter((pack) => pack.liveFrames === 0);
    const alive = sound.filter((pack) => pack.liveFrames > 0);
    const small = alive.filter((pack) => pack.packBytes < SMALL_PACK_BYTES);
    const isRewritten = (pack: SurveyedPack): boolean =>
      pack.liveBytes < minLiveShare * (pack.liveBytes + pack.deadBytes) ||
      (small.length >= MANY_SMALL_PACKS && pack.packBytes < SMALL_PACK_BYTES);
    const chosen = new Set([...dead, ...alive.filter(isRewritten)]);
    for (const pack of surveyed) if (!chosen.has(pack)) this.#keptGarbageBytes += pack.deadBytes;
    for (const [n, pack] of dead.entries()) {
      this.#throwIfAborted();
      await this.#deleteDead(pack);
      this.#report('delete', n + 1, dead.length);
      await this.#options.pace?.();
    }
    await this.#rewrite(alive.filter(isRewritten));
  }

  async #deleteDead(pack: SurveyedPack): Promise<void> {
    if (!this.#doom(pack)) return;
    const { live, dead, untouchable } = await this.#divide(pack);
    if (live.length > 0 || untouchable !== undefined) {
      this.#spare(pack);
      return;
    }
    await this.#remove(
      pack,
      dead.map(({ id }) => id),
    );
    this.#packsDeleted += 1;
  }

  async #rewrite(packs: readonly SurveyedPack[]): Promise<void> {
    let batch: SurveyedPack[] = [];
    let batchBytes = 0;
    for (const [n, pack] of packs.entries()) {
      batch.push(pack);
      batchBytes += pack.liveBytes;
      if (batchBytes < COMPACTION_BATCH_BYTES && n < packs.length - 1) continue;
      this.#throwIfAborted();
      const left = await this.#rewriteBatch(batch);
      if (left.length > 0) return this.#rewriteSingly([...left, ...packs.slice(n + 1)]);
      this.#report('rewrite', n + 1, packs.length);
      batch = [];
      batchBytes = 0;
    }
  }

  /** Least to copy first: what that frees may be what the next one lacks. */
  async #rewriteSingly(packs: readonly SurveyedPack[]): Promise<void> {
    const sorted = packs.toSorted((a, b) => a.liveBytes - b.liveBytes);
    for (const [n, pack] of sorted.entries()) {
      this.#throwIfAborted();
      const left = await this.#rewriteBatch([pack]);
      if (left.length > 0) {
        this.#packsWithoutRoom = sorted.length - n;
        for (const { deadBytes } of sorted.slice(n)) this.#keptGarbageBytes += deadBytes;
        return;
      }
      this.#report('rewrite', n + 1, sorted.length);
    }
  }

  /**
   * All old packs of a batch stay until their live frames are durable, and found, elsewhere. Settles with the packs that
   * stay for want of room, which could be tried again.
   */
  async #rewriteBatch(packs: readonly SurveyedPack[]): Promise<readonly SurveyedPack[]> {
    await using writer = this.#repository.openWriter({ isUpkeep: true });
    const left = new Set(packs);
    try {
      for (const { pack, divided } of await this.#copyLive(left, writer)) {
        await this.#removeCopied(pack, divided);
        left.delete(pack);
        this.#packsRewritten += 1;
      }
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE')) throw error;
    } finally {
      await this.#countWritten(writer);
    }
    return [...left];
  }

  /** Makes what lives in the packs durable elsewhere; packs that must stay as they are leave the set. */
  async #copyLive(
    packs: Set<SurveyedPack>,
    writer: ChunkWriter,
  ): Promise<readonly { readonly pack: SurveyedPack; readonly divided: DividedPack }[]> {
    const compactor = new PackCompactor(this.#repository, this.#index, writer, this.#options.pace);
    const copied: { readonly pack: SurveyedPack; readonly divided: DividedPack }[] = [];
    try {
      for (const pack of packs) {
        if (!this.#doom(pack)) {
          packs.delete(pack);
          continue;
        }
        const divided = await this.#divide(pack);
        const isCopied = divided.untouchable === undefined && (await compactor.copy(pack.packId, divided.live));
        if (isCopied) copied.push({ pack, divided });
        else {
          this.#spare(pack);
          packs.delete(pack);
        }
      }
      await writer.seal();
      return copied;
    } catch (error) {
      for (const { packId } of packs) this.#repository.doomedPacks.delete(packId);
      throw error;
    }
  }

  async #removeCopied(pack: SurveyedPack, { live, dead }: DividedPack): Promise<void> {
    const places = await this.#index.findMany(live.map(({ id }) => id));
    const isElsewhere = places.every((place) => place !== undefined && place.packId !== pack.packId);
    invariant(isElsewhere, 'a pack is removed only when all of its live contents are found elsewhere');
    await this.#remove(
      pack,
      [...live, ...dead].map(({ id }) => id),
    );
  }

  /** Bytes of the packs that a rewrite made count against what it freed. */
  async #countWritten(writer: ChunkWriter): Promise<void> {
    const packs = await this.#index.packs();
    for (const packId of writer.sealedPacks) this.#freedBytes -= packs.get(packId)?.packBytes ?? 0;
  }

  /** Check and mark in one step: no lookup can come between them. False when a backup depends on the pack. */
  #doom(pack: SurveyedPack): boolean {
    if (this.#repository.isPinned(pack.packId)) {
      this.#keptGarbageBytes += pack.deadBytes;
      return false;
    }
    this.#repository.doomedPacks.add(pack.packId);
    return true;
  }

  #spare(pack: SurveyedPack): void {
    if (this.#repository.doomedPacks.delete(pack.packId)) this.#keptGarbageBytes += pack.deadBytes;
  }

  #divide(pack: SurveyedPack): Promise<DividedPack> {
    return dividePack(this.#repository, this.#index, pack, this.#marked);
  }

  async #remove(pack: SurveyedPack, ids: Parameters<ManagedIndex['removePack']>[1]): Promise<void> {
    await this.#index.removePack(pack.packId, ids);
    await this.#repository.store.delete(packKey(pack.packId));
    await this.#repository.pool.forgetPacks([pack.packId]);
    this.#freedBytes += pack.packBytes;
  }

  #report(phase: CollectProgress['phase'], done: number, total: number | undefined): void {
    this.#options.onProgress?.({ phase, done, total });
  }

  #throwIfAborted(): void {
    if (this.#options.signal?.aborted === true) throw new ApplianceError('ABORTED', 'the collection was interrupted');
  }
}
