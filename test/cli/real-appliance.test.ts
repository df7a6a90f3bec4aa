// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findService } from '../../appliance/api/client/find-service.ts';
import type {
  BackupReport,
  BootedMachine,
  BootReport,
  ExportReport,
  MachineSummary,
  PointSummary,
} from '../../appliance/api/operations.ts';
import type { ScheduleReport } from '../../appliance/api/schemas/policies.ts';
import type { RunSummary } from '../../appliance/api/schemas/runs.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import { LiveProcess, type ProcessResult } from '../support/live-process.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('the command line over the real appliance', { timeoutMs: 120_000 });
const SCRIPT: string = new URL('../../appliance/cli.ts', import.meta.url).pathname;
const MIB: number = 2 ** 20;

interface Operator {
  readonly directory: string;
  readonly state: string;
  readonly start: (...words: readonly string[]) => LiveProcess;
  readonly run: (...words: readonly string[]) => Promise<ProcessResult>;
  /** Runs with `--json`, expects success, and returns the document. */
  readonly ask: <T>(...words: readonly string[]) => Promise<T>;
}

/** A directory to work in, an initialised state directory, and the command line. */
async function operator(t: TestContext): Promise<Operator> {
  const directory = await t.tempDir();
  const state = join(directory, 'state');
  const env = { ...process.env, UNDERSTUDY_STATE: state, NO_COLOR: '1' };
  const start = (...words: readonly string[]): LiveProcess =>
    t.use(new LiveProcess([process.execPath, SCRIPT, ...words], env));
  const run = (...words: readonly string[]): Promise<ProcessResult> => start(...words).result;
  const ask = async <T>(...words: readonly string[]): Promise<T> => {
    const { exitCode, stdout, stderr } = await run(...words, '--json');
    assert.equal(exitCode, 0, stdout + stderr);
    return JSON.parse(stdout) as T;
  };
  t.use({ close: () => endService(state) });
  await ask('init');
  return { directory, state, start, run, ask };
}

async function endService(state: string): Promise<void> {
  const service = await findService(state);
  if (service === undefined) return;
  process.kill(service.pid, 'SIGTERM');
  for (;;) {
    try {
      process.kill(service.pid, 0);
    } catch (error) {
      assert.equal(systemErrorCode(error), 'ESRCH');
      return;
    }
    await delay(20);
  }
}

/** A disk with content that does not compress, and room after it. */
async function rawDisk(path: string, seed: number): Promise<Buffer> {
  const content = Buffer.alloc(8 * MIB);
  let state = seed;
  for (let at = 0; at < 2 * MIB; at += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    content.writeUInt32LE(state, at);
  }
  await writeFile(path, content);
  return content;
}

