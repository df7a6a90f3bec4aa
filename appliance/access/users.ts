// SPDX-License-Identifier: Apache-2.0
import type { Collection, Entry } from '../config/collection.ts';
import type { SealedSecret } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import { documentCheck, isCount, isFlag, isObject, isText, isTexts, oneOf, orNull } from './document-check.ts';
import { InOrder } from './in-order.ts';
import { checkPassword } from './password-rules.ts';
import { type Principal, ROLES, type Role } from './principal.ts';
import { newId } from './secret-text.ts';

/*
 * Invariants:
 *  - once there was an enabled administrator, there always is one: no change takes the last one away.
 *  - no two users have the same name, nor the same identity at a provider.
 *  - whatever ends somebody's sessions (password, role, disabling) raises `sessionEpoch` in the same write.
 */

/** Who somebody is at an identity provider: both together, since a subject means something to its issuer only. */
export interface Identity {
  readonly issuer: string;
  readonly subject: string;
}

export interface UserRecord {
  readonly name: string;
  readonly displayName: string;
  readonly role: Role;
  /** Of a restorer: ids of machines. Null for every other role. */
  readonly machines: readonly string[] | null;
  readonly isDisabled: boolean;
  /** PHC string; null for who logs in elsewhere, or has not chosen a password yet. */
  readonly passwordHash: string | null;
  readonly passwordChangedAt: string | null;
  /** A session of an earlier epoch has ended. */
  readonly sessionEpoch: number;
  /** The sealed secret, and the newest time step whose code was used. */
  readonly totp: { readonly sealed: SealedSecret; readonly lastStep: number } | null;
  /** Not confirmed yet. */
  readonly pendingTotp: SealedSecret | null;
  /** Hashes of those that are not used. */
  readonly recoveryCodes: readonly string[];
  readonly identity: Identity | null;
  readonly createdAt: string;
}

export interface NewUser {
  readonly name: string;
  readonly displayName?: string | undefined;
  readonly role: Role;
  readonly machines?: readonly string[] | undefined;
  readonly password?: string | undefined;
  readonly identity?: Identity | undefined;
}

export interface UserChanges {
  readonly displayName?: string | undefined;
  readonly role?: Role | undefined;
  readonly machines?: readonly string[] | undefined;
  readonly isDisabled?: boolean | undefined;
}

/** Turns a password into what is stored. */
export type HashPassword = (password: string) => Promise<string>;

export const MAX_USERS = 2_000;
export const MAX_NAMED_MACHINES = 1_000;

const NAME = /^[a-z0-9][a-z0-9._@+-]{0,63}$/;
/** Would look like the appliance itself in the audit log. */
const RESERVED = new Set(['local', 'policy', 'appliance', 'anonymous']);

export const checkUserRecord: (value: unknown) => UserRecord = documentCheck<UserRecord>('user', {
  name: isText,
  displayName: isText,
  role: oneOf(ROLES),
  machines: orNull(isTexts),
  isDisabled: isFlag,
  passwordHash: orNull(isText),
  passwordChangedAt: orNull(isText),
  sessionEpoch: isCount,
  totp: orNull(isObject),
  pendingTotp: orNull(isText),
  recoveryCodes: isTexts,
  identity: orNull(isObject),
  createdAt: isText,
});

export type UserEntry = Entry<UserRecord>;

/** The users, and what must be true of all of them together. */
export class Users {
  readonly records: Collection<UserRecord>;
  readonly #clock: Clock;
  readonly #hash: HashPassword;
  readonly #order = new InOrder();

  constructor(records: Collection<UserRecord>, clock: Clock, hash: HashPassword) {
    this.records = records;
    this.#clock = clock;
    this.#hash = hash;
  }

  list(): readonly UserEntry[] {
    return [...this.records.list()].sort((a, b) => (a.value.name < b.value.name ? -1 : 1));
  }

  findByName(name: string): UserEntry | undefined {
    const kept = name.toLowerCase();
    return this.records.list().find(({ value }) => value.name === kept);
  }

  /** By name or id. */
  find(nameOrId: string): UserEntry | undefined {
    return this.findByName(nameOrId) ?? this.records.find(nameOrId);
  }

  /** @throws NOT_FOUND */
  get(nameOrId: string): UserEntry {
    const user = this.find(nameOrId);
    if (user === undefined) throw new ApplianceError('NOT_FOUND', `there is no user ${nameOrId}`);
    return user;
  }

  findByIdentity({ issuer, subject }: Identity): UserEntry | undefined {
    return this.records
      .list()
      .find(({ value: { identity } }) => identity?.issuer === issuer && identity.subject === subject);
  }

  hasAdmin(): boolean {
    return this.admins().length > 0;
  }

  /** Those who are enabled. */
  admins(): readonly UserEntry[] {
    return this.records.list().filter(({ value }) => isEnabledAdmin(value));
  }

