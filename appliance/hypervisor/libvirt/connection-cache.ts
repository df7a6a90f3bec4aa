// SPDX-License-Identifier: Apache-2.0
import { LibvirtConnection } from './connection.ts';

/** One connection per URI and lane, opened when it is first needed and again after it was lost. */
export class ConnectionCache implements AsyncDisposable {
  readonly #open = new Map<string, Promise<LibvirtConnection>>();
  readonly #connect: (uri: string) => Promise<LibvirtConnection>;

  constructor(connect: (uri: string) => Promise<LibvirtConnection> = (uri) => LibvirtConnection.open(uri)) {
    this.#connect = connect;
  }

  /**
   * The calls of one connection wait for one another; what must not wait takes another lane, a small number. Who waits for the same
   * attempt shares its failure: nobody waits longer than one attempt takes. Throws what
   * `LibvirtConnection.open` throws. The connection belongs to the cache: do not close it.
   */
  async get(uri: string, lane: number = 0): Promise<LibvirtConnection> {
    const key = `${lane} ${uri}`;
    const known = this.#open.get(key);
    if (known !== undefined) {
      const connection = await known;
      if (connection.isOpen) return connection;
      if (this.#open.get(key) === known) this.#open.delete(key);
      return this.get(uri, lane);
    }
    const opening = this.#connect(uri);
    this.#open.set(key, opening);
    opening.catch(() => {
      if (this.#open.get(key) === opening) this.#open.delete(key);
    });
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
