// SPDX-License-Identifier: Apache-2.0

import { type ContentKey, keyAt } from '../core/content-id.ts';
import type { Pace } from '../core/duty-cycle.ts';
import { ApplianceStates } from './appliance-state.ts';
import { type Finding, Findings, isDamage } from './check-findings.ts';
import { type CheckedPacks, checkPacks } from './check-packs.ts';
import { checkRecords } from './check-records.ts';
import type { ManagedIndex } from './chunk-index.ts';
import { traceDamage } from './damage-trace.ts';
import { NODE_FANOUT, NODE_HEADER_BYTES } from './format.ts';
import { IdSet } from './id-set.ts';
import { type RecoveryPoint, rootsOf } from './manifest.ts';
import { walkMaps } from './map-walk.ts';
import { isZeroChild } from './node.ts';
import type { Repository } from './repository.ts';

/** Nodes that are looked at before others may have the disk. */
const NODES_PER_STEP = 64;

export interface CheckProgress {
  readonly phase: 'packs' | 'maps';
  readonly done: number;
  readonly total: number | undefined;
  readonly readBytes: number;
}

export interface CheckOptions {
  /** Read and verify every stored byte, not only the structure. */
  readonly readData: boolean;
  readonly signal?: AbortSignal;
  /** Called between steps of reading; for a check that is to leave the disk to others. */
  readonly pace?: Pace;
  readonly onProgress?: (progress: CheckProgress) => void;
}

export interface CheckResult {
  /** Nothing was found but what was mended in the catalog. */
  readonly isClean: boolean;
  readonly findings: readonly Finding[];
  /** Findings that are not in the list because there were too many. */
  readonly omittedFindings: number;
  readonly points: number;
  readonly packs: number;
  /** Nodes and chunks that the points reach, each node once. */
  readonly nodes: number;
  readonly chunks: number;
  readonly frames: number;
  readonly readBytes: number;
}

/**
 * Checks that every point can be restored: configuration, manifests, packs, and that every node and chunk that a point
 * reaches is there. With `readData`, every byte of every object is covered by something that is compared. It runs beside
 * backups and readers, not beside a collection.
 *
 * Findings name what they touch. Damaged contents are marked in the index: the next backup that meets them stores them
 * anew. Nothing in the repository is changed.
 * @throws ApplianceError LOCKED (a collection or a check is running), ABORTED, IO_FAILED, CATALOG_DAMAGED
 */
export async function check(repository: Repository, index: ManagedIndex, options: CheckOptions): Promise<CheckResult> {
  repository.beginCollection('a check');
  try {
    return await new Check(repository, index, options).run();
  } finally {
    repository.endCollection();
  }
}

class Check {
  readonly #repository: Repository;
  readonly #index: ManagedIndex;
  readonly #options: CheckOptions;
  readonly #findings = new Findings();
  readonly #visited = new IdSet(16);
  readonly #chunks = new IdSet(8);

  constructor(repository: Repository, index: ManagedIndex, options: CheckOptions) {
    this.#repository = repository;
    this.#index = index;
    this.#options = options;
  }

  async run(): Promise<CheckResult> {
    const { signal, readData, pace } = this.#options;
    const points = await checkRecords(this.#repository, this.#index, this.#findings);
    const states = new ApplianceStates(this.#repository.store, this.#repository.keys);
    for (const { key, error } of await states.check()) this.#findings.add({ object: key, what: error.message });
    const packs = await checkPacks({
      repository: this.#repository,
      index: this.#index,
      findings: this.#findings,
      readData,
      signal,
      pace,
      onPack: (done, total, readBytes) => this.#options.onProgress?.({ phase: 'packs', done, total, readBytes }),
    });
    this.#repository.reader.dropCaches();
    await this.#checkMaps(points, packs);
    const touches = await traceDamage(this.#repository, points, this.#findings.bad, signal);
    const findings = this.#findings.list(touches);
    return {
      isClean: findings.every((finding) => finding.isRepaired) && this.#findings.omitted === 0,
      findings,
      omittedFindings: this.#findings.omitted,
      points: points.length,
      packs: packs.present.size,
      nodes: this.#visited.size,
      chunks: this.#chunks.size,
      frames: packs.frames,
      readBytes: packs.readBytes,
    };
  }

  async #checkMaps(points: readonly RecoveryPoint[], packs: CheckedPacks): Promise<void> {
    let count = 0;
    await walkMaps({
      roots: points.flatMap((point) => rootsOf(point).maps),
      nodes: this.#repository.reader,
      visited: this.#visited,
      signal: this.#options.signal,
      onNode: async (node, level) => {
        count += 1;
        if (count % 1024 === 0) {
          const { readBytes } = packs;
          this.#options.onProgress?.({ phase: 'maps', done: count, total: undefined, readBytes });
        }
        if (count % NODES_PER_STEP === 0) await this.#options.pace?.();
        if (level === 0) await this.#checkChunks(chunksOf(node), packs);
      },
      onUnreadable: (error, level, key) => {
        if (!isDamage(error)) throw error;
        this.#addOnce(key, `a map node of level ${level} cannot be read: ${error.message}`);
      },
    });
    const attached = points.flatMap((point) => rootsOf(point).chunks);
    await this.#checkChunks(attached, packs);
  }

  async #checkChunks(keys: readonly ContentKey[], { present, doubtful }: CheckedPacks): Promise<void> {
    const places = await this.#index.findMany(keys);
    for (const [n, key] of keys.entries()) {
      this.#chunks.add(Buffer.from(key, 'latin1'));
      const place = places[n];
      if (place === undefined) this.#addMissing(key);
      else if (!present.has(place.packId)) await this.#checkInLatePack(key, place);
      else if (doubtful.has(place.packId) && !(await this.#repository.reader.verifies(key))) {
        const what = 'its frame does not verify';
        await this.#index.markDamaged(key, what);
        this.#addOnce(key, what, place);
      }
    }
  }

  #addMissing(key: ContentKey): void {
    const damage = this.#index.damages().get(key);
    this.#addOnce(key, damage?.what ?? 'it is in no pack', damage);
  }

  /** A pack that a backup has finished since the packs were listed is fine; one that is missing is not. */
  async #checkInLatePack(key: ContentKey, place: Parameters<Findings['addContent']>[2]): Promise<void> {
    if (!(await this.#repository.reader.verifies(key))) this.#addOnce(key, 'its pack is missing or damaged', place);
  }

  #addOnce(key: ContentKey, what: string, place?: Parameters<Findings['addContent']>[2]): void {
    if (!this.#findings.bad.has(key)) this.#findings.addContent(key, what, place);
  }
}

function chunksOf(leaf: Buffer): ContentKey[] {
  const keys: ContentKey[] = [];
  for (let slot = 0; slot < NODE_FANOUT; slot++) {
    if (!isZeroChild(leaf, slot)) keys.push(keyAt(leaf, NODE_HEADER_BYTES + slot * 32));
  }
  return keys;
}
