// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';

/** Somebody who was refused and wants to be asked again. */
export interface BudgetWaiter {
  onBudgetFreed(): void;
}

/**
 * Bytes that all connections of a server share, handed out first come, first served: a large request is not starved by
 * small ones. One request is always granted when nothing is held, however large.
 *
 * Invariant: `usedBytes` = sum of all granted and not yet returned bytes.
 */
export class ByteBudget {
  readonly limitBytes: number;
  usedBytes = 0;
  readonly #waiters = new Set<BudgetWaiter>();
  #isWaking = false;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get hasWaiters(): boolean {
    return this.#waiters.size > 0;
  }

  /** Takes the bytes, or queues `waiter` and returns false. */
  tryTake(bytes: number, waiter: BudgetWaiter): boolean {
    const isOthersTurn = this.#waiters.size > 0 && this.#first() !== waiter;
    if (isOthersTurn || (this.usedBytes > 0 && this.usedBytes + bytes > this.limitBytes)) {
      this.#waiters.add(waiter);
      return false;
    }
    if (this.#waiters.size > 0) this.#waiters.delete(waiter);
    this.usedBytes += bytes;
    return true;
  }

  give(bytes: number): void {
    this.usedBytes -= bytes;
    invariant(this.usedBytes >= 0, 'no more is given back to a byte budget than was taken');
    this.#wakeLater();
  }

  /** Takes somebody who went away out of the queue. */
  forget(waiter: BudgetWaiter): void {
    if (this.#waiters.delete(waiter)) this.#wakeLater();
  }

  #first(): BudgetWaiter | undefined {
    for (const waiter of this.#waiters) return waiter;
    return undefined;
  }

  #wakeLater(): void {
    if (this.#waiters.size === 0 || this.#isWaking) return;
    this.#isWaking = true;
    setImmediate(() => {
      this.#isWaking = false;
      this.#wake();
    });
  }

  /** Asks from the front until the front one is refused again. */
  #wake(): void {
    for (let waiter = this.#first(); waiter !== undefined; waiter = this.#first()) {
      waiter.onBudgetFreed();
      if (this.#first() === waiter) return;
    }
  }
}
