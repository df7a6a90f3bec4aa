// SPDX-License-Identifier: Apache-2.0
import type { ApplianceError } from '../../core/errors.ts';
import type { Request } from './request.ts';

/**
 * Which writes of a device are under way, and which were acknowledged but not flushed.
 *
 * Once a connection was lost while such writes existed, nobody can tell whether the server still has them: a server that
 * was restarted would acknowledge a flush of nothing. From then on every write and flush fails with that loss.
 */
export class WriteLedger {
  #lastNumber = 0;
  /** Numbers of the modifications without an answer, ascending. */
  readonly #pending = new Set<number>();
  readonly #waiters: { readonly upTo: number; readonly resolve: () => void }[] = [];
  /** Highest acknowledged number that needs a flush, and the highest that a flush has covered. */
  #lastUnflushed = 0;
  #lastFlushed = 0;
  #failure: ApplianceError | undefined;

  /** The first loss of a connection that may have cost writes. */
  get failure(): ApplianceError | undefined {
    return this.#failure;
  }

  begin(request: Request): void {
    if (!request.isModification) return;
    this.#lastNumber += 1;
    request.writeNumber = this.#lastNumber;
    this.#pending.add(request.writeNumber);
  }

  /** A modification got its answer, or never will. */
  end(request: Request, isDone: boolean): void {
    if (request.writeNumber === 0) return;
    this.#pending.delete(request.writeNumber);
    if (isDone && !request.isDurable) this.#lastUnflushed = Math.max(this.#lastUnflushed, request.writeNumber);
    const [oldest = Number.POSITIVE_INFINITY] = this.#pending;
    for (let waiter = this.#waiters[0]; waiter !== undefined && waiter.upTo < oldest; waiter = this.#waiters[0]) {
      this.#waiters.shift();
      waiter.resolve();
    }
  }

  /** Waits for the answers of everything begun so far; returns the number to give to `flushed`. */
  async settled(): Promise<number> {
    const upTo = this.#lastNumber;
    const [oldest = Number.POSITIVE_INFINITY] = this.#pending;
    if (oldest <= upTo) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiters.push({ upTo, resolve });
      await promise;
    }
    return upTo;
  }

  /** A flush that was sent after `settled` returned this number has succeeded. */
  flushed(upTo: number): void {
    this.#lastFlushed = Math.max(this.#lastFlushed, upTo);
  }

  /** A connection was lost, with these requests unanswered. */
  connectionLost(error: ApplianceError, unanswered: readonly Request[]): void {
    const isInDoubt = this.#lastUnflushed > this.#lastFlushed || unanswered.some((request) => request.isModification);
    if (isInDoubt) this.#failure ??= error;
  }
}
