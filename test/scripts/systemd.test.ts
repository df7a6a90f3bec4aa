// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runProcess } from '../support/run-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('systemd unit', { requires: ['systemd-analyze'] });
const ROOT: string = join(import.meta.dirname, '../..');
const UNIT: string = join(ROOT, 'scripts/systemd/understudy.service');

/** The unit with the program where it is here. */
async function unitHere(t: TestContext): Promise<string> {
  const path = join(await t.tempDir(), 'understudy.service');
  await writeFile(path, (await readFile(UNIT, 'utf8')).replaceAll('/opt/understudy/', `${ROOT}/`));
  return path;
}

test('systemd finds nothing wrong with it', async (t) => {
  const { output } = await runProcess(['systemd-analyze', 'verify', '--man=no', await unitHere(t)], {
    limitMs: 20_000,
  });
  const own = output.split('\n').filter((line) => line.includes('understudy.service'));
  assert.deepEqual(own, []);
});

test('what it exposes is rated as OK', async (t) => {
  const words = ['systemd-analyze', 'security', '--offline=yes', '--threshold=45', await unitHere(t)];
  const { output, exitCode } = await runProcess(words, { limitMs: 20_000 });
  assert.match(output, /Overall exposure level for understudy\.service: [0-4]\.\d/);
  assert.equal(exitCode, 0, output);
});
