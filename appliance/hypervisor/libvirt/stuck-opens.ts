// SPDX-License-Identifier: Apache-2.0
import { type Clock, systemClock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';

/** After the first attempt that does not come back the next waits for so long, then twice as long each time, and an hour in the end. */
const FIRST_PAUSE_MS = 30_000;
const LONGEST_PAUSE_MS = 3_600_000;

interface Stuck {
  threads: number;
  retryAtMs: number;
}

/**
 * Attempts to connect that were given up while libvirt did not return from them. Each keeps a thread for as long as that lasts, and
 * nothing can end it: to a daemon that hangs for a day only some thirty attempts are made.
 */
export class StuckOpens {
  readonly #clock: Clock;
  readonly #stuck = new Map<string, Stuck>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** Lets an attempt be made. @throws TIMED_OUT while earlier ones have not come back and the pause is not over */
  check(uri: string): void {
    const stuck = this.#stuck.get(targetOf(uri));
    if (stuck === undefined) return;
    const leftMs = stuck.retryAtMs - this.#clock.elapsedMs();
    if (leftMs <= 0) return;
    const { threads } = stuck;
    throw new ApplianceError(
      'TIMED_OUT',
      `libvirt does not answer: ${threads} attempts to connect have not come back`,
      {
        details: { threads, retryInMs: Math.ceil(leftMs) },
        hint: 'The next attempt is made in a while, or when one of these comes back; look at the daemon.',
      },
    );
  }

  /** An attempt was given up; `returned` resolves when its thread has ended. */
  add(uri: string, returned: Promise<void>): void {
    const target = targetOf(uri);
    const stuck = this.#stuck.get(target) ?? { threads: 0, retryAtMs: 0 };
    this.#stuck.set(target, stuck);
    const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** stuck.threads);
    stuck.threads += 1;
    stuck.retryAtMs = this.#clock.elapsedMs() + pauseMs;
    void returned.then(() => {
      stuck.threads -= 1;
      // The daemon lives again, or is gone: both are found out at once.
      if (this.#stuck.get(target) === stuck) this.#stuck.delete(target);
    });
  }
}

/** The file with the password has another name each time. */
function targetOf(uri: string): string {
  return uri.replace(/([?&])authfile=[^&]*/, '$1');
}
