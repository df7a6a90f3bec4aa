// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyBytes, ZERO_KEY } from '../core/content-id.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import { MAP_LEVELS, NODE_FANOUT } from './format.ts';
import type { IdSet } from './id-set.ts';
import { childKey, isZeroChild } from './node.ts';

/** Nodes that are loaded at a time. */
const MAX_LOADING = 64;

export interface MapWalk {
  /** Roots of maps; ZERO_KEY is passed over. */
  readonly roots: Iterable<ContentKey>;
  readonly nodes: { node(key: ContentKey, level: number): Promise<Buffer> };
  /** What was visited before is not visited again; every node of the walk is added. */
  readonly visited: IdSet;
  /** Nodes below this level are not loaded. Default 0: down to the leaves. */
  readonly lowestLevel?: number;
  readonly onNode: (node: Buffer, level: number, key: ContentKey) => void | Promise<void>;
  /** A node that cannot be loaded; what lies beneath it stays unvisited. Without this, the walk fails. */
  readonly onUnreadable?: (error: Error, level: number, key: ContentKey) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Visits every node that the roots reach once, parents before their children, several at a time. Errors as the nodes'. */
export async function walkMaps(walk: MapWalk): Promise<void> {
  const lowest = walk.lowestLevel ?? 0;
  const waiting: { readonly key: ContentKey; readonly level: number }[] = [];
  const running = new Set<Promise<void>>();
  let failure: Error | undefined;

  const enqueue = (key: ContentKey, level: number): void => {
    if (key !== ZERO_KEY && walk.visited.add(keyBytes(key))) waiting.push({ key, level });
  };
  const visit = async (key: ContentKey, level: number): Promise<void> => {
    let node: Buffer;
    try {
      node = await walk.nodes.node(key, level);
    } catch (error) {
      if (walk.onUnreadable === undefined) throw error;
      walk.onUnreadable(toError(error), level, key);
      return;
    }
    await walk.onNode(node, level, key);
    if (level === lowest) return;
    for (let slot = NODE_FANOUT - 1; slot >= 0; slot--) {
      if (!isZeroChild(node, slot)) enqueue(childKey(node, slot), level - 1);
    }
  };

  for (const root of walk.roots) enqueue(root, MAP_LEVELS - 1);
  while (failure === undefined && (waiting.length > 0 || running.size > 0)) {
    if (walk.signal?.aborted === true) failure = new ApplianceError('ABORTED', 'the walk was interrupted');
    const next = running.size < MAX_LOADING && failure === undefined ? waiting.pop() : undefined;
    if (next === undefined) await Promise.race(running);
    else {
      const work = visit(next.key, next.level)
        .catch((error: unknown) => {
          failure ??= toError(error);
        })
        .finally(() => running.delete(work));
      running.add(work);
    }
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure;
}
