// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, ZERO_KEY } from '../core/content-id.ts';
import { MAP_LEVELS, NODE_FANOUT } from '../repository/format.ts';
import { childKey, chunksPerSlot } from '../repository/node.ts';
import type { NodeSource } from './map-editor.ts';

/** Chunks in which two maps differ. */
export interface DifferingRun {
  readonly first: number;
  readonly count: number;
}

/**
 * Where two maps differ, as merged runs in order. Subtrees that both share are passed without being read, so the cost is
 * that of the difference and not of the disk. Errors as `NodeSource.node`.
 */
export async function* diffMaps(
  a: ContentKey,
  b: ContentKey,
  nodes: NodeSource,
): AsyncGenerator<DifferingRun, void, void> {
  let open: { first: number; count: number } | undefined;
  for await (const chunk of differingChunks({ a, b, level: MAP_LEVELS - 1, first: 0 }, nodes)) {
    if (open !== undefined && open.first + open.count === chunk) open.count += 1;
    else {
      if (open !== undefined) yield open;
      open = { first: chunk, count: 1 };
    }
  }
  if (open !== undefined) yield open;
}

interface Pair {
  readonly a: ContentKey;
  readonly b: ContentKey;
  readonly level: number;
  /** The first chunk beneath both. */
  readonly first: number;
}

async function* differingChunks(pair: Pair, nodes: NodeSource): AsyncGenerator<number, void, void> {
  if (pair.a === pair.b) return;
  const { level } = pair;
  const nodeA = pair.a === ZERO_KEY ? undefined : await nodes.node(pair.a, level);
  const nodeB = pair.b === ZERO_KEY ? undefined : await nodes.node(pair.b, level);
  for (let slot = 0; slot < NODE_FANOUT; slot++) {
    const a = nodeA === undefined ? ZERO_KEY : childKey(nodeA, slot);
    const b = nodeB === undefined ? ZERO_KEY : childKey(nodeB, slot);
    if (a === b) continue;
    const first = pair.first + slot * chunksPerSlot(level);
    if (level === 0) yield first;
    else yield* differingChunks({ a, b, level: level - 1, first }, nodes);
  }
}
