// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES, type ContentKey, isZeroId, keyAt, ZERO_KEY } from '../core/content-id.ts';
import { toError } from '../core/errors.ts';
import { invariant } from '../core/invariant.ts';
import { MAP_LEVELS, NODE_FANOUT } from '../repository/format.ts';
import {
  childKey,
  chunksPerSlot,
  dataChunksOf,
  isZeroChild,
  MAX_MAP_CHUNKS,
  newNode,
  setChild,
  setDataChunks,
  slotOf,
} from '../repository/node.ts';

/** Where the editor loads the base's nodes from (`ChunkReader`). */
export interface NodeSource {
  node(key: ContentKey, level: number): Promise<Buffer>;
}

/** Where it stores new ones (`ChunkWriter`). */
export interface NodeSink {
  putNode(node: Buffer): Promise<Buffer>;
}

/** A finished map. */
export interface EditedMap {
  readonly root: ContentKey;
  /** Chunks that are not zero. */
  readonly dataChunks: number;
}

interface OpenNode {
  readonly level: number;
  /** Number of the node on its level. */
  readonly number: number;
  readonly node: Buffer;
  /** Id and count that it had in the base. */
  readonly baseKey: ContentKey;
  readonly baseDataChunks: number;
  dataChunks: number;
  isChanged: boolean;
  /** Children that are being stored; the node is complete when they have settled. */
  readonly children: Promise<void>[];
}

const ZERO_ID: Buffer = Buffer.alloc(CONTENT_ID_BYTES);
/** Closed nodes that may wait for their id at a time: 2 MiB of nodes. */
const MAX_NODES_IN_FLIGHT = 1024;

/**
 * Makes a new map out of a base and changes that come in ascending order. Nodes that do not change are shared with the
 * base by their id; memory is one path of the tree plus the nodes being stored, whatever the disk's size.
 *
 * Invariants: a call's first chunk is greater than every chunk of the calls before; a node is stored at most once, when
 * the changes have passed it; `dataChunks` of a node is the number of chunks beneath it that are not zero.
 */
export class MapEditor {
  readonly #source: NodeSource;
  readonly #sink: NodeSink;
  readonly #base: ContentKey;
  /** From the root (index 0, level MAP_LEVELS - 1) down to the deepest open node. */
  readonly #path: OpenNode[] = [];
  readonly #inFlight = new Set<Promise<unknown>>();
  #nextChunk = 0;

  constructor(base: ContentKey, source: NodeSource, sink: NodeSink) {
    this.#base = base;
    this.#source = source;
    this.#sink = sink;
  }

  /** Sets one chunk to the 32 bytes at `from` of `ids` (all zero: a chunk of zeroes). */
  async set(chunk: number, ids: Buffer, from = 0): Promise<void> {
    this.#advance(chunk, chunk + 1);
    const leaf = this.#leafOf(chunk) ?? (await this.#seek(chunk, 0));
    const slot = slotOf(chunk, 0);
    if (keyAt(ids, from) === childKey(leaf.node, slot)) return;
    leaf.dataChunks += Number(!isZeroId(ids, from)) - Number(!isZeroChild(leaf.node, slot));
    setChild(leaf.node, slot, ids, from);
    leaf.isChanged = true;
  }

