// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes } from 'node:crypto';
import { ApplianceError } from '../core/errors.ts';

/**
 * The recovery key as people write it down: 160 random bits and 20 bits of checksum in Crockford's base 32 (no I, L, O, U),
 * nine groups of four characters.
 */
const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const SECRET_BYTES = 20;
const SECRET_CHARACTERS = 32;
const CHECK_CHARACTERS = 4;

export function newRecoveryKey(): string {
  return formatRecoveryKey(randomBytes(SECRET_BYTES));
}

export function formatRecoveryKey(secret: Buffer): string {
  const characters = encode32(secret) + checkOf(secret);
  return (characters.match(/.{4}/g) ?? []).join('-');
}

/** The 20 secret bytes of a typed key; spaces, dashes, case and the usual confusions do not matter. @throws ApplianceError REPOSITORY_KEY */
export function parseRecoveryKey(text: string): Buffer {
  const characters = text.toUpperCase().replaceAll(/[\s-]/g, '').replaceAll('O', '0').replaceAll(/[IL]/g, '1');
  if (characters.length !== SECRET_CHARACTERS + CHECK_CHARACTERS || !/^[0-9A-HJKMNP-TV-Z]*$/.test(characters)) {
    throw new ApplianceError('REPOSITORY_KEY', 'the recovery key is not complete: it has 36 characters in nine groups');
  }
  const secret = decode32(characters.slice(0, SECRET_CHARACTERS));
  if (checkOf(secret) !== characters.slice(SECRET_CHARACTERS)) {
    throw new ApplianceError('REPOSITORY_KEY', 'the recovery key has a typing mistake: its checksum does not fit');
  }
  return secret;
}

function checkOf(secret: Buffer): string {
  return encode32(createHash('sha256').update('understudy recovery key').update(secret).digest()).slice(
    0,
    CHECK_CHARACTERS,
  );
}

function encode32(bytes: Buffer): string {
  let text = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = value * 256 + byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      const digit = Math.floor(value / 2 ** bits);
      text += ALPHABET[digit];
      value -= digit * 2 ** bits;
    }
  }
  return text;
}

function decode32(text: string): Buffer {
  const bytes: number[] = [];
  let bits = 0;
  let value = 0;
  for (const character of text) {
    value = value * 32 + ALPHABET.indexOf(character);
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      const byte = Math.floor(value / 2 ** bits);
      bytes.push(byte);
      value -= byte * 2 ** bits;
    }
  }
  return Buffer.from(bytes);
}
