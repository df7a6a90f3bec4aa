// SPDX-License-Identifier: Apache-2.0
import type { Collection, Entry } from '../config/collection.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { documentCheck, isCount, isText, isTexts, oneOf, orNull } from './document-check.ts';
import { isAtLeast, lesserRole, type Principal, ROLES, type Role } from './principal.ts';
import { formatToken, hashSecret, isSecretOf, newId, newTokenSecret, parseToken } from './secret-text.ts';
import type { Users } from './users.ts';

export interface TokenRecord {
  readonly name: string;
  /** Id of the user who made it; null for the owner of the appliance. */
  readonly madeBy: string | null;
  readonly role: Role;
  /** Of a restorer's token. */
  readonly machines: readonly string[] | null;
  readonly secretHash: string;
  readonly createdAt: string;
  readonly expiresAtMs: number | null;
  /** At least; see `USED_GRAIN_MS`. */
  readonly usedAtMs: number | null;
}

export const checkTokenRecord: (value: unknown) => TokenRecord = documentCheck<TokenRecord>('token', {
  name: isText,
  madeBy: orNull(isText),
  role: oneOf(ROLES),
  machines: orNull(isTexts),
  secretHash: isText,
  createdAt: isText,
  expiresAtMs: orNull(isCount),
  usedAtMs: orNull(isCount),
});

export interface NewToken {
  readonly name: string;
  readonly role?: Role | undefined;
  readonly machines?: readonly string[] | undefined;
  readonly expiresAtMs?: number | undefined;
}

export const MAX_TOKENS_PER_PERSON = 50;
/** That a token was used is written once in this time, not with each request. */
const USED_GRAIN_MS = 60 * 60_000;

export type TokenEntry = Entry<TokenRecord>;

/**
 * Keys for programs. What is stored is the SHA-256 of a secret of 256 random bits. A token may do what its role says and never more than
 * its maker may at the time of use: it goes with the maker, and falls silent while the maker is disabled.
 */
export class ApiTokens {
  readonly #records: Collection<TokenRecord>;
  readonly #users: Users;
  readonly #clock: Clock;
  /** When each was used last, where that is newer than what is written. */
  readonly #used = new Map<string, number>();

  constructor(records: Collection<TokenRecord>, users: Users, clock: Clock) {
    this.#records = records;
    this.#users = users;
    this.#clock = clock;
  }

