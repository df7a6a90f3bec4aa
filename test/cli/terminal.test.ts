// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { stripVTControlCharacters } from 'node:util';
import type { OperationContext } from '../../appliance/api/operations.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { type CliTestOptions, runCommand } from '../support/cli-harness.ts';
import { FAKE_POINT_ID, fakeResults } from '../support/fake-results.ts';
import { fakeRetentionResults } from '../support/fake-retention.ts';
import { suite } from '../support/suite.ts';

const test = suite('commands on a terminal');
const ESCAPE = '\u001b';
const GIB: number = 2 ** 30;

const DANGEROUS = ['delete web@latest', 'restore web@latest --in-place'];

/** Names of the operations that were asked for. */
async function operations(
  line: string,
  options: CliTestOptions,
): Promise<{ names: string[]; exitCode: number; stderr: string }> {
  const { appliance, exitCode, stderr } = await runCommand(line.split(' '), options);
  return { names: appliance.calls.map((call) => call.name), exitCode, stderr };
}

for (const line of DANGEROUS) {
  const operation = line.split(' ')[0] ?? '';

  test(`\`${line}\` asks nothing without a terminal, and changes nothing`, async () => {
    const { names, exitCode, stderr } = await operations(line, {});
    assert.deepEqual([names, exitCode], [['pointShow'], EXIT_CODES.usage]);
    assert.match(stderr, /^error CONFIRMATION_NEEDED: .*3f2a91c04b7d8e11.*\nhint: Add --yes/);
  });

  test(`\`${line}\` asks nothing with --json`, async () => {
    const { names, exitCode } = await operations(`${line} --json`, { isTerminal: true });
    assert.deepEqual([names, exitCode], [['pointShow'], EXIT_CODES.usage]);
  });

  test(`\`${line}\` goes on with exactly the point that was confirmed by the machine's name`, async () => {
    const { appliance, exitCode, stderr } = await runCommand(line.split(' '), { isTerminal: true, answer: 'web\r' });
    assert.equal(exitCode, 0);
    const last = appliance.calls.at(-1);
    const params = operation === 'restore' ? { point: FAKE_POINT_ID, inPlace: true } : { point: FAKE_POINT_ID };
    assert.deepEqual({ name: last?.name, params: last?.params }, { name: operation, params });
    assert.match(stripVTControlCharacters(stderr), /Type the machine's name \(web\) to go on: /);
  });

  test(`\`${line}\` changes nothing after another name`, async () => {
    const { names, exitCode } = await operations(line, { isTerminal: true, answer: 'wed\r' });
    assert.deepEqual([names, exitCode], [['pointShow'], EXIT_CODES.usage]);
  });

  for (const [key, what] of [
    ['\u0003', 'Ctrl-C'],
    ['\u0004', 'the end of input'],
  ] as const) {
    test(`\`${line}\` changes nothing after ${what}`, async () => {
      const { names, exitCode } = await operations(line, { isTerminal: true, answer: key });
      assert.deepEqual([names, exitCode], [['pointShow'], EXIT_CODES.interrupted]);
    });
  }

  test(`\`${line} --yes\` does not ask`, async () => {
    const { names, exitCode } = await operations(`${line} --yes`, {});
    assert.deepEqual([names, exitCode], [[operation], 0]);
  });
}

for (const [line, name, word] of [
  ['retention apply web --keep-last 1', 'retentionApply', 'web'],
  ['retention apply --all --keep-last 1', 'retentionApply', 'all'],
  ['lock web@latest --until 2040-01-01', 'lock', 'web'],
] as const) {
  const looked = name === 'lock' ? 'pointShow' : 'retentionPreview';

  test(`\`${line}\` asks for \`${word}\`, and does nothing without it`, async () => {
    const confirmed = await runCommand(line.split(' '), { isTerminal: true, answer: `${word}\r` });
    const last = confirmed.appliance.calls.at(-1);
    const params = last?.params as { readonly point?: string; readonly plan?: string } | undefined;
    assert.deepEqual([confirmed.exitCode, last?.name], [0, name]);
    // Exactly what was shown: the point by its id, the points by the name of their set.
    if (name === 'lock') assert.equal(params?.point, FAKE_POINT_ID);
    else assert.equal(params?.plan, fakeRetentionResults.preview.plan);
    for (const options of [{}, { isTerminal: true, answer: 'wed\r' }]) {
      const { names, exitCode } = await operations(line, options);
      assert.deepEqual([names, exitCode], [[looked], EXIT_CODES.usage]);
    }
  });
}

test('colours are for terminals, and not with NO_COLOR or a dumb one', async () => {
  const colours = async (isTerminal: boolean, env: Record<string, string>): Promise<boolean> => {
    const { stdout } = await runCommand(['backup', 'web'], { isTerminal, env });
    return stdout.includes(ESCAPE);
  };
  assert.equal(await colours(true, {}), true);
  assert.equal(await colours(true, { NO_COLOR: '' }), true);
  assert.equal(await colours(true, { NO_COLOR: '1' }), false);
  assert.equal(await colours(true, { TERM: 'dumb' }), false);
  assert.equal(await colours(false, {}), false);
});

test('colours change no column', async () => {
  const plain = await runCommand(['machine', 'show', 'web']);
  const coloured = await runCommand(['machine', 'show', 'web'], { isTerminal: true });
  assert.equal(stripVTControlCharacters(coloured.stdout), plain.stdout);
});

test('--json has no colours on a terminal', async () => {
  const { stdout } = await runCommand(['points', '--json'], { isTerminal: true });
  assert.deepEqual(JSON.parse(stdout), fakeResults.points);
});

const slowly = {
  backup: async (_params: unknown, { onProgress, onNotice }: OperationContext) => {
    onProgress({ phase: 'backing up vda', done: 0, total: 2 * GIB, unit: 'bytes' });
    onNotice('half of it is done');
    onProgress({ phase: 'backing up vda', done: GIB, total: 2 * GIB, unit: 'bytes' });
    return fakeResults.backup;
  },
} as const;

test('progress is one line on standard error of a terminal, gone at the end', async () => {
  const { stdout, stderr } = await runCommand(['backup', 'web'], { isTerminal: true, behaviour: slowly });
  assert.match(stderr, /backing up vda .* 50 % .*1 GiB of 2 GiB/);
  assert.match(stderr, /note:.* half of it is done\n/);
  assert.ok(stderr.endsWith(`${ESCAPE}[2K`), JSON.stringify(stderr.slice(-20)));
  assert.match(stripVTControlCharacters(stdout), /^3f2a91c04b7d8e11 {2}web/);
  const lines = stripVTControlCharacters(stderr).split(/[\r\n]/);
  assert.ok(lines.every((line) => line.length < 80 * 2));
});

test('there is no progress without a terminal, or with --json', async () => {
  const piped = await runCommand(['backup', 'web'], { behaviour: slowly });
  assert.equal(piped.stderr, 'note: half of it is done\n');
  const json = await runCommand(['backup', 'web', '--json'], { behaviour: slowly, isTerminal: true });
  assert.equal(stripVTControlCharacters(json.stderr), 'note: half of it is done\n');
});
