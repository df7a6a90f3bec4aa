// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES } from '../core/content-id.ts';
import { invariant } from '../core/invariant.ts';

const SHARDS = 256;
const FIRST_SLOTS = 16;
/** A shard grows when it is filled beyond this share. */
const MAX_LOAD = 0.7;

/**
 * A set of content ids in flat memory: open addressing in 256 shards, each growing on its own, so that growing never
 * doubles the whole. It keeps the last 8 or 16 bytes of an id, and takes 12 to 23 or 23 to 46 bytes for each. Ids are
 * keyed hashes, which nobody can choose: two of a billion are taken for one with a chance of 3 % at 8 bytes (use that
 * only where it does no harm) and of 10^-21 at 16.
 */
export class IdSet {
  readonly #words: number;
  readonly #shards: Uint32Array[] = [];
  readonly #counts = new Uint32Array(SHARDS);
  #size = 0;

  constructor(bytesPerId: 8 | 16) {
    this.#words = bytesPerId / 4;
    for (let i = 0; i < SHARDS; i++) this.#shards.push(new Uint32Array(FIRST_SLOTS * this.#words));
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes that the set takes. */
  get memoryBytes(): number {
    return this.#shards.reduce((sum, shard) => sum + shard.byteLength, 0);
  }

  /** Adds the 32 bytes at `offset`; true when they were not there. */
  add(ids: Buffer, offset = 0): boolean {
    const shardNumber = ids.readUInt8(offset);
    const shard = this.#shardAt(shardNumber);
    const at = this.#find(shard, ids, offset);
    if (!isFree(shard, at)) return false;
    this.#store(shard, at, ids, offset);
    const count = (this.#counts[shardNumber] ?? 0) + 1;
    this.#counts[shardNumber] = count;
    this.#size += 1;
    if (count * this.#words > shard.length * MAX_LOAD) this.#grow(shardNumber);
    return true;
  }

  has(ids: Buffer, offset = 0): boolean {
    const shard = this.#shardAt(ids.readUInt8(offset));
    return !isFree(shard, this.#find(shard, ids, offset));
  }

  #shardAt(number: number): Uint32Array {
    const shard = this.#shards[number];
    invariant(shard !== undefined, 'a byte names one of 256 shards');
    return shard;
  }

  /** The place of the id, or the free one where it belongs. */
  #find(shard: Uint32Array, ids: Buffer, offset: number): number {
    const words = this.#words;
    let at = firstPlace(wordOf(ids, offset, words - 1), shard.length, words);
    for (;;) {
      if (isFree(shard, at)) return at;
      let n = 0;
      while (n < words && shard[at + n] === wordOf(ids, offset, n)) n += 1;
      if (n === words) return at;
      at += words;
      if (at === shard.length) at = 0;
    }
  }

  #store(shard: Uint32Array, at: number, ids: Buffer, offset: number): void {
    for (let n = 0; n < this.#words; n++) shard[at + n] = wordOf(ids, offset, n);
  }

  #grow(number: number): void {
    const words = this.#words;
    const old = this.#shardAt(number);
    const grown = new Uint32Array(old.length * 2);
    for (let from = 0; from < old.length; from += words) {
      if (isFree(old, from)) continue;
      let at = firstPlace(old[from + words - 1] ?? 0, grown.length, words);
      while (!isFree(grown, at)) at = (at + words) % grown.length;
      grown.set(old.subarray(from, from + words), at);
    }
    this.#shards[number] = grown;
  }
}

/** Word `n` of what is kept of an id: its last bytes, the first of them never zero, because zero marks a free place. */
function wordOf(ids: Buffer, offset: number, n: number): number {
  const word = ids.readUInt32LE(offset + CONTENT_ID_BYTES - 4 * (n + 1));
  return n === 0 && word === 0 ? 1 : word;
}

function firstPlace(word: number, length: number, words: number): number {
  return (word % (length / words)) * words;
}

function isFree(shard: Uint32Array, at: number): boolean {
  return shard[at] === 0;
}
