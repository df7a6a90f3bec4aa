// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES, type ContentKey, isZeroId, keyAt } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import { MAP_LEVELS, NODE_BYTES, NODE_FANOUT, NODE_FANOUT_BITS, NODE_HEADER_BYTES, NODE_MAGIC } from './format.ts';

/**
 * A node of the map: a header of 16 bytes, then 64 ids. `docs/formats/map.md` has the byte table. Level 0 lists chunks,
 * level n lists nodes of level n - 1; 32 zero bytes stand for "all zeroes" on every level.
 */

/** A fresh node that describes zeroes only. */
export function newNode(level: number): Buffer {
  const node = Buffer.alloc(NODE_BYTES);
  node.writeUInt32BE(NODE_MAGIC, 0);
  node.writeUInt8(level, 4);
  node.writeUInt8(NODE_FANOUT_BITS, 5);
  return node;
}

/** @throws ApplianceError REPOSITORY_CORRUPT when it is not a node of this level */
export function checkNode(node: Buffer, level: number): void {
  const isSound =
    node.length === NODE_BYTES &&
    node.readUInt32BE(0) === NODE_MAGIC &&
    node.readUInt8(4) === level &&
    node.readUInt8(5) === NODE_FANOUT_BITS &&
    node.readUInt16BE(6) === 0;
  if (!isSound) throw new ApplianceError('REPOSITORY_CORRUPT', `a map node of level ${level} is malformed`);
}

/** Chunks beneath this node that are not zero. At most 2^36, so exact in a number. */
export function dataChunksOf(node: Buffer): number {
  return node.readUInt32BE(8) * 2 ** 32 + node.readUInt32BE(12);
}

export function setDataChunks(node: Buffer, count: number): void {
  node.writeUInt32BE(Math.floor(count / 2 ** 32), 8);
  node.writeUInt32BE(count % 2 ** 32, 12);
}

export function childKey(node: Buffer, slot: number): ContentKey {
  return keyAt(node, NODE_HEADER_BYTES + slot * CONTENT_ID_BYTES);
}

export function isZeroChild(node: Buffer, slot: number): boolean {
  return isZeroId(node, NODE_HEADER_BYTES + slot * CONTENT_ID_BYTES);
}

/** Puts the 32 bytes at `from` of `id` into the slot. */
export function setChild(node: Buffer, slot: number, id: Buffer, from = 0): void {
  id.copy(node, NODE_HEADER_BYTES + slot * CONTENT_ID_BYTES, from, from + CONTENT_ID_BYTES);
}

/** Chunks that one slot of a node of this level covers. */
export function chunksPerSlot(level: number): number {
  return NODE_FANOUT ** level;
}

/** The slot of a chunk in its node of this level. */
export function slotOf(chunk: number, level: number): number {
  return Math.floor(chunk / NODE_FANOUT ** level) % NODE_FANOUT;
}

/** Chunks that a map can hold: the largest disk in chunks. */
export const MAX_MAP_CHUNKS: number = NODE_FANOUT ** MAP_LEVELS;
