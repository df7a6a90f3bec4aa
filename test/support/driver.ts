// SPDX-License-Identifier: Apache-2.0
import { glob, readFile } from 'node:fs/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { withoutCounts } from './counts.ts';
import { patience } from './patience.ts';
import { runProcess } from './run-process.ts';
import { judgeCheck, judgeFile, type Verdict } from './verdict.ts';

/** A process to run and judge: a test file, or a check of the whole tree. */
export interface Task {
  readonly name: string;
  readonly command: readonly string[];
  readonly kind: 'file' | 'check';
  readonly limitMs: number;
}

export interface TaskResult extends Verdict {
  readonly name: string;
  /** Everything the process printed, without the line of counts. */
  readonly output: string;
  readonly durationMs: number;
}

export interface Totals {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

const CHECK_LIMIT_MS = 300_000;

/** A test file may ask for another limit in one of its first lines, for example `// time limit: 900 s`. */
const LIMIT_LINE = /^\/\/ time limit: (\d+) s$/m;

/** The checks that a change must pass besides the tests. */
export function checkTasks(): Task[] {
  const check = (name: string, command: readonly string[]): Task => ({
    name,
    command,
    kind: 'check',
    limitMs: CHECK_LIMIT_MS * patience(),
  });
  return [
    check('types (tsc)', ['node_modules/.bin/tsc', '-p', '.']),
    check('format (biome)', ['node_modules/.bin/biome', 'check', '--error-on-warnings', '.']),
    check('lint (oxlint)', ['node_modules/.bin/oxlint', '--type-aware', '--deny-warnings', '.']),
  ];
}

/** One task per test file whose path contains one of the filters (all of them without filters), in order of path. */
export async function fileTasks(filters: readonly string[], limitMs: number): Promise<Task[]> {
  const paths: string[] = [];
  for await (const path of glob('test/**/*.test.ts')) {
    if (filters.length === 0 || filters.some((filter) => path.includes(filter))) paths.push(path);
  }
  return Promise.all(
    paths.sort().map(async (path): Promise<Task> => {
      const own = LIMIT_LINE.exec((await readFile(path, 'utf8')).slice(0, 1_000))?.[1];
      return {
        name: path,
        command: [process.execPath, path],
        kind: 'file',
        limitMs: (own === undefined ? limitMs : Number(own) * 1_000) * patience(),
      };
    }),
  );
}

/** Runs the tasks, at most `concurrency` at once, in order; results come in order of completion. */
export async function runTasks(
  tasks: readonly Task[],
  options: { concurrency: number; signal: AbortSignal; onResult: (result: TaskResult) => void },
): Promise<TaskResult[]> {
  const results: TaskResult[] = [];
  const waiting = tasks.values();
  const lane = async (): Promise<void> => {
    for (const task of waiting) {
      if (options.signal.aborted) return;
      const result = await runTask(task, options.signal);
      results.push(result);
      options.onResult(result);
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, lane));
  return results;
}

async function runTask(task: Task, signal: AbortSignal): Promise<TaskResult> {
  const startedMs = systemClock.elapsedMs();
  const end = await runProcess(task.command, { limitMs: task.limitMs, signal });
  const verdict = task.kind === 'file' ? judgeFile(end) : judgeCheck(end);
  const durationMs = systemClock.elapsedMs() - startedMs;
  return { ...verdict, name: task.name, output: withoutCounts(end.output), durationMs };
}

export function totalsOf(results: readonly TaskResult[]): Totals {
  const sum = (pick: (result: TaskResult) => number): number => results.reduce((all, one) => all + pick(one), 0);
  return {
    passed: sum((result) => result.counts.passed),
    failed: sum((result) => result.counts.failed),
    skipped: sum((result) => result.counts.skipped),
  };
}