test(
  'an NBD export is backed up, listed, exported, restored, deleted and brought back',
  async (t) => {
    const { directory, run, ask, start } = await operator(t);
    const disk = join(directory, 'disk.raw');
    const first = await rawDisk(disk, 1);
    const socket = join(directory, 'nbd');
    t.use(new LiveProcess(['nbdkit', '-f', '-U', socket, 'file', disk]));
    while ((await stat(socket).catch(() => undefined)) === undefined) await delay(20);
    const uri = `nbd+unix:///?socket=${socket}`;

    const full = await ask<BackupReport>('backup', uri, '--name', 'mail');
    assert.deepEqual([full.machine, full.kind, full.disks[0]?.sizeBytes], ['mail', 'full', 8 * MIB]);
    const second = await rawDisk(disk, 2);
    const scan = await ask<BackupReport>('backup', uri, '--name', 'mail');
    assert.equal(scan.kind, 'full-scan');
    const points = await ask<PointSummary[]>('points', 'mail');
    assert.deepEqual(points.map((point) => point.id).sort(), [full.point, scan.point].sort());

    assert.equal((await run('restore', 'mail@-1', '--to', join(directory, 'first.raw'))).exitCode, 0);
    assert.ok((await readFile(join(directory, 'first.raw'))).equals(first));
    const again = await run('restore', 'mail@-1', '--to', join(directory, 'first.raw'));
    assert.equal(again.exitCode, EXIT_CODES.usage);
    assert.match(again.stderr, /^error TARGET_EXISTS: /);

    const exporting = start('export', 'mail@latest', '--json');
    await exporting.until(({ stdout }) => stdout.includes('\n}\n'));
    const report = JSON.parse(exporting.stdout) as ExportReport;
    const copy = await new LiveProcess(['nbdcopy', report.uri, join(directory, 'copy.raw')]).result;
    assert.equal(copy.exitCode, 0, copy.stderr);
    assert.ok((await readFile(join(directory, 'copy.raw'))).equals(second));
    exporting.kill('SIGINT');
    assert.equal((await exporting.result).exitCode, 0);

    assert.equal((await run('delete', full.point)).exitCode, EXIT_CODES.usage);
    await ask('delete', full.point, '--yes');
    assert.equal((await run('point', 'show', full.point)).exitCode, EXIT_CODES.notFound);
    await ask('undelete', full.point);
    await ask('point', 'show', full.point);
    await ask('gc');
    await ask('catalog', 'rebuild');
    await ask('check', '--read-data');
    assert.equal((await ask<PointSummary[]>('points')).length, 2);
  },
  { requires: ['nbdkit', 'nbdcopy'] },
);

test(
  'a machine is listed, backed up, booted by a service in the background, and stopped',
  async (t) => {
    const rig = await startLibvirt(t);
    const domain = await definePlainMachine(rig, 'web');
    const { state, ask, run } = await operator(t);
    const connect = ['--connect', rig.libvirt.uri];
    const machines = await ask<MachineSummary[]>('machine', 'list', ...connect);
    assert.deepEqual(
      machines.map(({ name, points }) => [name, points]),
      [['web', 0]],
    );
    await domain.start();
    const { point } = await ask<BackupReport>('backup', 'web', ...connect);

    const boot = await run('boot', 'web@latest', '--as', 'web-test', '--json', ...connect);
    assert.equal(boot.exitCode, 0, boot.stdout + boot.stderr);
    assert.match(boot.stderr, /started `understudy serve` in the background/);
    const report = JSON.parse(boot.stdout) as BootReport;
    assert.deepEqual([report.name, report.point], ['web-test', point]);
    const booted = await ask<BootedMachine[]>('booted');
    assert.deepEqual(
      booted.map(({ name, state: running }) => [name, running]),
      [['web-test', 'running']],
    );
    const refused = await run('delete', point, '--yes');
    assert.deepEqual([refused.exitCode, refused.stderr.split(':')[0]], [EXIT_CODES.busy, 'error POINT_IN_USE']);

    assert.equal((await run('stop', 'web-test', '--discard')).exitCode, 0);
    assert.deepEqual(await ask('booted'), []);
    assert.notEqual(await findService(state), undefined);
    const names = (await ask<MachineSummary[]>('machine', 'list', ...connect)).map(({ name }) => name);
    assert.deepEqual(names, ['web']);
  },
  { requires: LIBVIRT_REQUIREMENTS },
);

