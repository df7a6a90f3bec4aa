// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError, hasCode, toError } from '../appliance/core/errors.ts';
import type { BenchRun } from './bench-run.ts';
import { type Comparison, verdictOf } from './comparison.ts';
import type { DiskInput } from './disk-input.ts';
import { machineFacts } from './machine.ts';
import { type BenchReport, intoPage, markdownReport, textReport } from './report.ts';
import { resourceComparisons } from './resources.ts';

const MAX_REASON_LENGTH = 200;

/** What every benchmark is told. */
export interface ProgramOptions<Row extends string> {
  /** Short runs: shows that everything works, its figures mean little. */
  readonly isQuick: boolean;
  readonly rows: readonly Row[];
  /** Runs of each contender, interleaved. */
  readonly rounds: number;
  readonly jsonPath: string | undefined;
  readonly markdownPath: string | undefined;
}

/** A benchmark: `npm run NAME`, whose table stands between the marks `MARK:begin` and `MARK:end` of a page. */
export interface Program<Row extends string, Options extends ProgramOptions<Row>, Run extends BenchRun> {
  readonly name: string;
  readonly mark: string;
  readonly usage: string;
  readonly parse: (argv: readonly string[]) => Options | 'help';
  readonly rows: Readonly<Record<Row, (run: Run) => Promise<Comparison[]>>>;
  /** Prepares everything, and calls `work` with it. */
  readonly withRun: (
    options: Options,
    work: (run: Run, input: DiskInput | undefined) => Promise<void>,
  ) => Promise<void>;
}

/** Runs a benchmark with the arguments of this process, prints its report, and sets the exit code. */
export async function runProgram<Row extends string, Options extends ProgramOptions<Row>, Run extends BenchRun>(
  program: Program<Row, Options, Run>,
): Promise<void> {
  try {
    const argv = process.argv.slice(2);
    const options = program.parse(argv);
    if (options === 'help') process.stdout.write(program.usage);
    else await publish(await measure(program, options, argv), options, program.mark);
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw error;
    process.stderr.write(`error ${error.code}: ${error.message}\n${error.hint}\n`);
    process.exitCode = error.exitCode;
  }
}

async function measure<Row extends string, Options extends ProgramOptions<Row>, Run extends BenchRun>(
  program: Program<Row, Options, Run>,
  options: Options,
  argv: readonly string[],
): Promise<BenchReport> {
  const beganMs = systemClock.elapsedMs();
  const startedAt = new Date(systemClock.nowMs()).toISOString();
  const machine = await machineFacts();
  const comparisons: Comparison[] = [];
  let report: Pick<BenchReport, 'input' | 'usages'> = { input: undefined, usages: [] };
  await program.withRun(options, async (run, input) => {
    process.on('SIGINT', () => {
      run.interrupt();
    });
    for (const row of options.rows) comparisons.push(...(await runRow(row, () => program.rows[row](run))));
    comparisons.push(...resourceComparisons(run.usages));
    report = { input, usages: run.usages };
  });
  return {
    command: [`npm run ${program.name}`, ...(argv.length === 0 ? [] : ['--', ...argv])].join(' '),
    startedAt,
    durationSeconds: (systemClock.elapsedMs() - beganMs) / 1000,
    machine,
    rounds: options.rounds,
    comparisons,
    ...report,
  };
}

/** A row that fails is a line that says so: the others are measured all the same. @throws ApplianceError ABORTED */
async function runRow(row: string, measureRow: () => Promise<Comparison[]>): Promise<Comparison[]> {
  try {
    return await measureRow();
  } catch (error) {
    if (hasCode(error, 'ABORTED')) throw error;
    const { message, stack } = toError(error);
    process.stderr.write(`${row} failed: ${stack}\n`);
    process.exitCode = 1;
    const remark = `failed: ${message.replaceAll(/[|\n]/g, ' ').slice(0, MAX_REASON_LENGTH)}`;
    const nothing = { label: 'nothing', samples: [] };
    return [
      {
        what: row,
        unit: 's',
        ours: nothing,
        other: undefined,
        target: { kind: 'none' },
        remark,
        missing: 'not measured',
      },
    ];
  }
}

async function publish(report: BenchReport, options: ProgramOptions<string>, mark: string): Promise<void> {
  process.stdout.write(textReport(report));
  if (options.jsonPath !== undefined) await writeFile(options.jsonPath, `${JSON.stringify(report, null, 2)}\n`);
  if (options.markdownPath !== undefined) {
    const page = existsSync(options.markdownPath) ? await readFile(options.markdownPath, 'utf8') : '';
    await writeFile(options.markdownPath, intoPage(page, markdownReport(report), mark));
  }
  const verdicts = Map.groupBy(report.comparisons.map(verdictOf), (verdict) => verdict);
  const counts = [...verdicts].filter(([verdict]) => verdict !== '–');
  process.stdout.write(`${counts.map(([verdict, { length }]) => `${length} ${verdict}`).join(', ')}\n`);
}
