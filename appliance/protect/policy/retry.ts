// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { RetryClass } from '../../core/errors.ts';

/** The first distance between two attempts, and the longest. */
const DISTANCES: Readonly<Record<RetryClass, { readonly firstMs: number; readonly mostMs: number }>> = {
  transient: { firstMs: 30_000, mostMs: 3_600_000 },
  'after-repair': { firstMs: 5 * 60_000, mostMs: 6 * 3_600_000 },
  // Nothing is for ever: a machine that was gone may be defined again.
  never: { firstMs: 3_600_000, mostMs: 24 * 3_600_000 },
};
/** How much an attempt may come sooner or later, so that many machines do not come at once. */
const JITTER = 0.2;
const MAX_DOUBLINGS = 16;

/**
 * How long to wait after the n-th failure in a row (from 1 on): twice as long each time up to a limit, a fifth more or less. The same
 * for the same name and number.
 */
export function retryDelayMs(retry: RetryClass, attempts: number, name: string): number {
  const { firstMs, mostMs } = DISTANCES[retry];
  const plainMs = Math.min(mostMs, firstMs * 2 ** Math.min(attempts - 1, MAX_DOUBLINGS));
  const drawn = createHash('sha256').update(`${name}:${attempts}`).digest().readUInt32BE(0) / 2 ** 32;
  return Math.round(plainMs * (1 - JITTER + 2 * JITTER * drawn));
}
