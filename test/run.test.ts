// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { runProcess } from './support/run-process.ts';
import { suite } from './support/suite.ts';
import type { ProcessEnd } from './support/verdict.ts';

const test = suite('npm test');

async function runDriver(...args: readonly string[]): Promise<ProcessEnd> {
  return runProcess([process.execPath, join(import.meta.dirname, 'run.ts'), ...args], { limitMs: 25_000 });
}

function lastLine({ output }: ProcessEnd): string | undefined {
  return output.trimEnd().split('\n').at(-1);
}

test('ends with one line of totals and exit code 0 when all passes', async () => {
  const end = await runDriver('--only-files', 'core/invariant.test.ts');
  assert.equal(lastLine(end), '2 passed, 0 failed, 0 skipped');
  assert.equal(end.exitCode, 0);
});

test('fails when no test file matches', async () => {
  const end = await runDriver('--only-files', 'no-such-test-file');
  assert.equal(lastLine(end), '0 passed, 0 failed, 0 skipped');
  assert.equal(end.exitCode, 1);
});

test('refuses arguments that make no sense', async () => {
  for (const args of [['--concurrency', '0'], ['--limit-s', 'soon'], ['--no-such-option']]) {
    const end = await runDriver(...args);
    assert.equal(end.exitCode, 2);
    assert.match(end.output, /^usage: npm test/);
  }
});
