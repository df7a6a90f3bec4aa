// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES, type ContentKey, keyAt, keyFromHex, ZERO_KEY } from '../core/content-id.ts';
import { MAP_LEVELS, NODE_FANOUT, NODE_HEADER_BYTES } from './format.ts';
import { IdSet } from './id-set.ts';
import type { PointDisk, RecoveryPoint } from './manifest.ts';
import { walkMaps } from './map-walk.ts';
import { childKey, chunksPerSlot, isZeroChild } from './node.ts';
import type { Repository } from './repository.ts';

/** Something that cannot be restored because of a damaged content. Bytes of a disk, or of an attachment. */
export interface Touch {
  readonly pointId: string;
  readonly machine: string;
  /** The disk's name; undefined for an attachment. */
  readonly disk: string | undefined;
  readonly attachment: string | undefined;
  readonly offset: number;
  readonly length: number;
}

/** Of one content; more are cut off. */
export const MAX_TOUCHES = 1_000;

/**
 * For each bad content (chunks that are damaged or missing, nodes that cannot be read): the points, disks and byte
 * ranges that it is part of. Every shared node is visited once a level, and below that only what leads to the damage.
 */
export async function traceDamage(
  repository: Repository,
  points: readonly RecoveryPoint[],
  bad: ReadonlySet<ContentKey>,
  signal: AbortSignal | undefined,
): Promise<Map<ContentKey, Touch[]>> {
  const trace = new Trace(repository, bad);
  if (bad.size === 0) return trace.touches;
  await trace.findTainted(points, signal);
  for (const point of points) await trace.tracePoint(point);
  return trace.touches;
}

interface Place {
  readonly point: RecoveryPoint;
  readonly disk: PointDisk;
}

class Trace {
  readonly touches = new Map<ContentKey, Touch[]>();
  readonly #repository: Repository;
  readonly #bad: ReadonlySet<ContentKey>;
  /** Nodes that lead to a bad content. */
  readonly #tainted = new Set<ContentKey>();

  constructor(repository: Repository, bad: ReadonlySet<ContentKey>) {
    this.#repository = repository;
    this.#bad = bad;
  }

  /** From the leaves up: a node is tainted when a child of it is bad or tainted. */
  async findTainted(points: readonly RecoveryPoint[], signal: AbortSignal | undefined): Promise<void> {
    const roots = new Set(points.flatMap(({ disks }) => disks.map(({ root }) => keyFromHex(root))));
    for (let target = 0; target < MAP_LEVELS; target++) {
      await walkMaps({
        roots,
        nodes: this.#repository.reader,
        visited: new IdSet(16),
        lowestLevel: target,
        signal,
        onNode: (node, level, key) => {
          if (level === target && this.#hasBadChild(node)) this.#tainted.add(key);
        },
        // It is bad itself, and known as such.
        onUnreadable: () => undefined,
      });
    }
  }

  async tracePoint(point: RecoveryPoint): Promise<void> {
    for (const disk of point.disks) {
      await this.#descend({ point, disk }, keyFromHex(disk.root), MAP_LEVELS - 1, 0);
    }
    for (const { name, lengthBytes, chunks } of point.attachments) {
      for (const [n, chunk] of chunks.entries()) {
        const offset = n * this.#repository.chunkBytes;
        const length = Math.min(this.#repository.chunkBytes, lengthBytes - offset);
        const key = keyFromHex(chunk);
        if (this.#bad.has(key)) this.#add(key, { ...named(point), disk: undefined, attachment: name, offset, length });
      }
    }
  }

  async #descend(place: Place, key: ContentKey, level: number, number: number): Promise<void> {
    if (this.#bad.has(key)) {
      this.#addRange(place, key, number * chunksPerSlot(level + 1), chunksPerSlot(level + 1));
      return;
    }
    if (!this.#tainted.has(key)) return;
    const node = await this.#repository.reader.node(key, level);
    for (let slot = 0; slot < NODE_FANOUT; slot++) {
      if (isZeroChild(node, slot)) continue;
      const child = childKey(node, slot);
      const childNumber = number * NODE_FANOUT + slot;
      if (level > 0) await this.#descend(place, child, level - 1, childNumber);
      else if (this.#bad.has(child)) this.#addRange(place, child, childNumber, 1);
    }
  }

  #hasBadChild(node: Buffer): boolean {
    for (let at = NODE_HEADER_BYTES; at < node.length; at += CONTENT_ID_BYTES) {
      const key = keyAt(node, at);
      if (key !== ZERO_KEY && (this.#bad.has(key) || this.#tainted.has(key))) return true;
    }
    return false;
  }

  #addRange({ point, disk }: Place, key: ContentKey, firstChunk: number, count: number): void {
    const offset = firstChunk * this.#repository.chunkBytes;
    const length = Math.min(count * this.#repository.chunkBytes, disk.sizeBytes - offset);
    if (length > 0) this.#add(key, { ...named(point), disk: disk.name, attachment: undefined, offset, length });
  }

  #add(key: ContentKey, touch: Touch): void {
    const known = this.touches.get(key);
    if (known === undefined) {
      this.touches.set(key, [touch]);
      return;
    }
    const last = known.at(-1);
    const isNext =
      last !== undefined &&
      last.pointId === touch.pointId &&
      last.disk === touch.disk &&
      last.attachment === touch.attachment &&
      last.offset + last.length === touch.offset;
    if (isNext) known[known.length - 1] = { ...last, length: last.length + touch.length };
    else if (known.length < MAX_TOUCHES) known.push(touch);
  }
}

function named(point: RecoveryPoint): { readonly pointId: string; readonly machine: string } {
  return { pointId: point.id, machine: point.machine.name };
}
