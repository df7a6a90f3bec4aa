// SPDX-License-Identifier: Apache-2.0
// time limit: 900 s
import assert from 'node:assert/strict';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupReport } from '../../appliance/api/operations.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { assertSameBytes } from '../support/appliance-process.ts';
import { LIBVIRT_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { Scene } from './mid-backup-scene.ts';

const test = suite('an appliance that is killed in mid-backup', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 180_000 });

test('the appliance is killed: the next run ends its job, deletes its checkpoint, and is right', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  const base = await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  running.kill('SIGKILL');
  await running.result;
  await scene.guestWrite('write -P 55 2M 1M');
  assert.match(await scene.domain.backupXml(), /<domainbackup/, 'the job outlives the appliance');
  assert.equal((await scene.domain.checkpoints()).length, 2);
  const next = await scene.assertRecovers(first, ['incremental']);
  assert.match(next.notices.join(), /interrupted run/);
  assert.deepEqual(
    (await scene.appliance.points()).map(({ id }) => id),
    [next.point, base.point],
  );
  await scene.domain.destroy();
});

test('the appliance is killed and the machine stops before the next run: nothing of the dead job stays', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  running.kill('SIGKILL');
  await running.result;
  await scene.domain.destroy();
  await scene.assertRecovers(first, ['incremental', 'full-scan']);
  await scene.domain.start();
  await scene.guestWrite('write -P 56 2M 1M');
  await scene.assertRecovers(first, ['incremental', 'full-scan']);
  await scene.domain.destroy();
});

test('the appliance is killed while it reads a shut-off machine: its next start frees the disk, nothing stays behind', async (t) => {
  const scene = await Scene.create(t, 'shut-off');
  const first = await scene.expected();
  await scene.backup();
  await scene.domain.start();
  await scene.fill();
  await scene.domain.destroy();
  const running = await scene.halfBackup();
  running.kill('SIGKILL');
  await running.result;
  await scene.appliance.points();
  await scene.domain.start();
  await scene.guestWrite('write -P 57 2M 1M');
  await scene.assertRecovers(first, ['full-scan']);
  await scene.domain.destroy();
});

test('a shut-off machine that is started during its backup cannot make a wrong point', async (t) => {
  const scene = await Scene.create(t, 'shut-off');
  const first = await scene.expected();
  await scene.backup();
  await scene.domain.start();
  await scene.fill();
  await scene.domain.destroy();
  const before = await scene.expected();
  const running = await scene.halfBackup();
  const started = await scene.domain.start().then(
    () => true,
    () => false,
  );
  if (started) {
    // Also when it has stopped again before the appliance looks.
    await scene.guestWrite('write -P 58 2M 1M');
    await scene.guestWrite('write -P 58 43M 1M');
    await scene.domain.destroy();
  }
  running.kill('SIGCONT');
  const { exitCode, stdout, stderr } = await running.result;
  const report = JSON.parse(stdout) as BackupReport & { error?: { code: string } };
  if (exitCode === 0) assertSameBytes(await scene.appliance.restored(report.point), before, 'the point');
  else assert.equal(report.error?.code, 'SOURCE_CHANGED', stdout + stderr);
  await scene.assertRecovers(first, ['incremental', 'full-scan']);
});

test('power fails in mid-backup: the scratch file that libvirt forgot goes with the next run', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  const [pid] = await scene.rig.libvirt.qemuPids();
  await scene.rig.libvirt.killDaemon();
  process.kill(pid ?? 0, 'SIGKILL');
  running.kill('SIGKILL');
  await running.result;
  const { directory } = scene.rig.libvirt;
  const stray = (await readdir(directory)).filter((name) => name.includes('scratch'));
  assert.equal(stray.length, 1);
  // What libvirt knows of running machines lies in memory on a real host.
  await rm(join(directory, 'r', 'libvirt', 'qemu', 'run'), { recursive: true });
  await writeFile(join(directory, '.other-vda.qcow2.0123456789abcdef.scratch'), 'of another machine');
  await scene.rig.libvirt.startDaemon();
  await scene.rig.connection.close();
  const connection = t.use(await LibvirtConnection.open(scene.rig.libvirt.uri));
  const domain = await connection.domainByName('web');
  await domain.start();
  const next = await scene.backup();
  assert.equal(next.kind, 'full-scan', next.reason);
  const left = (await readdir(directory)).filter((name) => name.includes('scratch'));
  assert.deepEqual(left, ['.other-vda.qcow2.0123456789abcdef.scratch']);
  assertSameBytes(await scene.appliance.restored(next.point), await scene.expected(), 'the next point');
  assertSameBytes(await scene.appliance.restored('web@-1'), first, 'the first point');
  await domain.destroy();
});
