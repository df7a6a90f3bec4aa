// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { OperationName } from '../../appliance/api/operations.ts';
import { zonedPoint, zonedTime } from '../../appliance/cli/zoned-moment.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { CliTest, runCommand } from '../support/cli-harness.ts';
import { fakePolicyResults } from '../support/fake-policies.ts';
import { FAKE_POINT_ID, fakeResults } from '../support/fake-results.ts';
import { fakeRetentionResults } from '../support/fake-retention.ts';
import { fakeUpkeep } from '../support/fake-upkeep.ts';
import { suite } from '../support/suite.ts';

const { guards } = fakeRetentionResults;
const test = suite('commands');
/** Control characters other than the line feed. */
const CONTROL = /(?!\n)\p{Cc}/u;

/** What each command line asks the appliance for, last, and the document that `--json` prints. */
const COMMANDS: readonly {
  readonly line: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly name: OperationName;
  readonly params: unknown;
  readonly result: unknown;
}[] = [
  { line: 'status', name: 'status', params: {}, result: fakeResults.status },
  { line: 'capacity', name: 'capacity', params: {}, result: fakeUpkeep.capacity },
  { line: 'machine list', name: 'machineList', params: {}, result: [fakeResults.machineSummary] },
  {
    line: 'machine list --connect qemu:///session',
    name: 'machineList',
    params: { connect: 'qemu:///session' },
    result: [fakeResults.machineSummary],
  },
  {
    line: 'machine list',
    env: { LIBVIRT_DEFAULT_URI: 'qemu+ssh://lab/system' },
    name: 'machineList',
    params: { connect: 'qemu+ssh://lab/system' },
    result: [fakeResults.machineSummary],
  },
  {
    line: 'machine list --connect qemu:///session',
    env: { LIBVIRT_DEFAULT_URI: 'qemu+ssh://lab/system' },
    name: 'machineList',
    params: { connect: 'qemu:///session' },
    result: [fakeResults.machineSummary],
  },
  { line: 'machine show web', name: 'machineShow', params: { name: 'web' }, result: fakeResults.machine },
  { line: 'backup web', name: 'backup', params: { target: 'web' }, result: fakeResults.backup },
  {
    line: 'backup nbd+unix:///a?socket=d.sock --name mail --full-scan',
    name: 'backup',
    params: { target: 'nbd+unix:///a?socket=/work/here/d.sock', name: 'mail', fullScan: true },
    result: fakeResults.backup,
  },
  {
    line: 'backup web --quiesce always --bandwidth 10MiB',
    name: 'backup',
    params: { target: 'web', quiesce: 'always', bandwidth: 10_485_760 },
    result: fakeResults.backup,
  },
  { line: 'policy list', name: 'policyList', params: {}, result: [fakePolicyResults.policy] },
  { line: 'policy show nightly', name: 'policyShow', params: { name: 'nightly' }, result: fakePolicyResults.policy },
  {
    line: 'policy preview nightly',
    name: 'policyPreview',
    params: { name: 'nightly' },
    result: fakePolicyResults.preview,
  },
  {
    line: 'policy set nightly --schedule every-five --machine web-* --machine 4c4c4544-0050-3510-8052-b4c04f4d3232 --tag gold --except x --keep-daily 7 --keep-within 2w --shorten --clear rpo --clear window',
    name: 'policySet',
    params: {
      name: 'nightly',
      mode: 'scheduled',
      schedule: 'every-five',
      machines: { names: ['web-*'], ids: ['4c4c4544-0050-3510-8052-b4c04f4d3232'], tags: ['gold'], except: ['x'] },
      keep: { daily: 7, within: '2w' },
      shorten: true,
      clear: ['rpo', 'window'],
    },
    result: fakePolicyResults.policy,
  },
  {
    line: 'policy set nightly --priority -5 --bandwidth 5MiB --quiesce never',
    name: 'policySet',
    params: { name: 'nightly', priority: -5, bandwidth: '5MiB', quiesce: 'never' },
    result: fakePolicyResults.policy,
  },
  {
    line: 'policy disable nightly --yes',
    name: 'policyDisable',
    params: { name: 'nightly' },
    result: fakePolicyResults.policy,
  },
  {
    line: 'policy delete nightly --yes',
    name: 'policyDelete',
    params: { name: 'nightly' },
    result: fakePolicyResults.policy,
  },
  { line: 'schedule', name: 'schedule', params: {}, result: fakePolicyResults.schedule },
  { line: 'points', name: 'points', params: {}, result: fakeResults.points },
  { line: 'points web', name: 'points', params: { machine: 'web' }, result: fakeResults.points },
  { line: 'timeline web', name: 'timeline', params: { machine: 'web' }, result: fakeResults.timeline },
  {
    line: 'timeline web --from 2026-11-21 --to now',
    name: 'timeline',
    params: { machine: 'web', from: zonedTime('2026-11-21'), to: 'now' },
    result: fakeResults.timeline,
  },
  {
    line: 'writes web --around seq:12 --within 1min --disk vda --offset 1MiB',
    name: 'writes',
    params: { machine: 'web', around: 'seq:12', within: '1min', disk: 'vda', offset: '1MiB' },
    result: fakeResults.writes,
  },
  {
    line: 'point show web@2026-11-21T14:00',
    name: 'pointShow',
    params: { point: zonedPoint('web@2026-11-21T14:00') },
    result: fakeResults.pointShow,
  },
  {
    line: 'restore 3f2a --disk vda --to out.raw --format raw',
    name: 'restore',
    params: { point: '3f2a', disk: 'vda', to: '/work/here/out.raw', format: 'raw' },
    result: fakeResults.restore,
  },
  {
    line: 'restore 3f2a --to nbd://host/x',
    name: 'restore',
    params: { point: '3f2a', to: 'nbd://host/x' },
    result: fakeResults.restore,
  },
  {
    line: 'restore 3f2a --as web-2 --directory images',
    name: 'restore',
    params: { point: '3f2a', as: 'web-2', directory: '/work/here/images' },
    result: fakeResults.restore,
  },
  {
    line: 'restore 3f2a --in-place --yes',
    name: 'restore',
    params: { point: '3f2a', inPlace: true },
    result: fakeResults.restore,
  },
  { line: 'check', name: 'check', params: {}, result: fakeResults.check },
  { line: 'check --slice', name: 'check', params: { slice: true }, result: fakeResults.check },
  { line: 'check --read-data', name: 'check', params: { readData: true }, result: fakeResults.check },
  { line: 'catalog rebuild', name: 'catalogRebuild', params: {}, result: fakeResults.rebuild },
  { line: 'delete web@-1 --yes', name: 'delete', params: { point: 'web@-1' }, result: fakeResults.delete },
  { line: 'delete 3f --yes --now', name: 'delete', params: { point: '3f', now: true }, result: fakeResults.delete },
  { line: 'undelete 3f', name: 'undelete', params: { point: '3f' }, result: fakeResults.delete },
  { line: 'hold 3f --reason audit', name: 'hold', params: { point: '3f', reason: 'audit' }, result: guards },
  {
    line: 'hold 3f --reason audit --until 2027-01-01T00:00Z',
    name: 'hold',
    params: { point: '3f', reason: 'audit', until: '2027-01-01T00:00Z' },
    result: guards,
  },
  { line: 'release 3f', name: 'release', params: { point: '3f' }, result: guards },
  {
    line: 'lock 3f --until 2027-01-01T00:00Z --yes',
    name: 'lock',
    params: { point: '3f', until: '2027-01-01T00:00Z' },
    result: guards,
  },
  {
    line: 'retention preview web --keep-last 3 --keep-hourly 24 --keep-daily 7 --time-zone UTC',
    name: 'retentionPreview',
    params: { machine: 'web', keepLast: 3, keepHourly: 24, keepDaily: 7, timeZone: 'UTC' },
    result: fakeRetentionResults.preview,
  },
  {
    line: 'retention apply --all --keep-weekly 4 --keep-monthly 12 --keep-yearly 3 --keep-within 14d --time-zone UTC --yes',
    name: 'retentionApply',
    params: { all: true, keepWeekly: 4, keepMonthly: 12, keepYearly: 3, keepWithin: '14d', timeZone: 'UTC' },
    result: fakeRetentionResults.apply,
  },
  { line: 'gc', name: 'gc', params: {}, result: fakeResults.gc },
  { line: 'gc --now', name: 'gc', params: { now: true }, result: fakeResults.gc },
];

