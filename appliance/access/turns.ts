// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';

/** How many may work at a time, and how many wait; more are refused at once. */
export class Turns {
  readonly #atOnce: number;
  readonly #waitingLimit: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(limits: { readonly atOnce: number; readonly waiting: number }) {
    this.#atOnce = limits.atOnce;
    this.#waitingLimit = limits.waiting;
  }

  /** @throws LOGIN_LIMITED when too many wait already */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#atOnce) {
      if (this.#waiting.length >= this.#waitingLimit) {
        throw new ApplianceError('LOGIN_LIMITED', 'too many people log in at the same time', {
          details: { retryAfterMs: 1000 },
        });
      }
      // Whoever ends hands its place over, so that the count stays.
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#running += 1;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }
}