  /** @throws BAD_ARGUMENT, CONFLICT, LIMIT_REACHED */
  create(user: NewUser): Promise<UserEntry> {
    return this.#order.run(async () => {
      const name = checkName(user.name);
      if (this.findByName(name) !== undefined) throw new ApplianceError('CONFLICT', `there is a user ${name} already`);
      if (user.identity !== undefined && this.findByIdentity(user.identity) !== undefined) {
        throw new ApplianceError('CONFLICT', 'another user has this identity already');
      }
      if (this.records.list().length >= MAX_USERS) {
        throw new ApplianceError('LIMIT_REACHED', `there are ${MAX_USERS} users already`);
      }
      const machines = machinesOf(user.role, user.machines);
      const passwordHash = user.password === undefined ? null : await this.#hashChecked(user.password, name);
      const nowIso = this.#nowIso();
      return this.records.create(newId(), {
        name,
        displayName: user.displayName ?? '',
        role: user.role,
        machines,
        isDisabled: false,
        passwordHash,
        passwordChangedAt: passwordHash === null ? null : nowIso,
        sessionEpoch: 0,
        totp: null,
        pendingTotp: null,
        recoveryCodes: [],
        identity: user.identity ?? null,
        createdAt: nowIso,
      });
    });
  }

  /** Role, machines and disabling end the user's sessions. @throws NOT_FOUND, BAD_ARGUMENT, LAST_ADMIN */
  change(nameOrId: string, changes: UserChanges): Promise<UserEntry> {
    return this.#order.run(async () => {
      const { id, value: before } = this.get(nameOrId);
      const role = changes.role ?? before.role;
      const kept = role === before.role ? (before.machines ?? undefined) : undefined;
      const machines = machinesOf(role, changes.machines ?? kept);
      const isDisabled = changes.isDisabled ?? before.isDisabled;
      const isOther = role !== before.role || isDisabled !== before.isDisabled || !isSame(machines, before.machines);
      if (isEnabledAdmin(before) && !isEnabledAdmin({ role, isDisabled })) this.#refuseLastAdmin(before.name);
      return this.records.update(id, (value) => ({
        ...value,
        displayName: changes.displayName ?? value.displayName,
        role,
        machines,
        isDisabled,
        sessionEpoch: value.sessionEpoch + (isOther ? 1 : 0),
      }));
    });
  }

  /** @throws NOT_FOUND, LAST_ADMIN */
  delete(nameOrId: string): Promise<UserEntry> {
    return this.#order.run(async () => {
      const user = this.get(nameOrId);
      if (isEnabledAdmin(user.value)) this.#refuseLastAdmin(user.value.name);
      await this.records.delete(user.id);
      return user;
    });
  }

  /** Ends the user's sessions. @throws NOT_FOUND, BAD_ARGUMENT */
  async setPassword(nameOrId: string, password: string): Promise<UserEntry> {
    const { id, value } = this.get(nameOrId);
    const passwordHash = await this.#hashChecked(password, value.name);
    return this.records.update(id, (now) => ({
      ...now,
      passwordHash,
      passwordChangedAt: this.#nowIso(),
      sessionEpoch: now.sessionEpoch + 1,
    }));
  }

  /** The same password under other parameters; its sessions go on. Nothing when it was changed meanwhile. */
  async rehash(user: UserEntry, password: string): Promise<void> {
    const passwordHash = await this.#hash(password);
    await this.records.update(user.id, (now) =>
      now.passwordHash === user.value.passwordHash ? { ...now, passwordHash } : now,
    );
  }

  async #hashChecked(password: string, name: string): Promise<string> {
    checkPassword(password, name);
    return this.#hash(password);
  }

  #refuseLastAdmin(name: string): void {
    if (this.admins().length > 1) return;
    throw new ApplianceError('LAST_ADMIN', `${name} is the last administrator who can log in`);
  }

  #nowIso(): string {
    return new Date(this.#clock.nowMs()).toISOString();
  }
}

export function principalOfUser({ id, value }: UserEntry): Principal {
  return { kind: 'user', id, name: value.name, role: value.role, machines: value.machines };
}

/** The name as it is kept. @throws BAD_ARGUMENT */
export function checkName(name: string): string {
  const kept = name.toLowerCase();
  if (!NAME.test(kept) || RESERVED.has(kept)) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(name.slice(0, 80))} cannot be the name of a user`, {
      hint: 'A name has up to 64 letters, digits and . _ @ + -, and begins with a letter or digit.',
    });
  }
  return kept;
}

function isEnabledAdmin({ role, isDisabled }: Pick<UserRecord, 'role' | 'isDisabled'>): boolean {
  return role === 'admin' && !isDisabled;
}

function machinesOf(role: Role, machines: readonly string[] | undefined): readonly string[] | null {
  if (role !== 'restorer') {
    if (machines === undefined) return null;
    throw new ApplianceError('BAD_ARGUMENT', `only a restorer has machines; the role is ${role}`);
  }
  if (machines === undefined || machines.length === 0) {
    throw new ApplianceError('BAD_ARGUMENT', 'a restorer needs the machines that it may restore');
  }
  if (machines.length > MAX_NAMED_MACHINES) {
    throw new ApplianceError('BAD_ARGUMENT', `a restorer has at most ${MAX_NAMED_MACHINES} machines`);
  }
  return [...new Set(machines.map((machine) => machine.toLowerCase()))].sort();
}

function isSame(one: readonly string[] | null, other: readonly string[] | null): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
