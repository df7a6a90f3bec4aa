// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, ZERO_KEY } from '../core/content-id.ts';
import { MAP_LEVELS, NODE_FANOUT } from '../repository/format.ts';
import { childKey, chunksPerSlot, isZeroChild, slotOf } from '../repository/node.ts';

/** Where nodes come from (`ChunkReader`). */
export interface CachedNodeSource {
  cachedNode(key: ContentKey): Buffer | undefined;
  node(key: ContentKey, level: number): Promise<Buffer>;
}

/** Leaves that a reader keeps at hand: 8 MiB, which map 16 GiB of disk at 64 KiB a chunk. */
const MAX_LEAVES = 4096;

/** A run of chunks, all zero or all data (not necessarily the same data). */
export interface ChunkRun {
  readonly first: number;
  readonly count: number;
  readonly isData: boolean;
}

/** Reads one map. Nodes are loaded on demand and shared with every other reader of the repository. */
export class MapReader {
  readonly root: ContentKey;
  readonly #nodes: CachedNodeSource;
  /** Leaves by their number: a shortcut past the levels above, which never change. */
  readonly #leaves = new Map<number, Buffer>();

  constructor(root: ContentKey, nodes: CachedNodeSource) {
    this.root = root;
    this.#nodes = nodes;
  }

  /** The chunk's id, when every node on the way is at hand; undefined otherwise. */
  cachedChunkKey(chunk: number): ContentKey | undefined {
    const leaf = this.#leaves.get(Math.floor(chunk / NODE_FANOUT));
    if (leaf !== undefined) return childKey(leaf, slotOf(chunk, 0));
    let key = this.root;
    for (let level = MAP_LEVELS - 1; level >= 0; level--) {
      if (key === ZERO_KEY) return ZERO_KEY;
      const node = this.#nodes.cachedNode(key);
      if (node === undefined) return undefined;
      if (level === 0) this.#keepLeaf(chunk, node);
      key = childKey(node, slotOf(chunk, level));
    }
    return key;
  }

  /** The chunk's id; ZERO_KEY for a chunk of zeroes. Errors as `ChunkReader.node`. */
  async chunkKey(chunk: number): Promise<ContentKey> {
    let key = this.root;
    for (let level = MAP_LEVELS - 1; level >= 0 && key !== ZERO_KEY; level--) {
      const node = this.#nodes.cachedNode(key) ?? (await this.#nodes.node(key, level));
      if (level === 0) this.#keepLeaf(chunk, node);
      key = childKey(node, slotOf(chunk, level));
    }
    return key;
  }

  #keepLeaf(chunk: number, leaf: Buffer): void {
    if (this.#leaves.size >= MAX_LEAVES) this.#leaves.clear();
    this.#leaves.set(Math.floor(chunk / NODE_FANOUT), leaf);
  }

  /** What the chunks from `first` (to `end`, exclusive) are, as merged runs in order; zero subtrees are passed at once. */
  async *runs(first: number, end: number): AsyncGenerator<ChunkRun, void, void> {
    let open: { first: number; count: number; isData: boolean } | undefined;
    for await (const piece of this.#pieces(first, end)) {
      if (open !== undefined && open.isData === piece.isData) open.count += piece.count;
      else {
        if (open !== undefined) yield open;
        open = { ...piece };
      }
    }
    if (open !== undefined) yield open;
  }

  async *#pieces(first: number, end: number): AsyncGenerator<ChunkRun, void, void> {
    let chunk = first;
    while (chunk < end) {
      const { node, level } = await this.#deepestNode(chunk);
      const span = chunksPerSlot(level);
      const nodeEnd = node === undefined ? end : (Math.floor(chunk / (span * NODE_FANOUT)) + 1) * span * NODE_FANOUT;
      const stop = Math.min(end, nodeEnd);
      if (node === undefined) yield { first: chunk, count: stop - chunk, isData: false };
      else if (level > 0) {
        const slotEnd = Math.min(stop, (Math.floor(chunk / span) + 1) * span);
        yield { first: chunk, count: slotEnd - chunk, isData: false };
        chunk = slotEnd;
        continue;
      } else yield* leafRuns(node, chunk, stop);
      chunk = stop;
    }
  }

  /** The deepest node on the chunk's path: a leaf, or one whose slot for the chunk is zero; none for a map of zeroes. */
  async #deepestNode(chunk: number): Promise<{ readonly node: Buffer | undefined; readonly level: number }> {
    let key = this.root;
    if (key === ZERO_KEY) return { node: undefined, level: 0 };
    for (let level = MAP_LEVELS - 1; ; level--) {
      const node = this.#nodes.cachedNode(key) ?? (await this.#nodes.node(key, level));
      const slot = slotOf(chunk, level);
      if (level === 0 || isZeroChild(node, slot)) return { node, level };
      key = childKey(node, slot);
    }
  }
}

function* leafRuns(leaf: Buffer, first: number, end: number): Generator<ChunkRun> {
  let start = first;
  let isData = !isZeroChild(leaf, slotOf(first, 0));
  for (let chunk = first + 1; chunk < end; chunk++) {
    const next = !isZeroChild(leaf, slotOf(chunk, 0));
    if (next === isData) continue;
    yield { first: start, count: chunk - start, isData };
    start = chunk;
    isData = next;
  }
  yield { first: start, count: end - start, isData };
}
