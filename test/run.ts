// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { systemErrorCode } from '../appliance/core/errors.ts';
import { checkTasks, fileTasks, runTasks, type TaskResult, totalsOf } from './support/driver.ts';
import { finalReport, resultLine } from './support/report.ts';

/*
 * npm test: the compiler, the formatter, the linter, then every test file in a process of its own. The last line is
 * `N passed, N failed, N skipped`; the exit code is 0 only when something passed and nothing failed.
 */

const USAGE = `usage: npm test -- [options] [path filter…]
  --only-files      without the compiler, formatter and linter
  --concurrency N   test files at the same time (2)
  --limit-s N       seconds until a test file is killed (300)
`;

interface Options {
  readonly onlyFiles: boolean;
  readonly concurrency: number;
  readonly limitMs: number;
  readonly filters: readonly string[];
}

/** The options, or undefined when the arguments make no sense. */
function parseOptions(args: readonly string[]): Options | undefined {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        'only-files': { type: 'boolean', default: false },
        concurrency: { type: 'string', default: '2' },
        'limit-s': { type: 'string', default: '300' },
      },
    });
    const concurrency = Number(values.concurrency);
    const limitMs = Number(values['limit-s']) * 1_000;
    if (!(Number.isInteger(concurrency) && concurrency > 0) || !(limitMs > 0)) return undefined;
    return { onlyFiles: values['only-files'], concurrency, limitMs, filters: positionals };
  } catch (error) {
    if (systemErrorCode(error)?.startsWith('ERR_PARSE_ARGS_') === true) return undefined;
    throw error;
  }
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(USAGE);
    return 2;
  }
  process.chdir(join(import.meta.dirname, '..'));
  // As the launcher does it: a test that runs commands spends half of its time on compiling the sources otherwise.
  process.env['NODE_COMPILE_CACHE'] ??= join(process.cwd(), '.cache/compile');
  const files = await fileTasks(options.filters, options.limitMs);
  const tasks = [...(options.onlyFiles ? [] : checkTasks()), ...files];
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => abort.abort());
  const onResult = (result: TaskResult): void => {
    process.stdout.write(`${resultLine(result)}\n`);
  };
  const results = await runTasks(tasks, { concurrency: options.concurrency, signal: abort.signal, onResult });
  if (files.length === 0) process.stdout.write('no test file matches\n');
  process.stdout.write(`${finalReport(results)}\n`);
  const totals = totalsOf(results);
  if (abort.signal.aborted) return 130;
  return totals.failed === 0 && totals.passed > 0 && files.length > 0 ? 0 : 1;
}

process.exitCode = await main();
