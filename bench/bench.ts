// SPDX-License-Identifier: Apache-2.0
import { BenchContext } from './bench-context.ts';
import { diskInput } from './disk-input.ts';
import { type BenchOptions, parseOptions, type RowName, USAGE } from './options.ts';
import { runProgram } from './program.ts';
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

await runProgram<RowName, BenchOptions, BenchContext>({
  name: 'bench',
  mark: 'bench',
  usage: USAGE,
  parse: parseOptions,
  rows: {
    'first-backup': firstBackup,
    incremental,
    'sparse-disk': sparseDisks,
    'open-export': openExport,
    'export-reads': exportReads,
    restore,
    boot,
  },
  withRun: async (options, work) => {
    await using workspace = await Workspace.open();
    const input = await diskInput(workspace.inputDirectory, options.diskBytes, (sentence) => {
      process.stderr.write(`input: ${sentence}\n`);
    });
    await work(new BenchContext(options, workspace, input), input);
  },
});
