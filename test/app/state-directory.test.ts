// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PointSummary } from '../../appliance/api/operations.ts';
import type { CheckReport, StatusReport } from '../../appliance/api/schemas/repository.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceProcess, assertSameBytes, errorOf } from '../support/appliance-process.ts';
import { LiveProcess, type ProcessResult } from '../support/live-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { PointsRig } from './points-rig.ts';

const test = suite('state directory and repository', { timeoutMs: 120_000 });
const SCRIPT: string = new URL('../../appliance/cli.ts', import.meta.url).pathname;

function takeOver(t: TestContext, state: string, from: string, recoveryKey: string): Promise<ProcessResult> {
  const env = { ...process.env, UNDERSTUDY_STATE: state, UNDERSTUDY_RECOVERY_KEY: recoveryKey };
  return t.use(new LiveProcess([process.execPath, SCRIPT, 'init', '--from', from, '--json'], env)).result;
}

/** Two letters of the key changed places with others: as long, as well formed, and wrong. */
function otherKey(key: string): string {
  return key.replace(/^./, (first) => (first === 'A' ? 'B' : 'A'));
}

test('a second command waits, and is then refused with the process that holds the state directory', async (t) => {
  const rig = await PointsRig.create(t);
  const { point } = await rig.addPoint();
  const holder = rig.appliance.start('export', point, '--json');
  await holder.until(({ stdout }) => stdout.includes('\n}\n'));
  for (const words of [['points'], ['gc', '--now'], ['delete', point, '--yes', '--now'], ['serve']]) {
    const error = await rig.appliance.refused('LOCKED', ...words);
    assert.deepEqual([error.exitCode, error.details['pid']], [EXIT_CODES.busy, holder.pid], words.join(' '));
  }
  holder.kill('SIGINT');
  assert.equal((await holder.result).exitCode, 0);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('commands go through a service, at the same time, and a second service is refused', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const service = await rig.appliance.serve();
  assert.equal((await rig.appliance.refused('LOCKED', 'serve')).exitCode, EXIT_CODES.busy);
  const results = await Promise.all([
    rig.appliance.run('backup', rig.uri, '--name', 'mail', '--json'),
    rig.appliance.run('backup', rig.uri, '--name', 'other', '--json'),
    rig.appliance.run('check', '--read-data', '--json'),
    rig.appliance.run('points', '--json'),
  ]);
  // One at a time of check and gc: the other is told to wait.
  await rig.appliance.ask('gc');
  for (const { exitCode, stdout, stderr } of results) assert.equal(exitCode, 0, stdout + stderr);
  assert.equal((await rig.appliance.ask<StatusReport>('status')).servicePid, service.pid);
  const points = await rig.appliance.points();
  assert.equal(points.length, 3);
  const content = [...rig.contents.values()].at(-1) ?? Buffer.alloc(0);
  for (const { id } of points) assertSameBytes(await rig.appliance.restored(id), content, id);
  service.kill('SIGTERM');
  assert.equal((await service.result).exitCode, 0, service.stderr);
});

test('two backups of one machine at once: one of them is refused, whoever comes second', async (t) => {
  const rig = await PointsRig.create(t, 24 * 1024 * 1024);
  const service = await rig.appliance.serve();
  const words = ['backup', rig.uri, '--name', 'mail', '--json'];
  const [one, two] = await Promise.all([rig.appliance.run(...words), rig.appliance.run(...words)]);
  const refused = [one, two].filter((result) => result?.exitCode !== 0);
  // They may have come one after the other.
  for (const result of refused) errorOf(result, 'DOMAIN_BUSY');
  assert.equal((await rig.appliance.points()).length, 2 - refused.length);
  service.kill('SIGTERM');
  await service.result;
});

test('a second init is refused and changes nothing', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const key = await readFile(join(rig.appliance.state, 'repository.key'));
  await rig.appliance.refused('REPOSITORY_EXISTS', 'init');
  await rig.appliance.refused('REPOSITORY_EXISTS', 'init', '--from', rig.appliance.repository);
  assert.deepEqual(await readFile(join(rig.appliance.state, 'repository.key')), key);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('init on a state directory whose state.json was lost keeps the working key', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const { state } = rig.appliance;
  const saved = await readFile(join(state, 'state.json'));
  const key = await readFile(join(state, 'repository.key'));
  await rm(join(state, 'state.json'));
  const error = await rig.appliance.refused('REPOSITORY_EXISTS', 'init');
  assert.match(error.hint, /--from/);
  assert.deepEqual(await readFile(join(state, 'repository.key')), key, 'the only key that opens the repository');
  const wrong = await takeOver(t, state, rig.appliance.repository, otherKey(rig.recoveryKey));
  errorOf(wrong, 'REPOSITORY_KEY');
  assert.deepEqual(await readFile(join(state, 'repository.key')), key);
  await writeFile(join(state, 'state.json'), saved);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('an init that dies at any moment can be run again', async (t) => {
  const directory = await t.tempDir();
  for (let n = 0; n < 4; n++) {
    const appliance = new ApplianceProcess(t, join(directory, `state-${n}`));
    const running = appliance.start('init', '--json');
    const awaited = ['repository.key', 'repository/config.json', 'repository/staging', 'state.json'][n] ?? '';
    const isThere = async (): Promise<boolean> =>
      (await readdir(appliance.state, { recursive: true }).catch((): string[] => [])).includes(awaited);
    while (!(await isThere())) await new Promise(setImmediate);
    running.kill('SIGKILL');
    await running.result;
    const again = await appliance.run('init', '--json');
    if (again.exitCode === 0) {
      assert.equal(typeof (JSON.parse(again.stdout) as { recoveryKey: unknown }).recoveryKey, 'string');
    } else {
      // It was done: only then may the second one be refused.
      assert.ok((await readdir(appliance.state)).includes('state.json'), `${awaited}: ${again.stdout}`);
    }
    assert.deepEqual(await appliance.points(), []);
  }
});

test('wrong and missing working keys are refused, and nothing is written', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const path = join(rig.appliance.state, 'repository.key');
  const key = await readFile(path);
  const before = (await readdir(rig.appliance.repository, { recursive: true })).sort();
  for (const wrong of [`${randomBytes(32).toString('base64')}\n`, 'short\n', '', randomBytes(40)]) {
    await writeFile(path, wrong);
    for (const words of [['points'], ['backup', rig.uri, '--name', 'mail'], ['gc', '--now'], ['catalog', 'rebuild']]) {
      assert.equal((await rig.appliance.refused('REPOSITORY_KEY', ...words)).exitCode, EXIT_CODES.key);
    }
  }
  await rm(path);
  assert.equal((await rig.appliance.refused('REPOSITORY_KEY', 'points')).exitCode, EXIT_CODES.key);
  assert.deepEqual((await readdir(rig.appliance.repository, { recursive: true })).sort(), before);
  await writeFile(path, key);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('a damaged state.json is named', async (t) => {
  const rig = await PointsRig.create(t);
  const path = join(rig.appliance.state, 'state.json');
  const saved = await readFile(path);
  for (const content of ['', '{', '{"version":2}', 'null', saved.subarray(0, saved.length / 2)]) {
    await writeFile(path, content);
    const error = await rig.appliance.refused('REPOSITORY_FORMAT', 'points');
    assert.match(error.message, /state\.json/);
  }
});

test('a repository that is not mounted is missed, not made anew', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const { repository } = rig.appliance;
  const away = join(rig.directory, 'away');
  await rename(repository, away);
  const gone = await rig.appliance.refused('REPOSITORY_NOT_FOUND', 'backup', rig.uri, '--name', 'mail');
  assert.equal(gone.exitCode, EXIT_CODES.notFound);
  // What a mount point looks like without its disk.
  await mkdir(repository);
  for (const words of [['backup', rig.uri, '--name', 'mail'], ['points'], ['gc', '--now'], ['catalog', 'rebuild']]) {
    await rig.appliance.refused('REPOSITORY_NOT_FOUND', ...words);
  }
  assert.deepEqual(await readdir(repository), [], 'nothing is written below a mount point');
  await rm(repository, { recursive: true });
  await rename(away, repository);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('another repository in its place is refused, also with the points of this one', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const other = await PointsRig.create(t);
  await other.addPoint();
  await rename(rig.appliance.repository, join(rig.directory, 'away'));
  await cp(other.appliance.repository, rig.appliance.repository, { recursive: true });
  for (const words of [['points'], ['gc', '--now'], ['backup', rig.uri, '--name', 'mail'], ['catalog', 'rebuild']]) {
    const error = await rig.appliance.refused('REPOSITORY_FORMAT', ...words);
    assert.match(error.message, /another repository/);
  }
  await rm(rig.appliance.repository, { recursive: true });
  await rename(join(rig.directory, 'away'), rig.appliance.repository);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('a copy of the repository and the recovery key bring every point back on a new machine', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  await rig.addPoint();
  const copy = join(rig.directory, 'copy');
  await cp(rig.appliance.repository, copy, { recursive: true });
  await rm(rig.appliance.state, { recursive: true });
  const fresh = new ApplianceProcess(t, join(rig.directory, 'fresh'), copy);
  const wrong = errorOf(await takeOver(t, fresh.state, copy, otherKey(rig.recoveryKey)), 'REPOSITORY_KEY');
  assert.equal(wrong.exitCode, EXIT_CODES.key);
  errorOf(await takeOver(t, fresh.state, copy, 'nonsense'), 'REPOSITORY_KEY');
  const done = await takeOver(t, fresh.state, copy, rig.recoveryKey);
  assert.equal(done.exitCode, 0, done.stdout);
  await rig.using((appliance) => rig.assertAllRestore(appliance), fresh.state);
  assert.equal((await fresh.ask<PointSummary[]>('points')).length, 2);
  await fresh.ask('backup', rig.uri, '--name', 'mail');
  assert.equal((await fresh.ask<CheckReport>('check', '--read-data')).ok, true);
});
