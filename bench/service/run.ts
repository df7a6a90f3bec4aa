// SPDX-License-Identifier: Apache-2.0
import { BenchRun } from '../bench-run.ts';
import type { ProgramOptions } from '../program.ts';
import { parseWords, programOptions } from '../program-options.ts';
import type { Workspace } from '../workspace.ts';
import { manyPoints } from './many-points.ts';

/** The rows of the benchmark of the service, in the order in which they run. */
export const ROW_NAMES = ['start', 'load', 'memory', 'month'] as const;
export type RowName = (typeof ROW_NAMES)[number];

export type ServiceOptions = ProgramOptions<RowName>;

export const USAGE: string = `npm run bench:service -- [--quick] [--only ROW]… [--rounds N] [--json FILE] [--markdown FILE]

  --quick          small amounts and short runs; for trying the benchmark itself
  --only ROW       only this row; may be given several times: ${ROW_NAMES.join(', ')}
  --rounds N       starts of the service (default 3)
  --json FILE      every sample as JSON
  --markdown FILE  the table as Markdown, put into docs/benchmarks.md when that is the file

All rows together take about 8 minutes, and need 12 GB of free disk beneath .cache/bench.
`;

/** @throws ApplianceError BAD_ARGUMENT */
export function parseOptions(argv: readonly string[]): ServiceOptions | 'help' {
  const values = parseWords(argv, USAGE, {});
  return values.help === true ? 'help' : programOptions(values, { rowNames: ROW_NAMES, usage: USAGE });
}

/** One run of the benchmark of the service. */
export class ServiceRun extends BenchRun {
  readonly options: ServiceOptions;
  #state: Promise<string> | undefined;

  constructor(options: ServiceOptions, workspace: Workspace) {
    super(workspace);
    this.options = options;
  }

  /** How much of something: less in a quick run. */
  amount(whole: number, quick: number): number {
    return this.options.isQuick ? quick : whole;
  }

  get points(): number {
    return this.amount(10_000, 500);
  }

  /** A state directory with many points; the rows use it one after the other. */
  state(): Promise<string> {
    this.#state ??= manyPoints(this, this.points);
    return this.#state;
  }
}
