// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type ContentKey, keyAt } from '../../appliance/core/content-id.ts';
import { checkNode } from '../../appliance/repository/node.ts';
import type { CachedNodeSource } from '../../appliance/volume/map-reader.ts';

/** Map nodes in memory, content addressed; ids arrive late and in any order, as they do from worker threads. */
export class MemoryNodes implements CachedNodeSource {
  readonly stored: Map<ContentKey, Buffer> = new Map();
  reads = 0;
  puts = 0;
  /** Answer `cachedNode`, as a warm cache does. */
  isWarm = false;

  cachedNode(key: ContentKey): Buffer | undefined {
    return this.isWarm ? this.stored.get(key) : undefined;
  }

  async node(key: ContentKey, level: number): Promise<Buffer> {
    this.reads += 1;
    const node = this.stored.get(key);
    assert.ok(node !== undefined, 'a node that is asked for was stored');
    checkNode(node, level);
    return node;
  }

  async putNode(node: Buffer): Promise<Buffer> {
    this.puts += 1;
    const copy = Buffer.from(node);
    const id = createHash('sha256').update(copy).digest();
    if (this.puts % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
    this.stored.set(keyAt(id), copy);
    return id;
  }
}
