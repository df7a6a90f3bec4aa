// SPDX-License-Identifier: Apache-2.0

/**
 * The key layout of the catalog: a prefix, then ids that sort as they should. `docs/formats/catalog.md` has the table.
 * All keys are bytes; text parts are UTF-8 without a slash.
 */
export const PREFIX = {
  chunk: 'chunk/',
  pack: 'pack/',
  point: 'point/',
  damage: 'damage/',
  lost: 'lost/',
  meta: 'meta/',
  run: 'run/',
  session: 'session/',
} as const;

export type Prefix = (typeof PREFIX)[keyof typeof PREFIX];

/** `prefix` followed by raw bytes. */
export function binaryKey(prefix: Prefix, id: Buffer): Buffer {
  const key = Buffer.allocUnsafe(prefix.length + id.length);
  key.write(prefix, 'latin1');
  id.copy(key, prefix.length);
  return key;
}

/** `prefix` followed by text parts joined with slashes. */
export function textKey(prefix: Prefix, ...parts: readonly string[]): Buffer {
  return Buffer.from(prefix + parts.join('/'), 'utf8');
}

/** Bounds of an iteration over everything under a prefix (the prefix ends with a slash, `0` is the next character). */
export function rangeOf(prefix: Prefix, ...parts: readonly string[]): { gte: Buffer; lt: Buffer } {
  const start = prefix + parts.map((part) => `${part}/`).join('');
  return { gte: Buffer.from(start, 'utf8'), lt: Buffer.from(`${start.slice(0, -1)}0`, 'utf8') };
}
