// SPDX-License-Identifier: Apache-2.0
import { createHmac } from 'node:crypto';
import type { Collection, Entry } from '../config/collection.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { documentCheck, isCount, isText } from './document-check.ts';
import { hashSecret, newSecret } from './secret-text.ts';
import type { UserEntry, Users } from './users.ts';

export interface SessionRecord {
  readonly userId: string;
  readonly epoch: number;
  readonly createdAtMs: number;
  /** At least; see `SEEN_GRAIN_MS`. */
  readonly seenAtMs: number;
  readonly address: string;
  readonly agent: string;
}

export const checkSessionRecord: (value: unknown) => SessionRecord = documentCheck<SessionRecord>('session', {
  userId: isText,
  epoch: isCount,
  createdAtMs: isCount,
  seenAtMs: isCount,
  address: isText,
  agent: isText,
});

export interface SessionLimits {
  readonly idleMs: number;
  readonly absoluteMs: number;
}

export const MAX_SESSIONS_PER_USER = 20;
const MAX_AGENT_CHARACTERS = 200;
/** That a session was seen is written once in this time, not with each request. */
const SEEN_GRAIN_MS = 5 * 60_000;

export interface SessionSummary {
  /** Names it for `sessionEnd`; nobody can use it to log in. */
  readonly id: string;
  readonly userId: string;
  readonly createdAtMs: number;
  readonly seenAtMs: number;
  readonly address: string;
  readonly agent: string;
}

/**
 * Who is logged in. A session's secret is only in the browser's cookie; what is kept, durably, so that an upgrade logs nobody
 * out, is its hash. It ends when it was not used for a while, at an age, when it is told to, and with the epoch of its user.
 */
export class Sessions {
  readonly #records: Collection<SessionRecord>;
  readonly #users: Users;
  readonly #clock: Clock;
  readonly #limits: () => SessionLimits;
  /** When each was seen last, where that is newer than what is written. */
  readonly #seen = new Map<string, number>();

  constructor(parts: {
    readonly records: Collection<SessionRecord>;
    readonly users: Users;
    readonly clock: Clock;
    readonly limits: () => SessionLimits;
  }) {
    this.#records = parts.records;
    this.#users = parts.users;
    this.#clock = parts.clock;
    this.#limits = parts.limits;
  }

  /** Settles with the secret for the cookie. The oldest of a user with too many ends. */
  async begin(user: UserEntry, from: { readonly address: string; readonly agent: string }): Promise<string> {
    const own = this.#records.list().filter(({ value }) => value.userId === user.id);
    const ended = own.filter((entry) => !this.#isAlive(entry));
    const alive = own.filter((entry) => !ended.includes(entry)).sort((a, b) => this.#seenAt(a) - this.#seenAt(b));
    const tooMany = alive.slice(0, Math.max(0, alive.length - MAX_SESSIONS_PER_USER + 1));
    for (const entry of [...ended, ...tooMany]) await this.#drop(entry.id);
    const secret = newSecret();
    const nowMs = this.#clock.nowMs();
    await this.#records.create(hashSecret(secret), {
      userId: user.id,
      epoch: user.value.sessionEpoch,
      createdAtMs: nowMs,
      seenAtMs: nowMs,
      address: from.address,
      agent: from.agent.slice(0, MAX_AGENT_CHARACTERS),
    });
    return secret;
  }

  /** The user of a session that holds, and that was seen now; undefined when it does not hold. */
  async userOf(secret: string): Promise<UserEntry | undefined> {
    const entry = this.#records.find(hashSecret(secret));
    if (entry === undefined) return undefined;
    if (!this.#isAlive(entry)) {
      await this.#drop(entry.id);
      return undefined;
    }
    const nowMs = this.#clock.nowMs();
    this.#seen.set(entry.id, nowMs);
    if (Math.abs(nowMs - entry.value.seenAtMs) >= SEEN_GRAIN_MS) await this.#write(entry.id, nowMs);
    return this.#users.records.find(entry.value.userId);
  }

  /** Those that hold, newest use first. */
  list(userId?: string): readonly SessionSummary[] {
    return this.#records
      .list()
      .filter((entry) => (userId === undefined || entry.value.userId === userId) && this.#isAlive(entry))
      .map((entry) => ({
        id: summaryId(entry.id),
        userId: entry.value.userId,
        createdAtMs: entry.value.createdAtMs,
        seenAtMs: this.#seenAt(entry),
        address: entry.value.address,
        agent: entry.value.agent,
      }))
      .sort((a, b) => b.seenAtMs - a.seenAtMs);
  }

  /** @throws NOT_FOUND */
  async end(id: string): Promise<void> {
    const entry = this.#records.list().find((one) => summaryId(one.id) === id);
    if (entry === undefined) throw new ApplianceError('NOT_FOUND', `there is no session ${id}`);
    await this.#drop(entry.id);
  }

  async endBySecret(secret: string): Promise<void> {
    await this.#drop(hashSecret(secret));
  }

  /** Removes what does not hold any more. */
  async sweep(): Promise<void> {
    for (const entry of this.#records.list()) if (!this.#isAlive(entry)) await this.#drop(entry.id);
  }

  #isAlive({ id, value }: Entry<SessionRecord>): boolean {
    const nowMs = this.#clock.nowMs();
    const { idleMs, absoluteMs } = this.#limits();
    const user = this.#users.records.find(value.userId)?.value;
    return (
      user !== undefined &&
      !user.isDisabled &&
      user.sessionEpoch === value.epoch &&
      // Also of one from a time to come: a clock that was ahead, and is set right, does not lengthen it.
      Math.abs(nowMs - this.#seenAt({ id, value })) < idleMs &&
      Math.abs(nowMs - value.createdAtMs) < absoluteMs
    );
  }

  #seenAt({ id, value }: Pick<Entry<SessionRecord>, 'id' | 'value'>): number {
    return Math.max(this.#seen.get(id) ?? 0, value.seenAtMs);
  }

  async #write(id: string, seenAtMs: number): Promise<void> {
    await ignoreMissing(this.#records.update(id, (value) => ({ ...value, seenAtMs })));
  }

  async #drop(id: string): Promise<void> {
    this.#seen.delete(id);
    if (this.#records.find(id) !== undefined) await ignoreMissing(this.#records.delete(id));
  }
}

/** What proves that a request comes from a page of ours: only such a page could read it. It changes with the session. */
export function csrfTokenOf(sessionSecret: string): string {
  return createHmac('sha256', sessionSecret).update('understudy csrf v1').digest('base64url');
}

function summaryId(id: string): string {
  return id.slice(0, 16);
}

/** Somebody else ended it at the same time. */
async function ignoreMissing(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!hasCode(error, 'NOT_FOUND')) throw error;
  }
}