for (const { line, env = {}, name, params, result } of COMMANDS) {
  const variables = Object.entries(env).map(([key, value]) => `${key}=${value} `);
  test(`\`${variables.join('')}${line}\` asks for ${name}, prints plain text, and one document with --json`, async () => {
    const words = line.split(' ');
    const asText = await runCommand(words, { env });
    assert.equal(asText.exitCode, 0);
    assert.equal(asText.stderr, '');
    const last = asText.appliance.calls.at(-1);
    assert.deepEqual({ name: last?.name, params: last?.params }, { name, params });
    assert.equal(asText.appliance.isDisposed, true);
    assert.ok(asText.stdout.length > 10 && asText.stdout.endsWith('\n'));
    assert.doesNotMatch(asText.stdout, CONTROL);
    assert.doesNotMatch(asText.stdout, /undefined|NaN|\[object|null/);

    const asJson = await runCommand([...words, '--json'], { env });
    assert.equal(asJson.exitCode, 0);
    assert.equal(asJson.stderr, '');
    assert.deepEqual(JSON.parse(asJson.stdout), result);
  });
}

test('common options may stand before the command', async () => {
  const { stdout, exitCode } = await runCommand(['--json', '--state', '/nowhere/else', 'points']);
  assert.equal(exitCode, 0);
  assert.deepEqual(JSON.parse(stdout), fakeResults.points);
});

test('an error has its code, message and hint on standard error, and the exit code of its class', async () => {
  const behaviour = {
    backup: () => Promise.reject(new ApplianceError('DOMAIN_BUSY', 'a job runs on web', { hint: 'Wait for it.' })),
  };
  const { stdout, stderr, exitCode } = await runCommand(['backup', 'web'], { behaviour });
  assert.equal(stdout, '');
  assert.equal(stderr, 'error DOMAIN_BUSY: a job runs on web\nhint: Wait for it.\n');
  assert.equal(exitCode, EXIT_CODES.busy);
});

test('with --json an error is the one document on standard output', async () => {
  const details = { machine: 'web' };
  const failure = new ApplianceError('DOMAIN_BUSY', 'a job runs on web', { hint: 'Wait for it.', details });
  const behaviour = { backup: () => Promise.reject(failure) };
  const { stdout, stderr, exitCode } = await runCommand(['backup', 'web', '--json'], { behaviour });
  assert.deepEqual(JSON.parse(stdout), {
    error: { code: 'DOMAIN_BUSY', message: 'a job runs on web', hint: 'Wait for it.', details, exitCode: 4 },
  });
  assert.equal(stderr, '');
  assert.equal(exitCode, 4);
});

test('what is not one of our errors is INTERNAL and exits with 1', async () => {
  const behaviour = { gc: () => Promise.reject(new TypeError('x is not a function')) };
  const { stderr, exitCode } = await runCommand(['gc'], { behaviour });
  assert.match(stderr, /^error INTERNAL: x is not a function\n/);
  assert.equal(exitCode, EXIT_CODES.failed);
});

test('command lines that cannot be right are refused with exit code 2 before anything is opened', async () => {
  const lines = [
    'bakup web',
    'backup',
    'backup a b',
    'points --nonsense',
    'machine',
    'machine lst',
    'restore x',
    'restore x --to a --as b',
    'restore x --in-place --as b',
    'restore x --as b --disk vda',
    'restore x --to a --directory d',
    'restore x --to a --format tar',
    'export x --socket a --listen b:1',
    'init --from a --repository b',
    'init --from a --no-encryption',
    'init --recovery-key-file f',
    'backup nbd:///a?socket=x',
    'points --state=',
  ];
  for (const line of lines) {
    const { exitCode, stdout, stderr, appliance, initialized } = await runCommand(line.split(' '));
    assert.equal(exitCode, EXIT_CODES.usage, line);
    assert.equal(stdout, '', line);
    assert.match(stderr, /^error (BAD_ARGUMENT|NBD_BAD_URI): .+\nhint: .+\n$/, line);
    assert.deepEqual([appliance.calls, initialized], [[], []], line);
    const asJson = await runCommand([...line.split(' '), '--json']);
    const { error } = JSON.parse(asJson.stdout) as { error: { exitCode: number } };
    assert.deepEqual([error.exitCode, asJson.exitCode, asJson.stderr], [2, 2, ''], line);
  }
});

test('an empty argument is refused by name', async () => {
  const { exitCode, stderr } = await runCommand(['backup', '']);
  assert.equal(exitCode, EXIT_CODES.usage);
  assert.match(stderr, /target is empty/);
});

test('an unknown command is answered with the one that was meant', async () => {
  const { stderr } = await runCommand(['bakup', 'web']);
  assert.match(stderr, /\nhint: Did you mean backup\?\n$/);
});

test('a wrong option is answered with the help to look at', async () => {
  const { stderr } = await runCommand(['machine', 'show']);
  assert.match(stderr, /\nhint: `understudy machine show --help` shows what it takes\.\n$/);
});

test('understudy alone prints an overview and succeeds', async () => {
  const { exitCode, stdout, stderr } = await runCommand([], { env: { UNDERSTUDY_STATE: '/srv/state' } });
  assert.deepEqual([exitCode, stderr], [0, '']);
  assert.match(stdout, /understudy backup web/);
  assert.match(stdout, /State directory: \/srv\/state$/m);
});

test('`help COMMAND` and `COMMAND --help` print the same', async () => {
  const one = await runCommand(['help', 'machine', 'show']);
  const other = await runCommand(['machine', 'show', '--help']);
  assert.deepEqual([one.exitCode, one.stdout], [0, other.stdout]);
  assert.match(one.stdout, /Examples:/);
});

test('a check that finds defects prints them and exits with 5', async () => {
  const touch = { point: FAKE_POINT_ID, machine: 'web', disk: 'vda', offset: 65_536, length: 65_536 };
  const finding = { what: 'chunk damaged', object: 'packs/ab/abcd', touches: Array.from({ length: 12 }, () => touch) };
  const behaviour = { check: async () => ({ ...fakeResults.check, ok: false, readData: true, findings: [finding] }) };
  const { exitCode, stdout } = await runCommand(['check', '--read-data'], { behaviour });
  assert.equal(exitCode, EXIT_CODES.corrupt);
  assert.match(
    stdout,
    /chunk damaged: packs\/ab\/abcd\n {2}point 3f2a91c04b7d8e11 of web, disk vda, 64 KiB at offset 65,536/,
  );
  assert.match(stdout, /and 2 more places/);
  assert.match(stdout, /1 defect, touching 1 point\./);
  assert.equal((await runCommand(['check', '--json'], { behaviour })).exitCode, EXIT_CODES.corrupt);
});

test('a catalog rebuild with problems names them and exits with 5', async () => {
  const behaviour = { catalogRebuild: async () => ({ ...fakeResults.rebuild, problems: ['a manifest is damaged'] }) };
  const { exitCode, stdout } = await runCommand(['catalog', 'rebuild'], { behaviour });
  assert.deepEqual([exitCode, stdout.split('\n')[1]], [5, 'problem: a manifest is damaged']);
});

test('lists without entries say what to do', async () => {
  const behaviour = { points: async () => [], booted: async () => [], machineList: async () => [] };
  assert.match((await runCommand(['points', 'web'], { behaviour })).stdout, /no recovery point of web yet/);
  assert.match((await runCommand(['booted'], { behaviour })).stdout, /No machine runs/);
  assert.match((await runCommand(['machine', 'list'], { behaviour })).stdout, /no machines/);
  assert.equal((await runCommand(['points', '--json'], { behaviour })).stdout, '[]\n');
});

test('names from outside cannot control the terminal', async () => {
  const evil = 'web\u001b[2J\u001b]0;owned\u0007\u009b31m\nerror';
  const behaviour = {
    machineList: async () => [{ ...fakeResults.machineSummary, name: evil }],
    backup: () => Promise.reject(new ApplianceError('DOMAIN_BUSY', `a job runs on ${evil}`)),
  };
  assert.doesNotMatch((await runCommand(['machine', 'list'], { behaviour })).stdout, CONTROL);
  assert.doesNotMatch((await runCommand(['backup', 'web'], { behaviour })).stderr, CONTROL);
});

test('notices go to standard error, also with --json', async () => {
  const behaviour = {
    backup: async (_params: unknown, context: { onNotice(text: string): void }) => {
      context.onNotice('the guest agent does not answer');
      return fakeResults.backup;
    },
  };
  const { stdout, stderr } = await runCommand(['backup', 'web', '--json'], { behaviour });
  assert.deepEqual(JSON.parse(stdout), fakeResults.backup);
  assert.equal(stderr, 'note: the guest agent does not answer\n');
});

test('the first signal aborts the operation, which ends with exit code 130; the second ends the process', async () => {
  const started = Promise.withResolvers<void>();
  const cli = new CliTest({
    behaviour: {
      backup: (_params, { signal }) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(new ApplianceError('ABORTED', 'interrupted')));
          started.resolve();
        }),
    },
  });
  const running = cli.run('backup', 'web');
  await started.promise;
  cli.signal('SIGINT');
  cli.signal('SIGINT');
  const { exitCode, stderr } = await running;
  assert.equal(exitCode, EXIT_CODES.interrupted);
  assert.deepEqual(cli.exits, [EXIT_CODES.interrupted]);
  assert.match(stderr, /^error ABORTED: /);
});

test('the state directory comes from --state, then UNDERSTUDY_STATE, then the XDG directories', async () => {
  const opened: string[] = [];
  const record = async ({ stateDirectory }: { readonly stateDirectory: string }): Promise<never> => {
    opened.push(stateDirectory);
    throw new ApplianceError('REPOSITORY_NOT_FOUND', 'none');
  };
  const dependencies = { openAppliance: record };
  const XDG_STATE_HOME = '/xdg';
  await runCommand(['points', '--state', 'rel'], { dependencies, env: { UNDERSTUDY_STATE: '/env', XDG_STATE_HOME } });
  await runCommand(['points'], { dependencies, env: { UNDERSTUDY_STATE: '/env', XDG_STATE_HOME } });
  await runCommand(['points'], { dependencies, env: { UNDERSTUDY_STATE: '', XDG_STATE_HOME } });
  await runCommand(['points'], { dependencies, env: { XDG_STATE_HOME: 'relative' } });
  assert.deepEqual(opened, ['/work/here/rel', '/env', '/xdg/understudy', '/home/operator/.local/state/understudy']);
});
