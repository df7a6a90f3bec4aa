// SPDX-License-Identifier: Apache-2.0
import type { SimulatedPoint } from './policy-simulation.ts';

/** What a rule keeps, said a second time: with the text of the calendar instead of numbers, and point by point. For time zones without changes of the clock. */
export interface ReferenceRule {
  readonly last?: number;
  readonly hourly?: number;
  readonly daily?: number;
}

/** The sequence numbers that stay of a whole history. */
export function keptByReference(history: readonly SimulatedPoint[], rule: ReferenceRule, nowMs: number): Set<number> {
  const past = history.filter(({ timeMs }) => timeMs <= nowMs);
  const kept = new Set(history.filter(({ timeMs }) => timeMs > nowMs).map(({ sequence }) => sequence));
  const newest = [...past].sort((a, b) => b.sequence - a.sequence);
  for (const { sequence } of newest.slice(0, Math.max(1, rule.last ?? 0))) kept.add(sequence);
  const periods = [
    [rule.hourly, 13],
    [rule.daily, 10],
  ] as const;
  for (const [count, characters] of periods) {
    if (count === undefined) continue;
    const labels = [...new Set(past.map(({ timeMs }) => labelOf(timeMs, characters)))].sort().reverse().slice(0, count);
    for (const label of labels) {
      const first = newest.find(({ timeMs }) => labelOf(timeMs, characters) === label);
      if (first !== undefined) kept.add(first.sequence);
    }
  }
  return kept;
}

function labelOf(timeMs: number, characters: number): string {
  return new Date(timeMs).toISOString().slice(0, characters);
}
