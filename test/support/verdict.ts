// SPDX-License-Identifier: Apache-2.0
import { type Counts, decodeCounts } from './counts.ts';

/** How one test process ended. */
export interface ProcessEnd {
  /** Standard output and standard error, in the order of arrival. */
  readonly output: string;
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** It was still running at its limit, and was killed. */
  readonly wasKilledAtLimit: boolean;
  /** Command lines of processes of its group that were still there after its end, and were killed. */
  readonly leftBehind: readonly string[];
}

/** What the driver makes of it: green only without problems. */
export interface Verdict {
  readonly counts: Counts;
  readonly problems: readonly string[];
}

const NO_COUNTS: Counts = { total: 0, passed: 0, failed: 0, skipped: 0, skips: [] };

/**
 * Judges a test file. It is believed only when everything agrees: exit code 0, at least one test, every test passed or
 * skipped with a reason, nothing left running. A problem that the file itself did not count adds one failed test.
 */
export function judgeFile(end: ProcessEnd): Verdict {
  const reported = decodeCounts(end.output);
  const counts = reported ?? NO_COUNTS;
  const problems = [...endProblems(end), ...countProblems(reported)];
  if (problems.length === 0 || counts.failed > 0) return { counts, problems };
  return { counts: { ...counts, total: counts.total + 1, failed: 1 }, problems };
}

/** Judges a check such as the compiler, which counts as one test. */
export function judgeCheck(end: ProcessEnd): Verdict {
  const problems = endProblems(end);
  const failed = problems.length === 0 ? 0 : 1;
  return { counts: { total: 1, passed: 1 - failed, failed, skipped: 0, skips: [] }, problems };
}

function endProblems(end: ProcessEnd): string[] {
  const problems: string[] = [];
  if (end.wasKilledAtLimit) problems.push('still running at its time limit; killed');
  else if (end.signal !== null) problems.push(`ended by ${end.signal}`);
  else if (end.exitCode !== 0) problems.push(`exit code ${end.exitCode}`);
  for (const command of end.leftBehind) problems.push(`left a process behind: ${command}`);
  return problems;
}

function countProblems(counts: Counts | undefined): string[] {
  if (counts === undefined) return ['no line of counts'];
  const problems: string[] = [];
  if (counts.total === 0) problems.push('no tests');
  if (counts.failed > 0) problems.push(`${counts.failed} failed`);
  if (counts.passed + counts.failed + counts.skipped !== counts.total) problems.push('the counts do not add up');
  if (counts.skips.filter((skip) => skip.reason !== '').length !== counts.skipped) {
    problems.push('tests were skipped without a reason');
  }
  return problems;
}
