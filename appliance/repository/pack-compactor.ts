// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyAt, keyToHex } from '../core/content-id.ts';
import type { Pace } from '../core/duty-cycle.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { ManagedIndex } from './chunk-index.ts';
import type { ChunkWriter } from './chunk-writer.ts';
import { FRAME_KIND, NODE_BYTES } from './format.ts';
import type { PackEntry } from './pack-format.ts';
import { packKey } from './pack-writer.ts';
import type { Repository } from './repository.ts';

/**
 * Copies contents out of packs that are going to be removed. Each one is decoded, verified against its id, and stored
 * like new content: the packs that they come from must be in `repository.doomedPacks`, so that they are not found there.
 */
export class PackCompactor {
  readonly #repository: Repository;
  readonly #index: ManagedIndex;
  readonly #writer: ChunkWriter;
  readonly #pace: Pace | undefined;

  /** `pace` is called between slabs, when none is held. */
  constructor(repository: Repository, index: ManagedIndex, writer: ChunkWriter, pace?: Pace) {
    this.#repository = repository;
    this.#index = index;
    this.#writer = writer;
    this.#pace = pace;
  }

  /**
   * Stores the entries anew. False, with the damage marked, when one of them does not verify: the pack must then stay.
   * The copies are part of the repository after `writer.seal()`. @throws ApplianceError of the writer; IO_FAILED
   */
  async copy(packId: PackId, entries: readonly PackEntry[]): Promise<boolean> {
    const { chunkBytes } = this.#repository;
    const nodes = entries.filter(({ kind }) => kind === FRAME_KIND.node);
    const chunks = entries.filter(({ kind }) => kind === FRAME_KIND.chunk);
    const whole = chunks.filter(({ plainBytes }) => plainBytes === chunkBytes);
    const short = chunks.filter(({ plainBytes }) => plainBytes !== chunkBytes);
    for (let at = 0; at < whole.length; at += this.#writer.chunksPerSlab) {
      if (!(await this.#copyChunks(packId, whole.slice(at, at + this.#writer.chunksPerSlab)))) return false;
    }
    for (const entry of short) if (!(await this.#copyShort(packId, entry))) return false;
    const nodesPerSlab = Math.floor((this.#writer.chunksPerSlab * chunkBytes) / NODE_BYTES);
    for (let at = 0; at < nodes.length; at += nodesPerSlab) {
      if (!(await this.#copyNodes(packId, nodes.slice(at, at + nodesPerSlab)))) return false;
    }
    return true;
  }

  async #copyChunks(packId: PackId, entries: readonly PackEntry[]): Promise<boolean> {
    await this.#pace?.();
    const slab = await this.#writer.acquireSlab();
    let isWhole: boolean;
    try {
      isWhole = await this.#decodeAll(packId, entries, { at: slab.offset, itemBytes: this.#repository.chunkBytes });
    } catch (error) {
      this.#writer.releaseSlab(slab);
      throw error;
    }
    if (!isWhole) {
      this.#writer.releaseSlab(slab);
      return false;
    }
    checkIds(await this.#writer.putChunks(slab, entries.length), entries);
    return true;
  }

  async #copyShort(packId: PackId, entry: PackEntry): Promise<boolean> {
    const plain = await this.#takeOut(packId, [entry], entry.plainBytes);
    if (plain === undefined) return false;
    checkIds(await this.#writer.putBytes(plain), [entry]);
    return true;
  }

  async #copyNodes(packId: PackId, entries: readonly PackEntry[]): Promise<boolean> {
    const plain = await this.#takeOut(packId, entries, NODE_BYTES);
    if (plain === undefined) return false;
    const ids = entries.map((_, i) => this.#writer.putNode(plain.subarray(i * NODE_BYTES, (i + 1) * NODE_BYTES)));
    checkIds(Buffer.concat(await Promise.all(ids)), entries);
    return true;
  }

  /** The plain contents one after another, in memory of their own; undefined when one is damaged. */
  async #takeOut(packId: PackId, entries: readonly PackEntry[], itemBytes: number): Promise<Buffer | undefined> {
    const slab = await this.#writer.acquireSlab();
    try {
      if (!(await this.#decodeAll(packId, entries, { at: slab.offset, itemBytes }))) return undefined;
      return Buffer.from(slab.buffer.subarray(0, entries.length * itemBytes));
    } finally {
      this.#writer.releaseSlab(slab);
    }
  }

  async #decodeAll(
    packId: PackId,
    entries: readonly PackEntry[],
    place: { readonly at: number; readonly itemBytes: number },
  ): Promise<boolean> {
    const path = this.#repository.store.localPath(packKey(packId));
    const decoding = entries.map(async ({ id, offset, frameBytes, plainBytes }, n) => {
      const frame = { offset, frameBytes, id, outAt: place.at + n * place.itemBytes };
      const job = { packId, path, frames: [frame], outBytes: plainBytes, verify: 'id' } as const;
      return (await this.#repository.pool.decode(job)).problems[0];
    });
    const results = await Promise.allSettled(decoding);
    let isWhole = true;
    for (const [n, result] of results.entries()) {
      const entry = entries[n];
      if (result.status === 'rejected') throw result.reason;
      const problem = result.value;
      if (problem === undefined || entry === undefined) continue;
      if (problem.code !== 'REPOSITORY_CORRUPT') throw new ApplianceError(problem.code ?? 'INTERNAL', problem.message);
      await this.#index.markDamaged(entry.id, problem.message);
      isWhole = false;
    }
    return isWhole;
  }
}

function checkIds(ids: Buffer, entries: readonly PackEntry[]): void {
  for (const [n, { id }] of entries.entries()) {
    const stored: ContentKey = keyAt(ids, n * 32);
    if (stored !== id) {
      throw new ApplianceError('REPOSITORY_CORRUPT', `content ${keyToHex(id)} changed while it was copied`);
    }
  }
}
