// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport } from '../../appliance/api/operations.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import { consoleOf, GUEST_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';

/* Two hypervisors that share the disks. As an ordinary user's, they cannot know that they are on one host. */
const test = suite('live migration', { requires: [...GUEST_REQUIREMENTS, 'virsh'], timeoutMs: 150_000 });
const MIB = 1024 * 1024;
const POLL_MS = 100;

async function protection(appliance: ApplianceProcess): Promise<ProtectionReport> {
  const [report] = await appliance.ask<ProtectionReport[]>('protection');
  assert.ok(report);
  return report;
}

async function until(appliance: ApplianceProcess, state: string): Promise<ProtectionReport> {
  for (;;) {
    const report = await protection(appliance);
    if (report.state === state) return report;
    await delay(POLL_MS);
  }
}

test('a protected machine is let go of, migrates while it runs, and is protected again where it is, with the gap shown', async (t) => {
  const [one, two] = [await startLibvirt(t), await startLibvirt(t)];
  const shared = await t.tempDir();
  const [data, plain] = [join(shared, 'data.qcow2'), join(shared, 'plain.qcow2')];
  await createDataDisk({ path: data, sizeBytes: 32 * MIB, format: 'qcow2' });
  await createImage({ location: plain, format: 'qcow2' }, { sizeBytes: 32 * MIB });
  const image = await guestImage();
  const domain = await one.connection.define(
    guestDomainXml({
      name: 'web',
      image,
      acceleration: await probeAcceleration(image),
      disks: [
        { path: data, format: 'qcow2', target: 'vda', serial: 'DATA-1' },
        { path: plain, format: 'qcow2', target: 'vdb', serial: 'DATA-2' },
      ],
    }),
  );
  await domain.start();
  const shell = await consoleOf(t, one.libvirt, domain);
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  await appliance.serve();
  await appliance.ask('protect', 'web', '--continuous', '--connect', one.libvirt.uri);
  await until(appliance, 'protected');
  const md5 = 'sync; echo 3 > /proc/sys/vm/drop_caches; md5sum < /dev/vdb';
  await shell.expect('dd if=/dev/urandom of=/dev/vdb bs=1M count=3 oflag=direct 2>/dev/null');
  const before = await shell.expect(md5);

  const migrate = ['-c', one.libvirt.uri, 'migrate', 'web', two.libvirt.uri, '--live', '--p2p', '--unsafe'];
  // Cache modes and shared directories are for the operator to judge.
  migrate.push('--persistent', '--undefinesource', '--migrateuri', `unix://${join(shared, 'migration')}`);
  await assert.rejects(runTool('virsh', migrate), /active block job/);
  await appliance.ask('protection', '--pause', 'web');
  assert.equal((await protection(appliance)).state, 'paused');
  const between = new Date(systemClock.nowMs()).toISOString();
  await shell.expect('dd if=/dev/urandom of=/dev/vdb bs=1M seek=5 count=2 oflag=direct 2>/dev/null');
  await shell.close();
  await runTool('virsh', migrate, { timeoutMs: 60_000 });
  await appliance.ask('protection', '--resume', 'web');
  const away = await until(appliance, 'paused');
  assert.match(away.reason, /not defined any more.*understudy protect/);

  await appliance.ask('protect', 'web', '--continuous', '--connect', two.libvirt.uri);
  const back = await until(appliance, 'protected');
  assert.equal(back.connect, two.libvirt.uri);
  assert.equal(back.gaps.length, 1, JSON.stringify(back.gaps));
  const there = await consoleOf(t, two.libvirt, await two.connection.domainByName('web'));
  await there.expect('dd if=/dev/urandom of=/dev/vdb bs=1M seek=9 count=1 oflag=direct 2>/dev/null');
  const after = await there.expect(md5);
  assert.equal(await md5Of(appliance, 'web@latest'), after.slice(0, 32));
  await appliance.refused('MOMENT_IN_GAP', 'point', 'show', `web@${between}`);
  assert.equal(await md5Of(appliance, `web@${back.gaps[0]?.from}`), before.slice(0, 32));
});

async function md5Of(appliance: ApplianceProcess, state: string): Promise<string> {
  return createHash('md5')
    .update(await appliance.restored(state, '--disk', 'vdb'))
    .digest('hex');
}
