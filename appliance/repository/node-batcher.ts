// SPDX-License-Identifier: Apache-2.0
import { CONTENT_ID_BYTES } from '../core/content-id.ts';
import { toError } from '../core/errors.ts';
import type { Slab, SlabPool } from './arena.ts';
import { NODE_BYTES } from './format.ts';

interface Waiting {
  readonly node: Buffer;
  readonly resolve: (id: Buffer) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Gathers map nodes into slabs: they are small, and a message to a worker for each would cost more than its hash. A
 * batch goes out when it is full or when the event loop turns.
 */
export class NodeBatcher {
  readonly #slabs: SlabPool;
  readonly #maxCount: number;
  readonly #store: (slab: Slab, count: number) => Promise<Buffer>;
  #waiting: Waiting[] = [];
  #isPlanned = false;
  readonly #running = new Set<Promise<void>>();

  constructor(slabs: SlabPool, maxCount: number, store: (slab: Slab, count: number) => Promise<Buffer>) {
    this.#slabs = slabs;
    this.#maxCount = maxCount;
    this.#store = store;
  }

  /** Copies the node and settles with its id. */
  put(node: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ node: Buffer.from(node), resolve, reject });
      if (this.#waiting.length >= this.#maxCount) this.#flush();
      else if (!this.#isPlanned) {
        this.#isPlanned = true;
        setImmediate(() => this.#flush());
      }
    });
  }

  /** Settles when no node is on its way. */
  async drain(): Promise<void> {
    this.#flush();
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  #flush(): void {
    this.#isPlanned = false;
    if (this.#waiting.length === 0) return;
    const batch = this.#waiting;
    this.#waiting = [];
    const work = this.#send(batch).finally(() => this.#running.delete(work));
    this.#running.add(work);
  }

  async #send(batch: readonly Waiting[]): Promise<void> {
    try {
      const slab = await this.#slabs.acquire();
      for (const [i, { node }] of batch.entries()) node.copy(slab.buffer, i * NODE_BYTES);
      const ids = await this.#store(slab, batch.length);
      for (const [i, { resolve }] of batch.entries()) {
        resolve(ids.subarray(i * CONTENT_ID_BYTES, (i + 1) * CONTENT_ID_BYTES));
      }
    } catch (error) {
      for (const { reject } of batch) reject(toError(error));
    }
  }
}
