// SPDX-License-Identifier: Apache-2.0
import { createHmac, type KeyObject, timingSafeEqual } from 'node:crypto';
import { canonicalJson } from '../core/canonical-json.ts';
import { ApplianceError } from '../core/errors.ts';

/*
 * Small objects of the repository that people may read: indented JSON whose last member, `mac`, is an HMAC-SHA-256 over
 * the canonical JSON of all others. There is exactly one stored form of a value, so a changed byte is found wherever it
 * lies, white space included.
 */

/** Adds the MAC. `value` has no member `mac`. */
export function withMac<T extends object>(value: T, key: KeyObject): T & { readonly mac: string } {
  return { ...value, mac: macOf(value, key).toString('hex') };
}

/** The stored form of a value that has its MAC. */
export function encodeJson(value: object): Buffer {
  return Buffer.from(`${JSON.stringify(value, null, 2)}\n`, 'utf8');
}

/** The value that is stored in exactly these bytes. @throws ApplianceError REPOSITORY_CORRUPT */
export function parseStoredJson(stored: Buffer, name: string): object {
  let value: unknown;
  try {
    value = JSON.parse(stored.toString('utf8'));
  } catch (cause) {
    throw corruptObject(name, 'is not JSON', cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw corruptObject(name, 'is no object');
  return value;
}

/** Checks that `stored` is the one form of `value`, and its MAC. @throws ApplianceError REPOSITORY_CORRUPT */
export function checkStoredJson(stored: Buffer, value: object, key: KeyObject, name: string): void {
  if (!encodeJson(value).equals(stored)) throw corruptObject(name, 'is not written as this program writes it');
  const { mac, ...rest } = value as { readonly mac?: unknown };
  // Compared as text: upper-case digits would decode to the same bytes.
  const actual = Buffer.from(typeof mac === 'string' ? mac : '', 'utf8');
  const expected = Buffer.from(macOf(rest, key).toString('hex'), 'utf8');
  if (actual.length !== expected.length || !timingSafeEqual(actual, expected)) {
    throw corruptObject(name, 'has a wrong authentication code');
  }
}

export function corruptObject(name: string, what: string, cause?: unknown): ApplianceError {
  return new ApplianceError('REPOSITORY_CORRUPT', `${name} ${what}`, { cause, details: { object: name } });
}

function macOf(value: object, key: KeyObject): Buffer {
  return createHmac('sha256', key).update(canonicalJson(value)).digest();
}