test(
  'a policy protects machines that come, says who is protected, and lets go what its rule does not keep',
  async (t) => {
    const rig = await startLibvirt(t);
    await definePlainMachine(rig, 'web-1');
    const other = await definePlainMachine(rig, 'other');
    const { ask, run, directory } = await operator(t);
    const connect = ['--connect', rig.libvirt.uri];
    await ask('hypervisor', 'add', 'lab', rig.libvirt.uri);
    for (let n = 0; n < 2; n++) await ask('backup', 'web-1', ...connect);

    await other.start();
    const frozen = await run('backup', 'other', '--quiesce', 'always', ...connect);
    assert.match(frozen.stderr, /^error NOT_QUIESCED: other was not frozen: it has no channel of the guest agent/);
    const wishes = ['--machine', 'web-*', '--schedule', 'every 1m', '--quiesce', 'always', '--keep-last', '1'];
    const refused = await run('policy', 'create', 'web', ...wishes);
    assert.match(refused.stderr, /error CONFIRMATION_NEEDED: 1 recovery points of web-1/, refused.stdout);
    const policy = await run('policy', 'create', 'web', ...wishes, '--shorten', '--json');
    assert.equal(policy.exitCode, 0, policy.stderr);
    const pointsOf = async (name: string): Promise<PointSummary[]> =>
      (await ask<PointSummary[]>('points')).filter(({ machine }) => machine === name);
    while ((await pointsOf('web-1')).length !== 1) await delay(100);

    const machines = (await ask<MachineSummary[]>('machine', 'list')).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    assert.deepEqual(
      machines.map(({ name, policy: has, isOverdue }) => [name, has, isOverdue]),
      [
        ['other', null, false],
        ['web-1', 'web', false],
      ],
    );
    await definePlainMachine(rig, 'web-2');
    await ask('policy', 'set', 'web', '--priority', '1');
    while ((await pointsOf('web-2')).length === 0) await delay(100);
    const { machines: inOrder, unprotected, isRunning } = await ask<ScheduleReport>('schedule');
    const planned = inOrder.toSorted((a, b) => (a.machine < b.machine ? -1 : 1));
    assert.deepEqual(
      planned.map(({ machine, policy: has }) => [machine, has]),
      [
        ['web-1', 'web'],
        ['web-2', 'web'],
      ],
    );
    assert.deepEqual([unprotected.map(({ machine }) => machine), isRunning], [['other'], true]);
    assert.deepEqual(await pointsOf('other'), []);
    const { startedBy } =
      (await ask<RunSummary[]>('runs', 'list')).find(({ operation }) => operation === 'backup') ?? {};
    assert.deepEqual([startedBy?.kind, startedBy?.id], ['policy', 'web'], directory);
    await ask('policy', 'delete', 'web', '--yes');
    assert.deepEqual((await ask<ScheduleReport>('schedule')).machines, []);
  },
  { requires: LIBVIRT_REQUIREMENTS },
);

test('a repository is taken over with its recovery key, and not with another one', async (t) => {
  const { directory, ask } = await operator(t);
  const made = await ask<{ repository: string; recoveryKey: string }>('init', '--state', join(directory, 'one'));
  const env = { ...process.env, UNDERSTUDY_STATE: join(directory, 'two') };
  const takeOver = (key: string): Promise<ProcessResult> =>
    new LiveProcess([process.execPath, SCRIPT, 'init', '--from', made.repository], {
      ...env,
      UNDERSTUDY_RECOVERY_KEY: key,
    }).result;
  const wrong = made.recoveryKey.replace(/^./, (first) => (first === 'A' ? 'B' : 'A'));
  assert.equal((await takeOver(wrong)).exitCode, EXIT_CODES.key);
  assert.equal((await takeOver(made.recoveryKey)).exitCode, 0);
  await ask('status', '--state', join(directory, 'two'));
});

test('a reader that goes away early is no error', async (t) => {
  const { state } = await operator(t);
  const command = '"$0" "$1" status --json --state "$2" | true; exit ${PIPESTATUS[0]}';
  const piped = new LiveProcess(['bash', '-c', command, process.execPath, SCRIPT, state]);
  assert.deepEqual(await piped.result.then(({ exitCode, stderr }) => [exitCode, stderr]), [0, '']);
});

test('without a state directory every command says what to do', async (t) => {
  const directory = await t.tempDir();
  for (const line of ['points', 'status', 'backup web', 'boot web@latest', 'serve', 'gc']) {
    const words = [...line.split(' '), '--state', join(directory, 'missing')];
    const { exitCode, stderr } = await new LiveProcess([process.execPath, SCRIPT, ...words]).result;
    assert.equal(exitCode, EXIT_CODES.notFound, line);
    assert.match(stderr, /^error REPOSITORY_NOT_FOUND: .*\nhint: .*understudy init/m, line);
  }
});
