// SPDX-License-Identifier: Apache-2.0
// time limit: 900 s
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { BackupReport } from '../../appliance/api/operations.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { ApplianceProcess, assertSameBytes, errorOf } from '../support/appliance-process.ts';
import { GUEST_REQUIREMENTS, LIBVIRT_REQUIREMENTS, startGuest, startLibvirt } from '../support/machines.ts';
import { stopProcess } from '../support/process-state.ts';
import { suite } from '../support/suite.ts';
import { DISK_BYTES, Scene } from './mid-backup-scene.ts';

const execute = promisify(execFile);
const MIB = 1024 * 1024;

const test = suite('machines and hypervisors that go away in mid-backup', {
  requires: LIBVIRT_REQUIREMENTS,
  timeoutMs: 240_000,
});

test('libvirtd is killed and started again: no point, and the next backup ends the job that was left', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  await scene.rig.libvirt.killDaemon();
  await scene.rig.libvirt.startDaemon();
  await scene.endsWith(running, ['LIBVIRT_CONNECTION_LOST'], 1);
  await scene.rig.connection.close();
  const connection = t.use(await LibvirtConnection.open(scene.rig.libvirt.uri));
  const domain = await connection.domainByName('web');
  const next = await scene.assertRecovers(first, ['incremental', 'full-scan'], domain);
  assert.equal(next.kind, 'incremental', next.reason);
  await domain.destroy();
});

test('the machine is destroyed: DOMAIN_GONE, no point, and the next backup is right', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  await scene.domain.destroy();
  await scene.endsWith(running, ['DOMAIN_GONE'], 1);
  await scene.domain.start();
  await scene.guestWrite('write -P 77 45M 1M');
  await scene.assertRecovers(first, ['incremental', 'full-scan']);
  await scene.domain.destroy();
});

test('QEMU is killed: no point, and the bitmap that was lost with it means a full scan', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const running = await scene.halfBackup();
  const [pid] = await scene.rig.libvirt.qemuPids();
  process.kill(pid ?? 0, 'SIGKILL');
  await scene.endsWith(running, ['DOMAIN_GONE'], 1);
  await scene.domain.start();
  await scene.guestWrite('write -P 78 45M 1M');
  await scene.assertRecovers(first, ['full-scan']);
  await scene.domain.destroy();
});

test(
  'the guest shuts itself down: DOMAIN_GONE, and the next backup is taken from its images',
  async (t) => {
    const rig = await startLibvirt(t);
    const { domain, console, diskPath } = await startGuest(t, rig, 'shut', { hasAgent: false });
    const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
    await appliance.ask('init');
    const words = ['backup', 'shut', '--connect', rig.libvirt.uri, '--json'];
    await appliance.ask(...words.slice(0, -1));
    const write = await console.run('dd if=/dev/urandom of=/data/noise bs=1M count=30 && sync', { timeoutMs: 60_000 });
    assert.equal(write.status, 0, write.output);
    const running = appliance.start(...words);
    await appliance.untilStaged(running, MIB);
    await stopProcess(running.pid);
    const becomes = async (state: string): Promise<void> => {
      while ((await domain.state()).state !== state) await delay(50);
    };
    void console.run('umount /data; poweroff -f').catch(() => undefined);
    await becomes('shutting-down');
    running.kill('SIGCONT');
    errorOf(await running.result, 'DOMAIN_GONE');
    // libvirt 9 holds a machine with a backup job in this state for 30 s for each of its ports.
    await becomes('shut-off');
    const next = await appliance.ask<BackupReport>(...words.slice(0, -1));
    assert.equal(next.consistency, 'file-system-consistent');
    const raw = join(rig.libvirt.directory, 'expected.raw');
    await execute('qemu-img', ['convert', '-O', 'raw', diskPath, raw]);
    assertSameBytes(await appliance.restored(next.point), await readFile(raw), `the next point (${next.reason})`);
  },
  { requires: GUEST_REQUIREMENTS },
);

test('a disk that is resized is refused by the hypervisor, or the backup fails: never a wrong point', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const before = await scene.expected();
  const running = await scene.halfBackup();
  const resized = scene.domain.blockResize('vda', DISK_BYTES + 8 * MIB).then(
    () => true,
    () => false,
  );
  // libvirt lets the caller wait while the job runs.
  running.kill('SIGCONT');
  const { exitCode, stdout, stderr } = await running.result;
  const isResized = await resized;
  const report = JSON.parse(stdout) as BackupReport & { error?: { code: string } };
  if (exitCode === 0) assertSameBytes(await scene.appliance.restored(report.point), before, 'the point');
  else assert.deepEqual([report.error?.code, isResized], ['SOURCE_CHANGED', true], stdout + stderr);
  await scene.assertRecovers(first, ['incremental', 'full-scan']);
  await scene.domain.destroy();
});
