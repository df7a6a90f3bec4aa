// SPDX-License-Identifier: Apache-2.0
import type { Collection, Entry } from '../config/collection.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { documentCheck, isCount, isText, oneOf, orNull } from './document-check.ts';
import { InOrder } from './in-order.ts';
import { hashSecret, newSecret } from './secret-text.ts';
import type { UserEntry, Users } from './users.ts';

export interface InvitationRecord {
  /** `setup`: makes the first administrator. `password`: its user chooses a password. */
  readonly purpose: 'setup' | 'password';
  readonly userId: string | null;
  readonly expiresAtMs: number;
}

export const checkInvitationRecord: (value: unknown) => InvitationRecord = documentCheck<InvitationRecord>(
  'invitation',
  { purpose: oneOf(['setup', 'password']), userId: orNull(isText), expiresAtMs: isCount },
);

const SETUP_LIFE_MS = 24 * 60 * 60_000;
const PASSWORD_LIFE_MS = 3 * 24 * 60 * 60_000;

export interface Invitation {
  /** For the link; only its hash is kept. */
  readonly secret: string;
  readonly expiresAtMs: number;
}

/**
 * Links that work once: for the first administrator of a new appliance, and for users to choose their password, so that nobody
 * ever has one that somebody else chose. A new one takes the place of the one before.
 */
export class Invitations {
  readonly #records: Collection<InvitationRecord>;
  readonly #users: Users;
  readonly #clock: Clock;
  readonly #order = new InOrder();

  constructor(records: Collection<InvitationRecord>, users: Users, clock: Clock) {
    this.#records = records;
    this.#users = users;
    this.#clock = clock;
  }

  /** @throws CONFLICT when there is an administrator already */
  setup(): Promise<Invitation> {
    return this.#order.run(async () => {
      if (this.#users.hasAdmin()) {
        throw new ApplianceError('CONFLICT', 'there is an administrator already', {
          hint: '`understudy user password NAME` gives a user another password.',
        });
      }
      return this.#issue({ purpose: 'setup', userId: null, expiresAtMs: this.#clock.nowMs() + SETUP_LIFE_MS });
    });
  }

  invite(user: UserEntry): Promise<Invitation> {
    const expiresAtMs = this.#clock.nowMs() + PASSWORD_LIFE_MS;
    return this.#order.run(() => this.#issue({ purpose: 'password', userId: user.id, expiresAtMs }));
  }

  /** What the link is for; undefined when it does not hold. */
  purposeOf(secret: string): InvitationRecord['purpose'] | undefined {
    return this.#valid(secret)?.value.purpose;
  }

  /**
   * Uses the link up: the first administrator is made (`name` is needed then), or the user gets the password. A password that
   * is refused leaves the link as it was.
   * @throws LOGIN_FAILED for a link that does not hold; BAD_ARGUMENT, CONFLICT
   */
  accept(secret: string, answer: { readonly name?: string; readonly password: string }): Promise<UserEntry> {
    return this.#order.run(async () => {
      const entry = this.#valid(secret);
      if (entry === undefined) throw new ApplianceError('LOGIN_FAILED', 'the link was used, or is too old');
      const user = await this.#fulfil(entry.value, answer);
      await this.#drop(entry.id);
      return user;
    });
  }

  async #fulfil(
    { purpose, userId }: InvitationRecord,
    { name, password }: { readonly name?: string; readonly password: string },
  ): Promise<UserEntry> {
    if (purpose === 'password') return this.#users.setPassword(userId ?? '', password);
    if (name === undefined) throw new ApplianceError('BAD_ARGUMENT', 'the first administrator needs a name');
    return this.#users.create({ name, role: 'admin', password });
  }

  #valid(secret: string): Entry<InvitationRecord> | undefined {
    const entry = this.#records.find(hashSecret(secret));
    return entry !== undefined && this.#holds(entry.value) ? entry : undefined;
  }

  /** A link for the first administrator is void once there is one, however that came about. */
  #holds({ purpose, userId, expiresAtMs }: InvitationRecord): boolean {
    if (this.#clock.nowMs() >= expiresAtMs) return false;
    if (purpose === 'setup') return !this.#users.hasAdmin();
    return userId !== null && this.#users.records.find(userId)?.value.isDisabled === false;
  }

  async #issue(record: InvitationRecord): Promise<Invitation> {
    for (const { id, value } of this.#records.list()) {
      const isReplaced = value.purpose === record.purpose && value.userId === record.userId;
      if (isReplaced || !this.#holds(value)) await this.#drop(id);
    }
    const secret = newSecret();
    await this.#records.create(hashSecret(secret), record);
    return { secret, expiresAtMs: record.expiresAtMs };
  }

  async #drop(id: string): Promise<void> {
    try {
      await this.#records.delete(id);
    } catch (error) {
      if (!hasCode(error, 'NOT_FOUND')) throw error;
    }
  }
}
