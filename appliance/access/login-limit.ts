// SPDX-License-Identifier: Apache-2.0
import { isIPv6 } from 'node:net';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';

/** Attempts that may fail before there is any wait. */
const FREE_FAILURES = 5;
const FIRST_WAIT_MS = 1_000;
const MAX_WAIT_MS = 15 * 60_000;
/** After so long without a failure all is forgotten. */
const MEMORY_MS = 60 * 60_000;
/** Pairs that are remembered; the one that failed longest ago is forgotten first. */
const MAX_PAIRS = 20_000;

interface Failures {
  readonly count: number;
  readonly lastMs: number;
}

/**
 * Slows down guessing without locking anybody out: failures are counted for each pair of a user's name and where the attempt
 * came from, and only that pair waits (1 s after the fifth failure, twice as long after each further one, 15 minutes at
 * most). An attacker elsewhere therefore never keeps a user from logging in; nor does one behind the same address, since
 * a browser that logged in as this user before counts as a place of its own (`known device`).
 */
export class LoginLimit {
  readonly #clock: Clock;
  /** In order of the last failure. */
  readonly #pairs = new Map<string, Failures>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#pairs.size;
  }

  /**
   * Counts an attempt as failed before it is looked at, so that many at the same time do not all slip through; `succeeded`
   * takes it back.
   * @throws LOGIN_LIMITED with `details.retryAfterMs`
   */
  attempt(userName: string, place: string): void {
    const key = pairOf(userName, place);
    const nowMs = this.#clock.elapsedMs();
    const known = this.#pairs.get(key);
    const before = known === undefined || nowMs - known.lastMs > MEMORY_MS ? 0 : known.count;
    if (known !== undefined && before >= FREE_FAILURES) {
      const waitMs = Math.min(FIRST_WAIT_MS * 2 ** (before - FREE_FAILURES), MAX_WAIT_MS);
      const retryAfterMs = Math.ceil(known.lastMs + waitMs - nowMs);
      if (retryAfterMs > 0) {
        throw new ApplianceError('LOGIN_LIMITED', `wait ${Math.ceil(retryAfterMs / 1000)} s before the next attempt`, {
          details: { retryAfterMs },
        });
      }
    }
    this.#pairs.delete(key);
    this.#pairs.set(key, { count: before + 1, lastMs: nowMs });
    if (this.#pairs.size <= MAX_PAIRS) return;
    const [oldest] = this.#pairs.keys();
    if (oldest !== undefined) this.#pairs.delete(oldest);
  }

  succeeded(userName: string, place: string): void {
    this.#pairs.delete(pairOf(userName, place));
  }
}

/** The place of an address: IPv6 by its network of 64 bits, of which one host has all addresses. */
export function placeOfAddress(address: string): string {
  const bare = address.replace(/%.*$/, '').replace(/^::ffff:(?=\d+\.)/i, '');
  return isIPv6(bare) ? `${expand(bare).slice(0, 4).join(':')}::/64` : bare;
}

function expand(address: string): string[] {
  const [head = '', tail] = address.toLowerCase().split('::');
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const missing = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  return [...before, ...Array<string>(missing).fill('0'), ...after].map((group) => group.replace(/^0+(?=.)/, ''));
}

function pairOf(userName: string, place: string): string {
  return `${userName.toLowerCase()}\n${place}`;
}
