// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { compareDevices } from '../../appliance/block/compare-devices.ts';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { openPointDevice } from '../../appliance/recover/point-content.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { type BootRig, MACHINE_ID, makeBootRig, shellOf, startService } from './boot-rig.ts';
import { Watched } from './fixture.ts';

const test = suite('booted machines', { requires: GUEST_REQUIREMENTS, timeoutMs: 120_000 });

async function assertPointUntouched({ directory, point, service }: BootRig): Promise<void> {
  const [disk] = point.disks;
  assert.ok(disk);
  await using original = await openFileDevice(join(directory, 'original.raw'), 'read-only');
  await using current = openPointDevice(service.parts.repository, disk);
  assert.equal(await compareDevices(original, current), undefined);
}

test('a booted machine runs from the point, writes into its own log, and leaves point and original alone', async (t) => {
  const rig = await makeBootRig(t);
  const { connection, libvirt, point, service } = rig;
  const report = await service.machines.boot({ point, connect: libvirt.uri }, new Watched());
  assert.equal(report.name, `web-${point.id.slice(0, 8)}`);
  assert.equal(report.point, point.id);
  assert.notEqual(report.machineId, MACHINE_ID);
  assert.deepEqual(
    report.exports.map(({ disk }) => disk),
    ['vda'],
  );
  const domain = await connection.domainByName(report.name);
  assert.equal(domain.uuid, report.machineId);
  const xml = await domain.xml();
  assert.doesNotMatch(xml, /52:54:00:11:22:33/);
  assert.match(xml, /<link state='down'\/>/);
  assert.match(xml, /error_policy='stop'/);
  assert.deepEqual(service.use.usedBy(point.id), [`booted machine ${report.name}`]);

  const shell = await shellOf(t, domain);
  assert.equal(await shell.expect('cat /data/hello'), 'from the point');
  await shell.expect('echo changed > /data/hello; head -c 3000000 /dev/zero | tr "\\\\0" x > /data/big; sync');
  const [listed] = await service.machines.booted();
  assert.equal(listed?.state, 'running');
  assert.ok((listed?.writtenBytes ?? 0) > 3_000_000);

  const stopped = await service.machines.stop(report.name, true);
  assert.equal(stopped.discarded, true);
  await assert.rejects(connection.domainByName(report.name), { code: 'DOMAIN_NOT_FOUND' });
  assert.deepEqual(await service.machines.booted(), []);
  assert.deepEqual(service.use.heldPoints(), []);
  assert.deepEqual(service.parts.nbd.exports(), []);
  assert.deepEqual(await readdir(join(rig.directory, 'sessions')), []);
  await assertPointUntouched(rig);
});

test('a machine that was stopped and kept goes on from what it had written', async (t) => {
  const rig = await makeBootRig(t);
  const { connection, libvirt, point, service } = rig;
  const request = { point, connect: libvirt.uri, as: 'spare' };
  const first = await service.machines.boot(request, new Watched());
  const shell = await shellOf(t, await connection.domainByName('spare'));
  await shell.expect('echo kept > /data/note; sync');
  const { outcome } = await service.machines.stop('spare', false);
  assert.match(outcome, /kept/);
  await assert.rejects(connection.domainByName('spare'), { code: 'DOMAIN_NOT_FOUND' });
  assert.deepEqual(service.use.usedBy(point.id), ['booted machine spare']);
  assert.equal((await service.machines.booted())[0]?.state, 'kept');

  const again = await service.machines.boot(request, new Watched());
  assert.equal(again.machineId, first.machineId);
  const shellAgain = await shellOf(t, await connection.domainByName('spare'));
  assert.equal(await shellAgain.expect('cat /data/note'), 'kept');
  await service.machines.stop('spare', false);
  const discarded = await service.machines.stop('spare', true);
  assert.equal(discarded.discarded, true);
  assert.deepEqual(await service.machines.booted(), []);
  await assertPointUntouched(rig);
});

test('one point boots twice under different names, each with its own writes', async (t) => {
  const { connection, libvirt, point, service } = await makeBootRig(t);
  await service.machines.boot({ point, connect: libvirt.uri, as: 'one' }, new Watched());
  await service.machines.boot({ point, connect: libvirt.uri, as: 'two' }, new Watched());
  for (const name of ['one', 'two']) {
    const shell = await shellOf(t, await connection.domainByName(name));
    await shell.expect(`echo ${name} > /data/hello; sync; echo 3 > /proc/sys/vm/drop_caches`);
    assert.equal(await shell.expect('cat /data/hello'), name);
  }
  const machines = await service.machines.booted();
  assert.equal(new Set(machines.map(({ machineId }) => machineId)).size, 2);
  for (const name of ['one', 'two']) await service.machines.stop(name, true);
});

