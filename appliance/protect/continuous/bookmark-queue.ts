// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import type { Consistency } from '../../repository/manifest.ts';
import type { SessionMoment } from './ports.ts';

interface Waiting {
  readonly name: string;
  readonly consistency: Consistency;
  readonly resolve: (moment: SessionMoment) => void;
  readonly reject: (error: unknown) => void;
  /** Nobody waits for it any more. */
  isGone: boolean;
}

/** The guest may be frozen meanwhile, which an interval that has much to read must not prolong. */
const PATIENCE_MS = 10_000;

/** Bookmarks that wait for the next interval, which has to begin after they were asked for. */
export class BookmarkQueue {
  #waiting: Waiting[] = [];
  #hurry: () => void = () => undefined;

  /** Settles when an interval that began after this call has been marked with the name. Throws TIMED_OUT. */
  async add(name: string, consistency: Consistency, patienceMs: number = PATIENCE_MS): Promise<SessionMoment> {
    const { promise, resolve, reject } = Promise.withResolvers<SessionMoment>();
    const waiting: Waiting = { name, consistency, resolve, reject, isGone: false };
    this.#waiting.push(waiting);
    this.#hurry();
    const timer = setTimeout(() => {
      waiting.isGone = true;
      reject(
        new ApplianceError('TIMED_OUT', `the next interval was not complete within ${patienceMs / 1000} s`, {
          hint: 'The guest writes more than can be read in that time. Try again when it is quieter, or protect it with --continuous.',
        }),
      );
    }, patienceMs);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Settles when the next interval must not wait. */
  get hurry(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#hurry = resolve;
    if (this.#waiting.length > 0) resolve();
    return promise;
  }

  /** At the start of an interval: what it has to be marked with. */
  take(): BookmarkBatch {
    return new BookmarkBatch(this.#waiting.splice(0));
  }

  /** There will be no interval for those that wait. */
  refuse(reason: string): void {
    this.take().refuse(reason);
  }
}

/** The bookmarks of one interval. */
export class BookmarkBatch {
  readonly #waiting: Waiting[];

  constructor(waiting: Waiting[]) {
    this.#waiting = waiting;
  }

  /** Marks the state that the journal holds now. A bookmark that cannot be written fails alone. */
  async mark(write: (name: string, consistency: Consistency) => Promise<SessionMoment>): Promise<void> {
    for (const one of this.#waiting.splice(0)) {
      if (one.isGone) continue;
      try {
        one.resolve(await write(one.name, one.consistency));
      } catch (error) {
        one.reject(error);
      }
    }
  }

  refuse(reason: string): void {
    const error = new ApplianceError('DOMAIN_BUSY', `there is no consistent state to bookmark: ${reason}`);
    for (const one of this.#waiting.splice(0)) one.reject(error);
  }
}
