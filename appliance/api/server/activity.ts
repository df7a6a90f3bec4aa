// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { stopping } from '../runs/run-service.ts';

/** Requests that are being worked on at the same time; more are refused. Streams of events do not count. */
export const MAX_REQUESTS = 256;

/** What the service works on besides runs, and whether it takes more. */
export class Activity {
  readonly #controller = new AbortController();
  readonly #working = new Map<symbol, { readonly name: string; readonly done: Promise<void> }>();

  /** Aborted when the service stops. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get isStopping(): boolean {
    return this.#controller.signal.aborted;
  }

  /** What is being worked on, by name. */
  names(): readonly string[] {
    return [...this.#working.values()].map(({ name }) => name);
  }

  /** Does a piece of work, unless there is too much of it. @throws TOO_BUSY; SERVICE_UNREACHABLE when it stops; what `work` throws */
  async perform<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.isStopping) throw stopping();
    if (this.#working.size >= MAX_REQUESTS) {
      throw new ApplianceError('TOO_BUSY', `${MAX_REQUESTS} requests are being worked on already`);
    }
    const key = Symbol(name);
    const { promise: done, resolve } = Promise.withResolvers<void>();
    this.#working.set(key, { name, done });
    try {
      return await work();
    } finally {
      this.#working.delete(key);
      resolve();
    }
  }

  /** Takes no more, aborts what is there, and waits for it; false when some of it was left at the deadline. */
  async stop({ deadlineMs }: { readonly deadlineMs: number }): Promise<boolean> {
    this.#controller.abort(new ApplianceError('ABORTED', 'the service stops'));
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, deadlineMs);
    const all = Promise.all([...this.#working.values()].map(({ done }) => done));
    await Promise.race([all, late.promise]);
    clearTimeout(timer);
    return this.#working.size === 0;
  }
}
