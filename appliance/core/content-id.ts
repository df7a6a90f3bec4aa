// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from './errors.ts';
import { invariant } from './invariant.ts';

/**
 * Content ids travel in two shapes: 32 bytes inside buffers (map nodes, frames), and, as keys of JavaScript maps, the
 * same bytes as a latin1 string of length 32 (one byte a character: half the memory of hexadecimal, and quick to make).
 */
export const CONTENT_ID_BYTES = 32;

/** A content id as a latin1 string of 32 characters. */
export type ContentKey = string & { readonly contentKey: unique symbol };

const ZERO_BYTES: Buffer = Buffer.alloc(CONTENT_ID_BYTES);

/** The id that stands for "all zeroes": nothing is stored for it. */
export const ZERO_KEY: ContentKey = ZERO_BYTES.toString('latin1') as ContentKey;

/** The key of the id at `offset`. */
export function keyAt(buffer: Buffer, offset = 0): ContentKey {
  return buffer.toString('latin1', offset, offset + CONTENT_ID_BYTES) as ContentKey;
}

export function keyBytes(key: ContentKey): Buffer {
  const bytes = Buffer.from(key, 'latin1');
  invariant(bytes.length === CONTENT_ID_BYTES, 'a content id has 32 bytes');
  return bytes;
}

export function keyToHex(key: ContentKey): string {
  return Buffer.from(key, 'latin1').toString('hex');
}

export function keyFromHex(hex: string): ContentKey {
  if (!/^[0-9a-f]{64}$/.test(hex)) {
    throw new ApplianceError('REPOSITORY_FORMAT', `${JSON.stringify(hex)} is not a content id`);
  }
  return Buffer.from(hex, 'hex').toString('latin1') as ContentKey;
}

export function isZeroId(buffer: Buffer, offset: number): boolean {
  return ZERO_BYTES.equals(buffer.subarray(offset, offset + CONTENT_ID_BYTES));
}
