// SPDX-License-Identifier: Apache-2.0
import { median } from './statistics.ts';

export type Unit = 's' | 'ms' | 'µs' | 'MiB' | 'IOPS' | 'MiB/s' | 'writes' | 'moments' | 'requests' | 'files';

/** What one contender did, run after run. */
export interface Series {
  readonly label: string;
  readonly samples: readonly number[];
}

/** What is to be reached: a bound of ours ÷ other, or of our figure itself. */
export type Target =
  | { readonly kind: 'ratio at most' | 'ratio at least'; readonly limit: number }
  | { readonly kind: 'at most' | 'at least'; readonly limit: number }
  | { readonly kind: 'none' };

export type Verdict = 'PASS' | 'MISS' | 'peer missing' | 'not measured' | '–';

/** One line of the benchmark: a figure of ours, mostly beside that of another. */
export interface Comparison {
  readonly what: string;
  readonly unit: Unit;
  readonly ours: Series;
  /** Undefined for figures that stand alone. */
  readonly other: Series | undefined;
  readonly target: Target;
  /** Stands where the other's figure would. */
  readonly remark?: string;
  readonly notes?: readonly string[];
  /** Why there are no samples. */
  readonly missing?: 'peer missing' | 'not measured';
}

/** Median of ours ÷ median of the other; undefined where there are not both. */
export function ratioOf({ ours, other }: Comparison): number | undefined {
  if (other === undefined || other.samples.length === 0 || ours.samples.length === 0) return undefined;
  return median(ours.samples) / median(other.samples);
}

export function verdictOf(comparison: Comparison): Verdict {
  const { target, ours, missing } = comparison;
  if (missing !== undefined) return missing;
  const ratio = ratioOf(comparison);
  switch (target.kind) {
    case 'ratio at most':
      return ratio !== undefined && ratio <= target.limit ? 'PASS' : 'MISS';
    case 'ratio at least':
      return ratio !== undefined && ratio >= target.limit ? 'PASS' : 'MISS';
    case 'at most':
      return median(ours.samples) <= target.limit ? 'PASS' : 'MISS';
    case 'at least':
      return median(ours.samples) >= target.limit ? 'PASS' : 'MISS';
    case 'none':
      return '–';
  }
}

export function targetText(target: Target, unit: Unit): string {
  switch (target.kind) {
    case 'ratio at most':
      return `≤ ${target.limit} ×`;
    case 'ratio at least':
      return `≥ ${target.limit} ×`;
    case 'at most':
      return `≤ ${target.limit} ${unit}`;
    case 'at least':
      return `≥ ${target.limit} ${unit}`;
    case 'none':
      return '–';
  }
}
