// SPDX-License-Identifier: Apache-2.0
import { type TaskResult, totalsOf } from './driver.ts';

/** How many of the slowest files the report names, when they took longer than SLOW_MS. */
const SLOWEST_SHOWN = 5;
const SLOW_MS = 2_000;

/** The live line of one finished task. */
export function resultLine(result: TaskResult): string {
  const { counts } = result;
  const parts = [`${counts.passed} passed`];
  if (counts.failed > 0) parts.push(`${counts.failed} failed`);
  if (counts.skipped > 0) parts.push(`${counts.skipped} skipped`);
  const mark = result.problems.length === 0 ? 'ok  ' : 'FAIL';
  return `${mark}  ${result.name.padEnd(46)}  ${parts.join(', ').padEnd(22)}  ${seconds(result.durationMs)}`;
}

/** Everything after the live lines: failures in full, skips by reason, slowest files; the last line holds the totals. */
export function finalReport(results: readonly TaskResult[]): string {
  const totals = totalsOf(results);
  return [
    ...results.filter((result) => result.problems.length > 0).map(failureText),
    ...skipLines(results),
    ...slowLines(results),
    `${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`,
  ].join('\n');
}

function failureText(result: TaskResult): string {
  return `\n=== ${result.name}: ${result.problems.join('; ')}\n${result.output.trimEnd()}\n`;
}

function skipLines(results: readonly TaskResult[]): string[] {
  const skips = results.flatMap((result) => result.counts.skips);
  const byReason = Map.groupBy(skips, (skip) => skip.reason);
  return [...byReason].map(([reason, list]) => `skipped: ${list.length} (${reason})`);
}

function slowLines(results: readonly TaskResult[]): string[] {
  return results
    .filter((result) => result.durationMs > SLOW_MS)
    .toSorted((a, b) => b.durationMs - a.durationMs)
    .slice(0, SLOWEST_SHOWN)
    .map((result) => `slow: ${seconds(result.durationMs)}  ${result.name}`);
}

function seconds(durationMs: number): string {
  return `${(durationMs / 1_000).toFixed(1)} s`;
}