  /** Settles with the token itself, which nobody can see again. @throws FORBIDDEN, BAD_ARGUMENT, LIMIT_REACHED */
  async create(maker: Principal, token: NewToken): Promise<{ readonly token: string; readonly entry: TokenEntry }> {
    const role = token.role ?? maker.role;
    if (!isAtLeast(maker.role, role)) {
      throw new ApplianceError('FORBIDDEN', `a token of a ${maker.role} cannot have the role ${role}`);
    }
    const nowMs = this.#clock.nowMs();
    if (token.expiresAtMs !== undefined && token.expiresAtMs <= nowMs) {
      throw new ApplianceError('BAD_ARGUMENT', 'a token has to expire in the future');
    }
    const madeBy = maker.kind === 'user' ? maker.id : null;
    if (this.list(madeBy).length >= MAX_TOKENS_PER_PERSON) {
      throw new ApplianceError('LIMIT_REACHED', `there are ${MAX_TOKENS_PER_PERSON} tokens already`, {
        hint: 'Revoke those that nobody uses.',
      });
    }
    const secret = newTokenSecret();
    const entry = await this.#records.create(newId(), {
      name: token.name,
      madeBy,
      role,
      machines: machinesOf(maker, role, token.machines),
      secretHash: hashSecret(secret),
      createdAt: new Date(nowMs).toISOString(),
      expiresAtMs: token.expiresAtMs ?? null,
      usedAtMs: null,
    });
    return { token: formatToken(entry.id, secret), entry };
  }

  /** On whose behalf a token speaks now; undefined when it does not hold. */
  async principalOf(text: string): Promise<Principal | undefined> {
    const parsed = parseToken(text);
    const entry = parsed === undefined ? undefined : this.#records.find(parsed.id);
    // As long as for one that exists.
    const isRight = isSecretOf(parsed?.secret ?? '', entry?.value.secretHash ?? hashSecret('nobody'));
    const nowMs = this.#clock.nowMs();
    if (entry === undefined || !isRight || isExpired(entry.value, nowMs)) return undefined;
    const principal = this.#principalOfEntry(entry);
    if (principal !== undefined) await this.#noteUse(entry, nowMs);
    return principal;
  }

  /** Of one maker (null: the owner of the appliance), or all of them; by name. */
  list(madeBy?: string | null): readonly TokenEntry[] {
    return this.#records
      .list()
      .filter(({ value }) => madeBy === undefined || value.madeBy === madeBy)
      .sort((a, b) => (a.value.name < b.value.name ? -1 : 1));
  }

  usedAtMs({ id, value }: TokenEntry): number | null {
    return this.#used.get(id) ?? value.usedAtMs;
  }

  /** By id or, where only one has it, by name. @throws NOT_FOUND, CONFLICT */
  find(idOrName: string, among: readonly TokenEntry[]): TokenEntry {
    const byId = among.find(({ id }) => id === idOrName);
    if (byId !== undefined) return byId;
    const [only, ...others] = among.filter(({ value }) => value.name === idOrName);
    if (only === undefined) throw new ApplianceError('NOT_FOUND', `there is no token ${idOrName}`);
    if (others.length === 0) return only;
    throw new ApplianceError('CONFLICT', `${others.length + 1} tokens are called ${idOrName}; give the id`);
  }

  async revoke(id: string): Promise<void> {
    this.#used.delete(id);
    await this.#records.delete(id);
  }

  async revokeAllOf(userId: string): Promise<void> {
    for (const { id } of this.list(userId)) await this.#forget(id);
  }

  #principalOfEntry({ id, value }: TokenEntry): Principal | undefined {
    const { name, madeBy, role, machines } = value;
    if (madeBy === null) return { kind: 'token', id, name, role, machines, madeBy };
    const maker = this.#users.records.find(madeBy)?.value;
    if (maker === undefined || maker.isDisabled) return undefined;
    const now = lesserRole(role, maker.role);
    const allowed = now !== 'restorer' ? null : bothOf(machines, maker.machines);
    return { kind: 'token', id, name: `${maker.name}/${name}`, role: now, machines: allowed, madeBy };
  }

  async #noteUse(entry: TokenEntry, nowMs: number): Promise<void> {
    const before = entry.value.usedAtMs;
    this.#used.set(entry.id, nowMs);
    if (before !== null && Math.abs(nowMs - before) < USED_GRAIN_MS) return;
    try {
      await this.#records.update(entry.id, (value) => ({ ...value, usedAtMs: nowMs }));
    } catch (error) {
      // Revoked at the same time; the next use is refused.
      if (!hasCode(error, 'NOT_FOUND')) throw error;
    }
  }

  async #forget(id: string): Promise<void> {
    try {
      await this.revoke(id);
    } catch (error) {
      if (!hasCode(error, 'NOT_FOUND')) throw error;
    }
  }
}

export function isExpired({ expiresAtMs }: Pick<TokenRecord, 'expiresAtMs'>, nowMs: number): boolean {
  return expiresAtMs !== null && nowMs >= expiresAtMs;
}

function machinesOf(maker: Principal, role: Role, wanted: readonly string[] | undefined): readonly string[] | null {
  if (role !== 'restorer') {
    if (wanted === undefined) return null;
    throw new ApplianceError('BAD_ARGUMENT', 'only a token with the role restorer has machines');
  }
  const chosen = wanted?.map((machine) => machine.toLowerCase()) ?? maker.machines;
  if (chosen === null || chosen.length === 0) {
    throw new ApplianceError('BAD_ARGUMENT', 'a token with the role restorer needs the machines that it may restore');
  }
  if (maker.machines !== null && !chosen.every((machine) => maker.machines?.includes(machine))) {
    throw new ApplianceError('FORBIDDEN', 'a token cannot have machines that its maker does not have');
  }
  return [...new Set(chosen)].sort();
}

/** Null means all. A role without a list that became a restorer meanwhile has none. */
function bothOf(one: readonly string[] | null, other: readonly string[] | null): readonly string[] {
  if (one === null) return other ?? [];
  return other === null ? one : one.filter((machine) => other.includes(machine));
}
