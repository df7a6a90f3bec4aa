// SPDX-License-Identifier: Apache-2.0
import { LibvirtConnection } from './connection.ts';

/** One connection per URI, opened when it is first needed and again after it was lost. */
export class ConnectionCache implements AsyncDisposable {
  readonly #open = new Map<string, Promise<LibvirtConnection>>();

  /** Throws what `LibvirtConnection.open` throws. The connection belongs to the cache: do not close it. */
  async get(uri: string): Promise<LibvirtConnection> {
    const known = this.#open.get(uri);
    if (known !== undefined) {
      const [settled] = await Promise.allSettled([known]);
      if (settled.status === 'fulfilled' && settled.value.isOpen) return settled.value;
      if (this.#open.get(uri) === known) this.#open.delete(uri);
      return this.get(uri);
    }
    const opening = LibvirtConnection.open(uri);
    this.#open.set(uri, opening);
    return opening;
  }

  async close(): Promise<void> {
    const all = [...this.#open.values()];
    this.#open.clear();
    for (const result of await Promise.allSettled(all)) if (result.status === 'fulfilled') await result.value.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
