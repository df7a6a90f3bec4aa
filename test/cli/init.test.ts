// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import type { InitOptions, InitReport } from '../../appliance/cli/dependencies.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { runCommand } from '../support/cli-harness.ts';
import { suite } from '../support/suite.ts';

const test = suite('init');
const env = { UNDERSTUDY_STATE: '/state' };
const KEY = 'GOOD-KEY';

/** A repository that needs its key. */
async function attach({ recoveryKey }: InitOptions): Promise<InitReport> {
  if (recoveryKey !== KEY) throw new ApplianceError('REPOSITORY_KEY', 'the recovery key does not fit');
  return { repository: '/mnt/backup', repositoryId: 'id', recoveryKey: null };
}

test('a new repository is encrypted, and its recovery key is printed once with what to do with it', async () => {
  const { stdout, exitCode, initialized } = await runCommand(['init'], { env });
  assert.equal(exitCode, 0);
  assert.deepEqual(initialized, [{ stateDirectory: '/state', encryption: true }]);
  assert.equal(stdout.split('AAAA-BBBB').length, 2);
  assert.match(stdout, /\n\n {4}AAAA-BBBB\n\n/);
  assert.match(stdout, /understudy init --from \/mnt\/backup/);
});

test('--repository is made absolute and --no-encryption passed on', async () => {
  const { initialized } = await runCommand(['init', '--repository', 'repo', '--no-encryption'], { env });
  assert.deepEqual(initialized, [{ stateDirectory: '/state', repository: '/work/here/repo', encryption: false }]);
});

test('--json prints repository, key and state', async () => {
  const { stdout } = await runCommand(['init', '--json'], { env });
  const expected = { repository: '/mnt/backup', repositoryId: 'id', recoveryKey: 'AAAA-BBBB', state: '/state' };
  assert.deepEqual(JSON.parse(stdout), expected);
});

test('--from takes the key from UNDERSTUDY_RECOVERY_KEY', async () => {
  const options = { env: { ...env, UNDERSTUDY_RECOVERY_KEY: ` ${KEY}\n` }, dependencies: { initialize: attach } };
  const { exitCode, stdout } = await runCommand(['init', '--from', '/mnt/backup'], options);
  assert.equal(exitCode, 0);
  assert.match(stdout, /catalog rebuild/);
  assert.doesNotMatch(stdout, new RegExp(KEY));
});

test('--from takes the key from a file', async (t) => {
  const file = join(await t.tempDir(), 'key');
  await writeFile(file, `${KEY}\n`);
  const words = ['init', '--from', '/mnt/backup', '--recovery-key-file', file];
  const { exitCode } = await runCommand(words, { env, dependencies: { initialize: attach } });
  assert.equal(exitCode, 0);
});

test('a key file that is not there is named', async () => {
  const words = ['init', '--from', '/mnt/backup', '--recovery-key-file', 'missing'];
  const { exitCode, stderr } = await runCommand(words, { env, dependencies: { initialize: attach } });
  assert.equal(exitCode, EXIT_CODES.failed);
  assert.match(stderr, /^error IO_FAILED: cannot read \/work\/here\/missing/);
});

test('--from without a key fails without a terminal', async () => {
  const words = ['init', '--from', '/mnt/backup'];
  const { exitCode, stderr } = await runCommand(words, { env, dependencies: { initialize: attach } });
  assert.equal(exitCode, EXIT_CODES.key);
  assert.match(stderr, /^error REPOSITORY_KEY/);
});

test('--from asks for the key on a terminal, and does not show it', async () => {
  const options = { env, dependencies: { initialize: attach }, isTerminal: true, answer: `${KEY}\r` };
  const { exitCode, stdout, stderr } = await runCommand(['init', '--from', '/mnt/backup'], options);
  assert.equal(exitCode, 0);
  assert.match(stderr, /Recovery key \(not shown\): /);
  assert.doesNotMatch(stripVTControlCharacters(stderr + stdout), new RegExp(KEY));
});

test('--from asks for no key when the repository needs none', async () => {
  const initialize = async (): Promise<InitReport> => ({ repository: '/r', repositoryId: 'id', recoveryKey: null });
  const options = { env, dependencies: { initialize }, isTerminal: true };
  const { exitCode, stderr } = await runCommand(['init', '--from', '/r'], options);
  assert.deepEqual([exitCode, stderr], [0, '']);
});
