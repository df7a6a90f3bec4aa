// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../appliance/core/errors.ts';
import { BenchRun } from '../bench-run.ts';
import type { Comparison } from '../comparison.ts';
import type { ProgramOptions } from '../program.ts';
import { bad, parseWords, programOptions } from '../program-options.ts';
import type { Workspace } from '../workspace.ts';

/** The rows of the benchmark of continuous protection, in the order in which they run. */
export const ROW_NAMES = [
  'mirror-latency',
  'appends',
  'kills',
  'power-loss',
  'moments',
  'interval',
  'many-machines',
  'failover',
  'day',
] as const;
export type RowName = (typeof ROW_NAMES)[number];

export interface ContinuousOptions extends ProgramOptions<RowName> {
  /** Of everything random. */
  readonly seed: number;
}

export const USAGE: string = `npm run bench:continuous -- [--quick] [--only ROW]… [--rounds N] [--seed N] [--json FILE] [--markdown FILE]

  --quick          small amounts and short runs; for trying the benchmark itself
  --only ROW       only this row; may be given several times: ${ROW_NAMES.join(', ')}
  --rounds N       runs of each contender, interleaved (default 3)
  --seed N         of everything random (default 1)
  --json FILE      every sample as JSON
  --markdown FILE  the table as Markdown, put into docs/benchmarks.md when that is the file

All rows together take about 20 minutes, and need 12 GB of free disk beneath .cache/bench.
`;

/** @throws ApplianceError BAD_ARGUMENT */
export function parseOptions(argv: readonly string[]): ContinuousOptions | 'help' {
  const values = parseWords(argv, USAGE, { seed: 'string' });
  if (values.help === true) return 'help';
  const seed = Number(values.seed ?? '1');
  if (!Number.isInteger(seed)) throw bad('--seed needs a whole number', USAGE);
  return { ...programOptions(values, { rowNames: ROW_NAMES, usage: USAGE }), seed };
}

/** One run of the benchmark of continuous protection. */
export class ContinuousRun extends BenchRun {
  readonly options: ContinuousOptions;

  constructor(options: ContinuousOptions, workspace: Workspace) {
    super(workspace);
    this.options = options;
  }

  /** How much of something: less in a quick run. */
  amount(whole: number, quick: number): number {
    return this.options.isQuick ? quick : whole;
  }
}

/** A row that cannot be measured here, for want of commands. */
export function withoutPeers(comparisons: readonly Comparison[], missing: readonly string[]): Comparison[] {
  const notes = [`missing here: ${missing.join(', ')}`];
  return comparisons.map((comparison) => ({ ...comparison, notes, missing: 'peer missing' }));
}

/** A child process of the benchmark that says something as its only line of output. @throws ApplianceError TOOL_FAILED */
export function parseAnswer<T>(stdout: string): T {
  const line = stdout.trim().split('\n').at(-1) ?? '';
  try {
    return JSON.parse(line) as T;
  } catch (cause) {
    throw new ApplianceError('TOOL_FAILED', `no answer in: ${line}`, { cause });
  }
}
