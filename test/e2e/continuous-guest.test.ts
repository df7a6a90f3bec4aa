// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport, UnprotectReport } from '../../appliance/api/operations.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import { consoleOf, GUEST_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('a guest under continuous protection', { requires: GUEST_REQUIREMENTS, timeoutMs: 180_000 });
const MIB = 1024 * 1024;
const SECTOR = 512;
const POLL_MS = 50;

/** Numbers the sectors of the second disk, one after the other, each written through before the next. */
const WRITER = `cat > /tmp/writer <<'EOF'
i=0
while [ -e /tmp/go ]; do
  i=$((i + 1))
  printf '%0512d' $i | dd of=/dev/vdb bs=512 seek=$i conv=notrunc,fsync 2>/dev/null || echo $i > /tmp/failed
  echo $i > /tmp/done
done
EOF
touch /tmp/go; sh /tmp/writer > /dev/null 2>&1 &`;

interface Scene {
  readonly rig: LibvirtRig;
  readonly domain: Domain;
  readonly appliance: ApplianceProcess;
  readonly uri: string;
}

async function makeScene(t: TestContext): Promise<Scene> {
  const rig = await startLibvirt(t);
  const { directory } = rig.libvirt;
  const image = await guestImage();
  const [vda, vdb] = [join(directory, 'vda.qcow2'), join(directory, 'vdb.qcow2')];
  await createDataDisk({ path: vda, sizeBytes: 64 * MIB, format: 'qcow2', files: { hello: 'world' } });
  await createImage({ location: vdb, format: 'qcow2' }, { sizeBytes: 32 * MIB });
  const acceleration = await probeAcceleration(image);
  const disks = [
    { path: vda, format: 'qcow2', target: 'vda' },
    { path: vdb, format: 'qcow2', target: 'vdb' },
  ] as const;
  const domain = await rig.connection.define(
    guestDomainXml({ name: 'web', image, acceleration, disks, restartsOnReset: true }),
  );
  await domain.start();
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  return { rig, domain, appliance, uri: rig.libvirt.uri };
}

async function protection({ appliance }: Scene): Promise<ProtectionReport> {
  const [report] = await appliance.ask<ProtectionReport[]>('protection');
  assert.ok(report !== undefined);
  return report;
}

async function until(scene: Scene, state: string): Promise<ProtectionReport> {
  for (;;) {
    const report = await protection(scene);
    if (report.state === state) return report;
    await delay(POLL_MS);
  }
}

/** The last number of an unbroken row of numbered sectors. */
function lastNumber(disk: Buffer): number {
  let number = 0;
  for (let at = SECTOR; at < disk.length; at += SECTOR) {
    const text = disk.toString('latin1', at, at + SECTOR);
    if (text !== String(number + 1).padStart(SECTOR, '0')) break;
    number += 1;
  }
  const rest = disk.subarray((number + 1) * SECTOR);
  assert.ok(
    rest.every((byte) => byte === 0),
    `a sector behind ${number} was written, and one before it was not`,
  );
  return number;
}

async function doneNumber(shell: GuestConsole): Promise<number> {
  return Number((await shell.expect('cat /tmp/done')).trim());
}

test('acknowledged writes outlive a kill of the service, the guest runs on, and the gap is shown', async (t) => {
  const scene = await makeScene(t);
  const { appliance, domain, rig, uri } = scene;
  const service = await appliance.serve();
  const shell = await consoleOf(t, rig.libvirt, domain);
  await appliance.ask('protect', 'web', '--continuous', '--connect', uri);
  await until(scene, 'protected');
  await shell.expect(WRITER);
  while ((await doneNumber(shell).catch(() => 0)) < 200) await delay(POLL_MS);
  const acknowledged = await doneNumber(shell);
  service.child.kill('SIGKILL');
  await service.result;
  const atKill = await doneNumber(shell);
  while ((await doneNumber(shell)) < atKill + 50) await delay(POLL_MS);
  await using again = await appliance.serve();
  const report = await until(scene, 'protected');
  const [gap, copying] = report.gaps;
  assert.deepEqual([report.gaps.length, gap?.reason, report.resync?.kind], [2, 'interrupted', 'bitmap']);
  assert.ok(gap !== undefined && copying !== undefined);
  const caughtUp = lastNumber(await appliance.restored(`web@${copying.from}`, '--disk', 'vdb'));
  assert.ok(caughtUp >= atKill + 50, `caught up to ${caughtUp}`);
  const atEnd = await appliance.restored(`web@${gap.from}`, '--disk', 'vdb');
  assert.ok(lastNumber(atEnd) >= acknowledged, `${lastNumber(atEnd)} of ${acknowledged} acknowledged`);
  await shell.expect('rm /tmp/go; sleep 1');
  const last = await doneNumber(shell);
  const { point } = await appliance.ask<UnprotectReport>('unprotect', 'web');
  assert.ok(point !== null);
  assert.equal(lastNumber(await appliance.restored(point, '--disk', 'vdb')), last);
  assert.equal((await shell.run('cat /tmp/failed')).status, 1, 'no write of the guest failed');
  assert.equal((await domain.state()).state, 'running');
  again.child.kill('SIGTERM');
  await again.result;
  await domain.destroy();
});

test('reboot, shutdown and start of a guest', async (t) => {
  const scene = await makeScene(t);
  const { appliance, domain, rig, uri } = scene;
  const service = await appliance.serve();
  const first = await consoleOf(t, rig.libvirt, domain);
  await appliance.ask('protect', 'web', '--continuous', '--connect', uri);
  await until(scene, 'protected');
  await first.expect('touch /tmp/of-this-run');
  await first.close();
  await domain.monitorCommand({ execute: 'system_reset' });
  const second = await consoleOf(t, rig.libvirt, domain);
  assert.equal((await second.run('cat /tmp/of-this-run')).status, 1, 'it was reset');
  assert.deepEqual([(await until(scene, 'protected')).gaps], [[]]);
  await second.close();
  await domain.shutdown();
  const paused = await until(scene, 'paused');
  assert.match(paused.gaps[0]?.reason ?? '', /the machine (was|is) shut/);
  await domain.start();
  const shell = await consoleOf(t, rig.libvirt, domain);
  await until(scene, 'protected');
  await shell.expect('echo after > /data/after; sync');
  const report = await protection(scene);
  assert.deepEqual(
    [report.rpoMs, report.gaps.length, report.resync?.kind],
    [0, 2, 'bitmap'],
    report.resync?.reason ?? '',
  );
  await appliance.ask('unprotect', 'web');
  service.child.kill('SIGTERM');
  await service.result;
  await domain.destroy();
});
