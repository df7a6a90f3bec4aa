// SPDX-License-Identifier: Apache-2.0
import type { Usage } from './bench-run.ts';
import type { Comparison } from './comparison.ts';

const MIB: number = 1024 ** 2;
const MEMORY_LIMIT_MIB = 700;
const DELAY_LIMIT_MS = 20;

/** The largest memory and the longest block of the main thread in each row, over all its runs. */
export function resourceComparisons(usages: readonly Usage[]): Comparison[] {
  const comparisons: Comparison[] = [];
  for (const [row, ofRow] of Map.groupBy(usages, (usage) => usage.row)) {
    comparisons.push({
      what: `memory, ${row}`,
      unit: 'MiB',
      ours: { label: 'peak RSS, all threads', samples: [Math.max(...ofRow.map((usage) => usage.peakRssBytes)) / MIB] },
      other: undefined,
      target: { kind: 'at most', limit: MEMORY_LIMIT_MIB },
    });
  }
  for (const [row, ofRow] of Map.groupBy(usages, (usage) => usage.row)) {
    const [longest] = ofRow.flatMap((usage) => usage.longest).sort((a, b) => b.delayMs - a.delayMs);
    if (longest === undefined) continue;
    const waited = Math.min(longest.delayMs, longest.waitedMs);
    comparisons.push({
      what: `main thread, ${row}`,
      unit: 'ms',
      ours: { label: 'longest delay of the event loop', samples: [longest.delayMs] },
      other: undefined,
      target: { kind: 'at most', limit: DELAY_LIMIT_MS },
      ...(waited < 1 ? {} : { remark: `of these up to ${waited.toFixed(0)} ms without a processor` }),
    });
  }
  return comparisons;
}
