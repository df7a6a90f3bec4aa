// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { BenchContext } from './bench-context.ts';
import { type Comparison, verdictOf } from './comparison.ts';
import { diskInput } from './disk-input.ts';
import { machineFacts } from './machine.ts';
import { type BenchOptions, parseOptions, type RowName, USAGE } from './options.ts';
import { type BenchReport, intoPage, markdownReport, textReport } from './report.ts';
import { resourceComparisons } from './resources.ts';
import { boot } from './rows/boot.ts';
import { exportReads } from './rows/export-reads.ts';
import { firstBackup } from './rows/first-backup.ts';
import { incremental } from './rows/incremental.ts';
import { openExport } from './rows/open-export.ts';
import { restore } from './rows/restore.ts';
import { sparseDisks } from './rows/sparse-disk.ts';
import { Workspace } from './workspace.ts';

/*
 * The benchmark: what Understudy takes for its work, beside what others take for theirs, in one run on one machine.
 * `npm run bench -- --help` explains it.
 */

const ROWS: Readonly<Record<RowName, (bench: BenchContext) => Promise<Comparison[]>>> = {
  'first-backup': firstBackup,
  incremental,
  'sparse-disk': sparseDisks,
  'open-export': openExport,
  'export-reads': exportReads,
  restore,
  boot,
};

async function main(argv: readonly string[]): Promise<number> {
  const options = parseOptions(argv);
  if (options === 'help') {
    process.stdout.write(USAGE);
    return 0;
  }
  const report = await runBench(options, argv);
  process.stdout.write(textReport(report));
  if (options.jsonPath !== undefined) await writeFile(options.jsonPath, `${JSON.stringify(report, null, 2)}\n`);
  if (options.markdownPath !== undefined) {
    const page = existsSync(options.markdownPath) ? await readFile(options.markdownPath, 'utf8') : '';
    await writeFile(options.markdownPath, intoPage(page, markdownReport(report)));
  }
  const verdicts = Map.groupBy(report.comparisons.map(verdictOf), (verdict) => verdict);
  const counts = [...verdicts].filter(([verdict]) => verdict !== '–');
  process.stdout.write(`${counts.map(([verdict, { length }]) => `${length} ${verdict}`).join(', ')}\n`);
  return 0;
}

async function runBench(options: BenchOptions, argv: readonly string[]): Promise<BenchReport> {
  const beganMs = systemClock.elapsedMs();
  const startedAt = new Date(systemClock.nowMs()).toISOString();
  const machine = await machineFacts();
  await using workspace = await Workspace.open();
  const input = await diskInput(workspace.inputDirectory, options.diskBytes, (sentence) => {
    process.stderr.write(`input: ${sentence}\n`);
  });
  const bench = new BenchContext(options, workspace, input);
  process.on('SIGINT', () => {
    bench.interrupt();
  });
  const comparisons: Comparison[] = [];
  for (const row of options.rows) comparisons.push(...(await ROWS[row](bench)));
  comparisons.push(...resourceComparisons(bench.usages));
  return {
    command: ['npm run bench', ...(argv.length === 0 ? [] : ['--', ...argv])].join(' '),
    startedAt,
    durationSeconds: (systemClock.elapsedMs() - beganMs) / 1000,
    machine,
    input,
    rounds: options.rounds,
    comparisons,
    usages: bench.usages,
  };
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof ApplianceError)) throw error;
  process.stderr.write(`error ${error.code}: ${error.message}\n${error.hint}\n`);
  process.exitCode = error.exitCode;
}
