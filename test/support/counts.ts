// SPDX-License-Identifier: Apache-2.0

/** A test that did not run, and why. */
export interface Skip {
  readonly title: string;
  readonly reason: string;
}

/** What one test file reports about itself; `passed + failed + skipped = total`. */
export interface Counts {
  readonly total: number;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** One entry per skipped test. */
  readonly skips: readonly Skip[];
}

const PREFIX = '#test-counts ';

/** The machine-readable line, without its line end. */
export function encodeCounts(counts: Counts): string {
  return PREFIX + JSON.stringify(counts);
}

/** The last line of counts in a file's output, or undefined when there is none or it is malformed. */
export function decodeCounts(output: string): Counts | undefined {
  const line = output
    .split('\n')
    .filter((candidate) => candidate.startsWith(PREFIX))
    .at(-1);
  if (line === undefined) return undefined;
  try {
    const parsed: unknown = JSON.parse(line.slice(PREFIX.length));
    return isCounts(parsed) ? parsed : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** The output without its lines of counts, for people. */
export function withoutCounts(output: string): string {
  return output
    .split('\n')
    .filter((line) => !line.startsWith(PREFIX))
    .join('\n');
}

function isCounts(value: unknown): value is Counts {
  if (typeof value !== 'object' || value === null) return false;
  const candidate = value as Record<string, unknown>;
  const isCount = (key: string): boolean => Number.isSafeInteger(candidate[key]) && Number(candidate[key]) >= 0;
  if (!['total', 'passed', 'failed', 'skipped'].every(isCount) || !Array.isArray(candidate['skips'])) return false;
  return candidate['skips'].every((skip: unknown) => {
    if (typeof skip !== 'object' || skip === null) return false;
    return 'title' in skip && typeof skip.title === 'string' && 'reason' in skip && typeof skip.reason === 'string';
  });
}