  /** Makes `count` chunks from `first` zeroes, whole subtrees at a time. */
  async setZero(first: number, count: number): Promise<void> {
    this.#advance(first, first + count);
    if (this.#base === ZERO_KEY) return;
    const end = first + count;
    let chunk = first;
    while (chunk < end) {
      const level = this.#largestLevel(chunk, end);
      await this.#clearSlot(await this.#seek(chunk, level), slotOf(chunk, level));
      chunk += chunksPerSlot(level);
    }
  }

  /** Stores what is still open. The editor cannot be used afterwards. */
  async finish(): Promise<EditedMap> {
    const root = this.#path[0];
    this.#nextChunk = MAX_MAP_CHUNKS + 1;
    if (root === undefined) return { root: this.#base, dataChunks: await this.#baseCount() };
    while (this.#path.length > 1) this.#closeDeepest();
    await Promise.all(root.children);
    return { root: keyAt(await this.#store(root)), dataChunks: root.dataChunks };
  }

  async #baseCount(): Promise<number> {
    if (this.#base === ZERO_KEY) return 0;
    return dataChunksOf(await this.#source.node(this.#base, MAP_LEVELS - 1));
  }

  #advance(first: number, end: number): void {
    invariant(first >= this.#nextChunk && end <= MAX_MAP_CHUNKS, 'changes of a map come in ascending order');
    this.#nextChunk = end;
  }

  #leafOf(chunk: number): OpenNode | undefined {
    const deepest = this.#path.at(-1);
    return deepest?.level === 0 && deepest.number === Math.floor(chunk / NODE_FANOUT) ? deepest : undefined;
  }

  /** The largest level on which `chunk` begins a slot that ends at or before `end`. */
  #largestLevel(chunk: number, end: number): number {
    let level = 0;
    while (level + 1 < MAP_LEVELS) {
      const span = chunksPerSlot(level + 1);
      if (chunk % span !== 0 || chunk + span > end) break;
      level += 1;
    }
    return level;
  }

  /** Opens the path down to the node of `level` that holds the chunk, closing what lies beside it. */
  async #seek(chunk: number, level: number): Promise<OpenNode> {
    for (;;) {
      const deepest = this.#path.at(-1);
      if (deepest === undefined) {
        this.#path.push(await this.#open(MAP_LEVELS - 1, 0, this.#base));
      } else if (deepest.level < level || deepest.number !== numberOf(chunk, deepest.level)) {
        this.#closeDeepest();
      } else if (deepest.level === level) {
        if (this.#inFlight.size >= MAX_NODES_IN_FLIGHT) await Promise.all(this.#inFlight);
        return deepest;
      } else {
        const child = childKey(deepest.node, slotOf(chunk, deepest.level));
        this.#path.push(await this.#open(deepest.level - 1, numberOf(chunk, deepest.level - 1), child));
      }
    }
  }

  async #open(level: number, number: number, baseKey: ContentKey): Promise<OpenNode> {
    const node = baseKey === ZERO_KEY ? newNode(level) : Buffer.from(await this.#source.node(baseKey, level));
    const dataChunks = dataChunksOf(node);
    return { level, number, node, baseKey, baseDataChunks: dataChunks, dataChunks, isChanged: false, children: [] };
  }

  async #clearSlot(open: OpenNode, slot: number): Promise<void> {
    if (isZeroChild(open.node, slot)) return;
    const removed =
      open.level === 0 ? 1 : dataChunksOf(await this.#source.node(childKey(open.node, slot), open.level - 1));
    open.dataChunks -= removed;
    setChild(open.node, slot, ZERO_ID);
    open.isChanged = true;
  }

  /** Takes the deepest node off the path and hands it, once its children have ids, to its parent. */
  #closeDeepest(): void {
    const closed = this.#path.pop();
    const parent = this.#path.at(-1);
    invariant(closed !== undefined && parent !== undefined, 'only nodes below the root are closed on the way');
    if (!closed.isChanged && closed.children.length === 0) return;
    const work = this.#settleInto(parent, closed).finally(() => this.#inFlight.delete(work));
    // Awaited with the parent's other children; until then a failure must not count as unhandled.
    work.catch(toError);
    this.#inFlight.add(work);
    parent.children.push(work);
  }

  async #settleInto(parent: OpenNode, closed: OpenNode): Promise<void> {
    await Promise.all(closed.children);
    const id = await this.#store(closed);
    const slot = closed.number % NODE_FANOUT;
    if (keyAt(id) === childKey(parent.node, slot)) return;
    setChild(parent.node, slot, id);
    parent.dataChunks += closed.dataChunks - closed.baseDataChunks;
    parent.isChanged = true;
  }

  async #store(open: OpenNode): Promise<Buffer> {
    if (!open.isChanged) return Buffer.from(open.baseKey, 'latin1');
    if (open.dataChunks === 0) return ZERO_ID;
    setDataChunks(open.node, open.dataChunks);
    return this.#sink.putNode(open.node);
  }
}

function numberOf(chunk: number, level: number): number {
  return Math.floor(chunk / chunksPerSlot(level + 1));
}