test('a name or UUID that is taken is refused, and nothing is changed', async (t) => {
  const { connection, libvirt, point, service, directory } = await makeBootRig(t);
  const other = await connection.define(
    `<domain type="qemu"><name>web</name><uuid>${MACHINE_ID}</uuid><memory unit="MiB">32</memory><os><type>hvm</type></os></domain>`,
  );
  const before = await other.xml({ isInactive: true });
  const boot = (request: { as?: string; keepIdentity?: boolean }): Promise<unknown> =>
    service.machines.boot({ point, connect: libvirt.uri, ...request }, new Watched());
  await assert.rejects(boot({ as: 'web' }), { code: 'DOMAIN_EXISTS' });
  await assert.rejects(boot({ as: 'twin', keepIdentity: true }), { code: 'DOMAIN_EXISTS' });
  await assert.rejects(boot({ as: 'a/b' }), { code: 'BAD_ARGUMENT' });
  await assert.rejects(service.machines.boot({ point, connect: 'qemu+ssh://elsewhere/system' }, new Watched()), {
    code: 'NOT_SUPPORTED',
  });
  assert.equal(await other.xml({ isInactive: true }), before);
  assert.equal((await readdir(directory)).includes('sessions'), false);
  await boot({ as: 'twin' });
  await assert.rejects(boot({ as: 'twin' }), { code: 'DOMAIN_EXISTS' });
  await assert.rejects(service.machines.stop('web', true), { code: 'MACHINE_NOT_FOUND' });
  await service.machines.stop('twin', true);
  assert.equal(await other.xml({ isInactive: true }), before);
});

test('a boot that fails leaves nothing of itself', async (t) => {
  const { connection, libvirt, point, service, directory } = await makeBootRig(t);
  const { fixture } = service;
  const broken = await fixture.addPoint({
    machine: { id: MACHINE_ID, name: 'web' },
    disks: { vda: openPointDevice(fixture.repository, point.disks[0] ?? assert.fail()) },
    attachments: {
      'domain.xml': Buffer.from(
        `<domain type="qemu"><name>web</name><uuid>${MACHINE_ID}</uuid><memory unit="MiB">64</memory>` +
          `<os><type arch="x86_64" machine="q35">hvm</type><kernel>/nonexistent/kernel</kernel></os><devices>` +
          `<disk type="file" device="disk"><source file="/x"/><target dev="vda" bus="virtio"/></disk></devices></domain>`,
      ),
    },
  });
  await assert.rejects(service.machines.boot({ point: broken, connect: libvirt.uri }, new Watched()), {
    code: 'BOOT_FAILED',
  });
  const watched = new Watched();
  watched.onEach = ({ done }) => {
    if (done === 1) watched.abort.abort();
  };
  await assert.rejects(service.machines.boot({ point, connect: libvirt.uri }, watched), { code: 'ABORTED' });
  const bare = await fixture.addPoint({
    disks: { vda: openPointDevice(fixture.repository, point.disks[0] ?? assert.fail()) },
  });
  await assert.rejects(service.machines.boot({ point: bare, connect: libvirt.uri }, new Watched()), {
    code: 'NOT_SUPPORTED',
  });
  assert.deepEqual(await connection.domains(), []);
  assert.deepEqual(await readdir(join(directory, 'sessions')), []);
  assert.deepEqual(service.parts.nbd.exports(), []);
  assert.deepEqual(service.use.heldPoints(), []);
});

test('a guest goes on after the service was away, with everything that it had written', async (t) => {
  const rig = await makeBootRig(t);
  const { connection, libvirt, point, directory } = rig;
  await rig.service.machines.boot({ point, connect: libvirt.uri, as: 'survivor' }, new Watched());
  const domain = await connection.domainByName('survivor');
  const shell = await shellOf(t, domain);
  await shell.expect('echo before > /data/note; sync');
  await rig.service.close();
  const fixture = await rig.service.fixture.reopen();
  // The guest writes while nobody serves its disk.
  const writing = shell.expect('echo during > /data/note; sync; echo 3 > /proc/sys/vm/drop_caches; cat /data/note', {
    timeoutMs: 60_000,
  });
  const paused = await connection.waitForEvent('io-error', (event) => event.name === 'survivor');
  assert.ok(paused);
  const service = await startService(t, directory, fixture, connection);
  assert.deepEqual(service.use.usedBy(point.id), ['booted machine survivor']);
  assert.deepEqual(await service.machines.restoreSessions(), { restored: ['survivor is served again.'], problems: [] });
  assert.equal(await writing, 'during');
  assert.equal((await domain.state()).state, 'running');
  await service.machines.stop('survivor', true);
});
