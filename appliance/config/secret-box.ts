// SPDX-License-Identifier: Apache-2.0
import { createSecretKey, hkdfSync, type KeyObject, randomBytes } from 'node:crypto';
import { AEAD_KEY_BYTES, AEAD_NONCE_BYTES, AEAD_TAG_BYTES, nodeAead, type SealParameters } from '../core/aead.ts';
import { ApplianceError } from '../core/errors.ts';
import type { ApplianceKey } from './appliance-key.ts';

declare const sealed: unique symbol;

/** A secret under the appliance's key: `sealed:v1:KEY:…`. Neither an argument of ours nor a reply holds one. */
export type SealedSecret = string & { readonly [sealed]: true };

/**
 * Where a secret belongs: the member of a document, with dots for members of members. It opens nowhere else, so who can write
 * files cannot make one secret pass for another.
 */
export interface SecretPlace {
  readonly collection: string;
  readonly id: string;
  readonly field: string;
}

/** What seals, and what still opens; `ApplianceKeys` is one. */
export interface SecretKeys {
  readonly current: ApplianceKey;
  find(id: string): ApplianceKey | undefined;
}

/** Most bytes of a secret, in UTF-8: a private key with its chain of certificates. */
export const MAX_SECRET_BYTES: number = 64 * 1024;

/** The plain text is filled up to a multiple of this, so that a stored password does not tell its length. */
const PADDING_BYTES = 64;
const SALT_BYTES = 16;
const LENGTH_BYTES = 4;
const FORM = /^sealed:v1:([0-9a-f]{8}):([A-Za-z0-9_-]+)$/;

/**
 * Seals short texts with AES-256-GCM. Each sealing has a key of its own, by HKDF-SHA-256 (RFC 5869) from the appliance's key
 * and 128 fresh random bits, so that the nonce (zero) is used once per key. The place is the associated data.
 * Stored form: `sealed:v1:`, the key's id, `:`, base64url of salt, tag and ciphertext; the plain text is its length
 * (4 bytes, big-endian), itself in UTF-8, and zeroes.
 *
 * Rotation: `ApplianceKeys.rotate` puts a new key before the old ones, which go on opening; `reseal` everything; then
 * `ApplianceKeys.retire` the old ones. Interrupted anywhere, every secret opens.
 */
export class SecretBox {
  readonly #keys: SecretKeys;

  constructor(keys: SecretKeys) {
    this.#keys = keys;
  }

  /** @throws ApplianceError LIMIT_REACHED */
  seal(place: SecretPlace, plain: string): SealedSecret {
    const text = Buffer.from(plain, 'utf8');
    if (text.length > MAX_SECRET_BYTES) {
      throw new ApplianceError('LIMIT_REACHED', `a secret has at most ${MAX_SECRET_BYTES} bytes`);
    }
    const filled = Buffer.alloc(Math.ceil((LENGTH_BYTES + text.length) / PADDING_BYTES) * PADDING_BYTES);
    filled.writeUInt32BE(text.length, 0);
    text.copy(filled, LENGTH_BYTES);
    const key = this.#keys.current;
    const salt = randomBytes(SALT_BYTES);
    const tag = Buffer.alloc(AEAD_TAG_BYTES);
    const stored = Buffer.alloc(filled.length);
    nodeAead.seal(parametersOf({ key, salt, tag }, place), filled, stored);
    return `sealed:v1:${key.id}:${Buffer.concat([salt, tag, stored]).toString('base64url')}` as SealedSecret;
  }

  /** @throws ApplianceError SECRET_UNREADABLE */
  open(place: SecretPlace, secret: SealedSecret): string {
    const [, keyId, body] = FORM.exec(secret) ?? [];
    if (keyId === undefined || body === undefined) throw unreadable(place, 'is not in the form of one');
    const key = this.#keys.find(keyId);
    if (key === undefined) throw unreadable(place, 'was sealed under a key that this appliance does not have');
    const bytes = Buffer.from(body, 'base64url');
    const stored = bytes.subarray(SALT_BYTES + AEAD_TAG_BYTES);
    if (stored.length === 0 || stored.length % PADDING_BYTES !== 0 || bytes.toString('base64url') !== body) {
      throw unreadable(place, 'is incomplete');
    }
    const salt = bytes.subarray(0, SALT_BYTES);
    const tag = bytes.subarray(SALT_BYTES, SALT_BYTES + AEAD_TAG_BYTES);
    const filled = Buffer.alloc(stored.length);
    if (!nodeAead.open(parametersOf({ key, salt, tag }, place), stored, filled)) {
      throw unreadable(place, 'was changed, or belongs to another place');
    }
    const length = filled.readUInt32BE(0);
    return filled.subarray(LENGTH_BYTES, LENGTH_BYTES + length).toString('utf8');
  }

  /** The same secret under the newest key; what is under it already stays as it is. @throws ApplianceError SECRET_UNREADABLE */
  reseal(place: SecretPlace, secret: SealedSecret): SealedSecret {
    if (FORM.exec(secret)?.[1] === this.#keys.current.id) return secret;
    return this.seal(place, this.open(place, secret));
  }
}

/** True for a text in the form that `seal` gives; whether it opens is another matter. */
export function isSealedSecret(value: unknown): value is SealedSecret {
  return typeof value === 'string' && FORM.test(value);
}

/** A key for one other purpose (tags of the audit log, cursors), which tells nothing about the appliance's key. */
export function derivedKey(key: ApplianceKey, purpose: string): KeyObject {
  return createSecretKey(derive(key, Buffer.alloc(0), `understudy v1 ${purpose}`));
}

function parametersOf(
  from: { readonly key: ApplianceKey; readonly salt: Buffer; readonly tag: Buffer },
  place: SecretPlace,
): SealParameters {
  return {
    key: derive(from.key, from.salt, 'understudy v1 sealed secret'),
    nonce: Buffer.alloc(AEAD_NONCE_BYTES),
    additionalData: Buffer.from(JSON.stringify([from.key.id, place.collection, place.id, place.field]), 'utf8'),
    tag: from.tag,
  };
}

function derive(key: ApplianceKey, salt: Buffer, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key.secret, salt, purpose, AEAD_KEY_BYTES));
}

function unreadable(place: SecretPlace, what: string): ApplianceError {
  return new ApplianceError('SECRET_UNREADABLE', `the ${place.field} of ${place.collection} ${place.id} ${what}`, {
    details: { ...place },
  });
}
