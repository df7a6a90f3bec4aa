// SPDX-License-Identifier: Apache-2.0
import { durationOf, isEmptyRule, type RetentionRule } from './rule.ts';

/** Parts that count. */
const COUNTS = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

/**
 * Whether a rule may let go what another one kept, for some points: a part of it chooses less. A rule that names nothing keeps
 * everything.
 */
export function isShorter(before: RetentionRule, after: RetentionRule): boolean {
  if (isEmptyRule(after)) return false;
  if (isEmptyRule(before)) return true;
  if (COUNTS.some((part) => (after[part] ?? 0) < (before[part] ?? 0))) return true;
  return spanMs(after.within) < spanMs(before.within);
}

/** About: months and years are of different lengths, and rules that differ by less are not told apart. */
function spanMs(within: RetentionRule['within']): number {
  return within === undefined ? 0 : durationOf(within).toMillis();
}
