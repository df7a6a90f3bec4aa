// SPDX-License-Identifier: Apache-2.0
import type { SealedSecret, SecretBox, SecretPlace } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { LoginLimit, placeOfAddress } from './login-limit.ts';
import type { Passwords } from './passwords.ts';
import type { SecondFactor } from './second-factor.ts';
import { newId } from './secret-text.ts';
import type { UserEntry, Users } from './users.ts';

export interface Credentials {
  readonly name: string;
  readonly password: string;
  /** Of the app, or a recovery code. */
  readonly code?: string | undefined;
}

/** Where an attempt comes from. */
export interface LoginPlace {
  readonly address: string;
  /** What `deviceOf` gave to this browser. */
  readonly device?: string | undefined;
}

/**
 * Logging in with a password. Whoever is refused learns nothing: a user who does not exist, is disabled or has no password costs
 * the same work and gives the same error as a wrong password. Browsers that logged in as the user before have turns of their own, so
 * that a flood from elsewhere keeps nobody out.
 */
export class Login {
  readonly #users: Users;
  readonly #passwords: Passwords;
  readonly #secondFactor: SecondFactor;
  readonly #box: SecretBox;
  readonly #limit: LoginLimit;

  constructor(parts: {
    readonly users: Users;
    readonly passwords: Passwords;
    readonly secondFactor: SecondFactor;
    readonly box: SecretBox;
    readonly clock: Clock;
  }) {
    this.#users = parts.users;
    this.#passwords = parts.passwords;
    this.#secondFactor = parts.secondFactor;
    this.#box = parts.box;
    this.#limit = new LoginLimit(parts.clock);
  }

  /** The user. @throws LOGIN_FAILED, LOGIN_LIMITED, SECOND_FACTOR_NEEDED when all but the code was right */
  async check(credentials: Credentials, from: LoginPlace): Promise<UserEntry> {
    const user = this.#users.findByName(credentials.name);
    const device = user === undefined || from.device === undefined ? undefined : this.#openDevice(user.id, from.device);
    const place = device === undefined ? placeOfAddress(from.address) : `device ${device}`;
    this.#limit.attempt(credentials.name, place);
    const stored = user === undefined || user.value.isDisabled ? null : user.value.passwordHash;
    const lane = device === undefined ? 'unknown' : 'known';
    const isRight = await this.#passwords.verify(credentials.password, stored, lane);
    if (user === undefined || stored === null || !isRight) {
      throw new ApplianceError('LOGIN_FAILED', 'name, password or code are wrong');
    }
    if (user.value.totp !== null) {
      if (credentials.code === undefined) {
        throw new ApplianceError('SECOND_FACTOR_NEEDED', 'this user has a second factor');
      }
      await this.#secondFactor.use(user, credentials.code);
    }
    this.#limit.succeeded(credentials.name, place);
    if (this.#passwords.isStale(stored)) await this.#users.rehash(user, credentials.password);
    return this.#users.get(user.id);
  }

  /** Proof that a logged-in user is still the same person: for what changes how to log in. Errors as `check`, without a code. */
  async confirm(user: UserEntry, password: string): Promise<void> {
    const place = 'session';
    this.#limit.attempt(user.value.name, place);
    if (!(await this.#passwords.verify(password, user.value.passwordHash, 'known'))) {
      throw new ApplianceError('LOGIN_FAILED', 'the password is wrong');
    }
    this.#limit.succeeded(user.value.name, place);
  }

  /** What a browser keeps, to be known as one that logged in as this user. Gives no access. */
  deviceOf(user: UserEntry): string {
    return this.#box.seal(devicePlace(user.id), newId());
  }

  #openDevice(userId: string, sealed: string): string | undefined {
    try {
      return this.#box.open(devicePlace(userId), sealed as SealedSecret);
    } catch (error) {
      if (hasCode(error, 'SECRET_UNREADABLE')) return undefined;
      throw error;
    }
  }
}

function devicePlace(userId: string): SecretPlace {
  return { collection: 'users', id: userId, field: 'device' };
}
