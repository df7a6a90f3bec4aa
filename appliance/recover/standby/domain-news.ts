// SPDX-License-Identifier: Apache-2.0
import type { DomainIdentity } from '../../hypervisor/libvirt/protocol.ts';
import type { Original } from './original.ts';

/** Wakes whoever waits for a machine as soon as libvirt tells something of it. */
export class DomainNews implements Disposable {
  readonly #machine: Original;
  #isNew = false;
  #wake: () => void = () => undefined;

  constructor(machine: Original) {
    this.#machine = machine;
    machine.connection.events.on('lifecycle', this.#onEvent);
    machine.connection.events.on('agent', this.#onEvent);
  }

  /** Settles with the first event since the last call, or when the time is over: events end with their connection. */
  async next(mostMs: number): Promise<void> {
    if (!this.#isNew) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, mostMs);
      await promise;
      clearTimeout(timer);
    }
    this.#isNew = false;
  }

  [Symbol.dispose](): void {
    this.#machine.connection.events.off('lifecycle', this.#onEvent);
    this.#machine.connection.events.off('agent', this.#onEvent);
  }

  readonly #onEvent = ({ uuid }: DomainIdentity): void => {
    if (uuid !== this.#machine.domain.uuid) return;
    this.#isNew = true;
    this.#wake();
  };
}
