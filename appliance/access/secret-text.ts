// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';

/**
 * Secrets that we make ourselves: 256 random bits, so that a plain SHA-256 at rest is enough (nobody guesses them), and looking
 * one up by its hash tells nothing about others.
 */
const SECRET_BYTES = 32;
const ID_BYTES = 8;

/** A new secret, 43 characters of base64url. */
export function newSecret(): string {
  return randomBytes(SECRET_BYTES).toString('base64url');
}

/** A new id, 16 hexadecimal digits. Not secret. */
export function newId(): string {
  return randomBytes(ID_BYTES).toString('hex');
}

/** What is stored of a secret: SHA-256, 64 hexadecimal digits. */
export function hashSecret(secret: string): string {
  return createHash('sha256').update(secret, 'utf8').digest('hex');
}

/** Whether a secret has this hash, in constant time. */
export function isSecretOf(secret: string, hash: string): boolean {
  return isSameText(hashSecret(secret), hash);
}

/** Compares without telling by its time where two texts differ. */
export function isSameText(one: string, other: string): boolean {
  const [a, b] = [one, other].map((text) => createHash('sha256').update(text, 'utf8').digest());
  return a !== undefined && b !== undefined && timingSafeEqual(a, b);
}

const TOKEN = /^ust_([0-9a-f]{16})([0-9a-f]{64})([0-9a-f]{8})$/;

/**
 * An API token as people carry it: `ust_`, 16 digits of its id, 64 of its secret, 8 of a CRC-32 over what is before, all
 * hexadecimal: scanners for leaked secrets know it by its form, and a mistyped one is refused before anything is looked up.
 */
export function formatToken(id: string, secret: string): string {
  const body = `ust_${id}${secret}`;
  return `${body}${checksum(body)}`;
}

export function newTokenSecret(): string {
  return randomBytes(SECRET_BYTES).toString('hex');
}

/** The parts of a token; undefined when it is not in the form of one. */
export function parseToken(text: string): { readonly id: string; readonly secret: string } | undefined {
  const found = TOKEN.exec(text);
  if (found === null) return undefined;
  const [whole, id = '', secret = '', sum = ''] = found;
  return checksum(whole.slice(0, -sum.length)) === sum ? { id, secret } : undefined;
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, '0');
}
