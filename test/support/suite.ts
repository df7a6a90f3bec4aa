// SPDX-License-Identifier: Apache-2.0
import { realpathSync, writeSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { systemClock } from '../../appliance/core/clock.ts';
import { toError } from '../../appliance/core/errors.ts';
import { type Counts, encodeCounts, type Skip } from './counts.ts';
import { patience } from './patience.ts';
import { arePeersRequired, missingRequirements } from './requirements.ts';
import { type TestContext, TestScope } from './test-scope.ts';

/*
 * uvu, guarded. Bare uvu 0.5.6 exits 0 for a forgotten run(), a throwing `before`, a failing test whose `after.each`
 * throws too, and a stray `.only`; a leaked handle makes it hang (docs/decisions/0003-guarded-uvu.md). Therefore:
 *
 *   - uvu has no hook, no only and no run() here; it calls the bodies in order and prints them.
 *   - The counts are ours: every registered test is exactly one of passed, failed, skipped. What escapes from a test (an
 *     unhandled rejection, a late exception) counts as one more failed test.
 *   - The file's last line are the counts, written while the process exits; the exit code is 0 only when all is well.
 */

/** Options of a suite (for all of its tests) or of one test. */
export interface TestOptions {
  /** Programs that must exist, or files when there is a slash in the name; otherwise the test is skipped with the reason. */
  readonly requires?: readonly string[];
  /** Time budget of one test, without the disposal of its resources; stretched by UNDERSTUDY_TEST_PATIENCE. */
  readonly timeoutMs?: number;
}

export type TestBody = (t: TestContext) => Promise<void> | void;

export interface RegisterTest {
  /** Registers one test. The title is a sentence about behaviour, unique in its suite. */
  (title: string, body: TestBody, options?: TestOptions): void;
  /**
   * Something dear that several tests use one after the other, like a running guest: made by the first that asks, made anew
   * after a test that failed, disposed after the last. Each test leaves it as it found it.
   */
  share<T>(make: (t: TestContext) => Promise<T>): () => Promise<T>;
}

interface TestEntry {
  readonly title: string;
  readonly body: TestBody;
  readonly requires: readonly string[];
  readonly timeoutMs: number;
}

interface SuiteEntry {
  readonly name: string;
  readonly tests: TestEntry[];
  readonly shared: Shared;
}

const DEFAULT_TIMEOUT_MS = 30_000;

/** How long the event loop may stay alive after the last test. */
const LINGER_LIMIT_MS = 2_000;

/** Stack frames that are the runner's own. */
const RUNNER_FRAME = /^\s+at .*(node_modules\/uvu\/|test\/support\/(suite|test-scope)\.ts|\(node:internal\/)/;

let currentRun: FileRun | undefined;

/** Declares a suite; it runs by itself once the test file has been loaded. */
export function suite(name: string, options: TestOptions = {}): RegisterTest {
  currentRun ??= FileRun.start();
  return currentRun.addSuite(name, options);
}

/** What the tests of a suite share at present. */
class Shared {
  #scope: TestScope | undefined;
  #made = new Map<unknown, Promise<unknown>>();

  get<T>(make: (t: TestContext) => Promise<T>): Promise<T> {
    this.#scope ??= new TestScope('what tests share');
    const made = (this.#made.get(make) as Promise<T> | undefined) ?? make(this.#scope);
    this.#made.set(make, made);
    return made;
  }

  async dispose(): Promise<Error[]> {
    const scope = this.#scope;
    this.#scope = undefined;
    this.#made = new Map();
    return (await scope?.end()) ?? [];
  }
}

class FileRun {
  readonly #suites: SuiteEntry[] = [];
  readonly #skips: Skip[] = [];
  #phase: 'loading' | 'running' | 'ended' = 'loading';
  #runningTitle: string | undefined;
  #total = 0;
  #passed = 0;
  #failed = 0;

  static start(): FileRun {
    const run = new FileRun();
    process.on('uncaughtException', (error) => run.#recordEscaped('an uncaught exception', error));
    process.on('unhandledRejection', (reason) => run.#recordEscaped('an unhandled rejection', reason));
    process.on('exit', () => run.#report());
    setImmediate(() => {
      run.#execute().catch((error: unknown) => run.#recordEscaped('the test runner failed', error));
    });
    return run;
  }

  addSuite(name: string, options: TestOptions): RegisterTest {
    this.#mustBeLoading(name);
    const tests: TestEntry[] = [];
    const shared = new Shared();
    this.#suites.push({ name, tests, shared });
    const register = (title: string, body: TestBody, testOptions: TestOptions = {}): void => {
      this.#mustBeLoading(title);
      if (tests.some((test) => test.title === title)) throw new Error(`two tests of "${name}" are called "${title}"`);
      this.#total += 1;
      tests.push({
        title,
        body,
        requires: [...(options.requires ?? []), ...(testOptions.requires ?? [])],
        timeoutMs: (testOptions.timeoutMs ?? options.timeoutMs ?? DEFAULT_TIMEOUT_MS) * patience(),
      });
    };
    return Object.assign(register, {
      share:
        <T>(make: (t: TestContext) => Promise<T>) =>
        () =>
          shared.get(make),
    });
  }

  async #execute(): Promise<void> {
    if (!(await isMainModuleLoaded())) return;
    this.#phase = 'running';
    // uvu decides at its import whether it starts by itself; with UVU_DEFER it waits for exec().
    Object.assign(globalThis, { UVU_DEFER: 1, UVU_INDEX: 0, UVU_QUEUE: [[null]] });
    const uvu = await import('uvu');
    for (const { name, tests, shared } of this.#suites) {
      const runner = uvu.suite(name);
      for (const test of tests) {
        const reason = this.#skipReason(test);
        if (reason === undefined) runner(test.title, () => this.#runTest(test, shared));
        else {
          this.#skips.push({ title: test.title, reason });
          runner.skip();
        }
      }
      runner.run();
    }
    await uvu.exec();
    for (const { name, shared } of this.#suites) {
      for (const error of await shared.dispose()) this.#recordEscaped(`what the tests of "${name}" share`, error);
    }
    this.#phase = 'ended';
    setTimeout(() => this.#endLingering(), LINGER_LIMIT_MS * patience()).unref();
  }

  #skipReason(test: TestEntry): string | undefined {
    const missing = missingRequirements(test.requires);
    return missing.length === 0 || arePeersRequired() ? undefined : `not installed: ${missing.join(', ')}`;
  }

  /** Throws, for uvu to print, after the outcome was recorded here. */
  async #runTest(test: TestEntry, shared: Shared): Promise<void> {
    process.stdout.write(`\n  ${test.title} … `);
    this.#runningTitle = test.title;
    const startedMs = systemClock.elapsedMs();
    const missing = missingRequirements(test.requires);
    const errors =
      missing.length > 0
        ? [new Error(`not installed, and REQUIRE_PEERS=1: ${missing.join(', ')}`)]
        : await new TestScope(test.title).run(test.body, test.timeoutMs);
    this.#runningTitle = undefined;
    process.stdout.write(`${Math.round(systemClock.elapsedMs() - startedMs)} ms `);
    if (errors.length === 0) this.#passed += 1;
    else {
      errors.push(...(await shared.dispose()));
      this.#failed += 1;
      throw printable(errors);
    }
  }

  #recordEscaped(what: string, thrown: unknown): void {
    const during = this.#runningTitle === undefined ? 'outside of a test' : `during "${this.#runningTitle}"`;
    this.#total += 1;
    this.#failed += 1;
    process.stdout.write(`\n  FAIL ${what} ${during}\n${describe(toError(thrown))}\n`);
  }

  #endLingering(): void {
    const resources = process.getActiveResourcesInfo().join(', ');
    this.#total += 1;
    this.#failed += 1;
    process.stdout.write(`\n  FAIL something was left open: the process is still alive, kept by: ${resources}\n`);
    process.exit(1);
  }

  #report(): void {
    if (this.#phase !== 'ended') {
      const where = this.#runningTitle === undefined ? '' : `, in "${this.#runningTitle}"`;
      writeSync(1, `\n  FAIL the process ended before its tests did${where}\n`);
      this.#failed = this.#total - this.#passed - this.#skips.length;
    }
    for (const skip of this.#skips) writeSync(1, `  skipped: ${skip.title} (${skip.reason})\n`);
    const counts: Counts = {
      total: this.#total,
      passed: this.#passed,
      failed: this.#failed,
      skipped: this.#skips.length,
      skips: this.#skips,
    };
    const isGood =
      this.#phase === 'ended' &&
      counts.total > 0 &&
      counts.failed === 0 &&
      counts.passed + counts.skipped === counts.total;
    if (!isGood) process.exitCode = 1;
    writeSync(1, `${encodeCounts(counts)}\n`);
  }

  #mustBeLoading(what: string): void {
    if (this.#phase !== 'loading') throw new Error(`"${what}" was registered after the tests had begun`);
  }
}

/**
 * Settles when the test file is loaded, also when it awaits at its top level. False when loading failed, which arrives as
 * an uncaught exception as well and is reported there.
 */
async function isMainModuleLoaded(): Promise<boolean> {
  const main = process.argv[1];
  if (main === undefined) return true;
  return import(pathToFileURL(realpathSync(main)).href).then(
    () => true,
    () => false,
  );
}

/** One plain error for uvu, which chokes on non-errors and would build its own difference of megabytes of Buffer. */
function printable(errors: readonly Error[]): Error {
  const message = errors.map(describe).join('\n');
  const error = new Error(message.replaceAll('\n', '\n    '));
  error.stack = 'Error';
  return error;
}

function describe(error: Error): string {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const own = (error.stack ?? `${error.name}: ${error.message}`)
    .split('\n')
    .filter((line) => !RUNNER_FRAME.test(line))
    .join('\n');
  const nested = error instanceof AggregateError ? error.errors.map((one) => describe(toError(one))) : [];
  if (error.cause !== undefined) nested.push(`caused by ${describe(toError(error.cause))}`);
  return [own.includes(code) ? own : `${code} ${own}`, ...nested].join('\n').replaceAll('\n', '\n  ');
}
