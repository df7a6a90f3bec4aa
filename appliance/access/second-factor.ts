// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { Secret, TOTP } from 'otpauth';
import type { SecretBox, SecretPlace } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import { hashSecret } from './secret-text.ts';
import type { UserEntry, UserRecord, Users } from './users.ts';

const ISSUER = 'Understudy';
const PERIOD_SECONDS = 30;
const DIGITS = 6;
const SECRET_BYTES = 20;
/** Time steps before and after the present one that count, for clocks that differ. */
const WINDOW_STEPS = 1;

export const RECOVERY_CODES = 10;
const RECOVERY_CODE_BYTES = 10;
const BASE32 = 'abcdefghijklmnopqrstuvwxyz234567';

export interface Enrolment {
  /** Base32, for typing. */
  readonly secret: string;
  /** `otpauth://…`, for a picture to scan. */
  readonly uri: string;
}

/**
 * Time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 s, which every app knows) as a second factor, with recovery codes
 * for who lost the first one. A code works once: its time step must be later than that of the last one used, and that is
 * written before the login goes on. The secret is sealed, recovery codes are hashed.
 */
export class SecondFactor {
  readonly #users: Users;
  readonly #box: SecretBox;
  readonly #clock: Clock;

  constructor(users: Users, box: SecretBox, clock: Clock) {
    this.#users = users;
    this.#box = box;
    this.#clock = clock;
  }

  /** A new secret, which counts when `confirm` got a code of it. An enrolment before it is void. */
  async enrol(userId: string): Promise<Enrolment> {
    const secret = new Secret({ buffer: new Uint8Array(randomBytes(SECRET_BYTES)).buffer });
    const sealed = this.#box.seal(pendingPlace(userId), secret.base32);
    const { value } = await this.#users.records.update(userId, (user) => {
      if (user.totp !== null) throw new ApplianceError('CONFLICT', 'there is a second factor already; remove it first');
      return { ...user, pendingTotp: sealed };
    });
    return { secret: secret.base32, uri: generator(secret.base32, value.name).toString() };
  }

  /** Proof that the app has the secret. Settles with the recovery codes. @throws CONFLICT, LOGIN_FAILED */
  async confirm(userId: string, code: string): Promise<readonly string[]> {
    const codes = Array.from({ length: RECOVERY_CODES }, newRecoveryCode);
    await this.#users.records.update(userId, (user) => {
      if (user.pendingTotp === null) throw new ApplianceError('CONFLICT', 'no second factor is being set up');
      const secret = this.#box.open(pendingPlace(userId), user.pendingTotp);
      const step = this.#stepOf(secret, code);
      if (step === undefined) throw wrongCode();
      return {
        ...user,
        totp: { sealed: this.#box.seal(placeOf(userId), secret), lastStep: step },
        pendingTotp: null,
        recoveryCodes: codes.map((one) => hashSecret(one.replaceAll('-', ''))),
      };
    });
    return codes;
  }

  /** Uses up a code of the app, or a recovery code. @throws LOGIN_FAILED */
  async use(user: UserEntry, code: string): Promise<void> {
    await this.#users.records.update(user.id, (now) => this.#used(user.id, now, code));
  }

  async remove(userId: string): Promise<UserEntry> {
    return this.#users.records.update(userId, (user) => ({
      ...user,
      totp: null,
      pendingTotp: null,
      recoveryCodes: [],
    }));
  }

  #used(userId: string, user: UserRecord, code: string): UserRecord {
    if (user.totp === null) throw wrongCode();
    const step = this.#stepOf(this.#box.open(placeOf(userId), user.totp.sealed), code);
    if (step !== undefined) {
      if (step <= user.totp.lastStep) throw wrongCode();
      return { ...user, totp: { ...user.totp, lastStep: step } };
    }
    const hash = hashSecret(code.toLowerCase().replaceAll(/[\s-]/g, ''));
    if (!user.recoveryCodes.includes(hash)) throw wrongCode();
    return { ...user, recoveryCodes: user.recoveryCodes.filter((one) => one !== hash) };
  }

  /** The time step of a code; undefined when it belongs to none that counts now. */
  #stepOf(secret: string, code: string): number | undefined {
    const token = code.replaceAll(/\s/g, '');
    if (!/^\d{6}$/.test(token)) return undefined;
    const timestamp = this.#clock.nowMs();
    const totp = generator(secret, '');
    const delta = totp.validate({ token, timestamp, window: WINDOW_STEPS });
    return delta === null ? undefined : Math.floor(timestamp / 1000 / PERIOD_SECONDS) + delta;
  }
}

function generator(base32: string, label: string): TOTP {
  return new TOTP({
    issuer: ISSUER,
    label,
    algorithm: 'SHA1',
    digits: DIGITS,
    period: PERIOD_SECONDS,
    secret: Secret.fromBase32(base32),
  });
}

/** 80 bits, `abcd-efgh-ijkl-mnop`. */
function newRecoveryCode(): string {
  let bits = 0n;
  for (const byte of randomBytes(RECOVERY_CODE_BYTES)) bits = bits * 256n + BigInt(byte);
  let text = '';
  for (let i = 0; i < (RECOVERY_CODE_BYTES * 8) / 5; i += 1) {
    text += BASE32.charAt(Number(bits % 32n));
    bits /= 32n;
  }
  return text.replaceAll(/(.{4})(?=.)/g, '$1-');
}

function placeOf(userId: string): SecretPlace {
  return { collection: 'users', id: userId, field: 'totp.sealed' };
}

function pendingPlace(userId: string): SecretPlace {
  return { collection: 'users', id: userId, field: 'pendingTotp' };
}

function wrongCode(): ApplianceError {
  return new ApplianceError('LOGIN_FAILED', 'the code is wrong, or was used already');
}
