// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, patternedDisk, type Rig, readAll, Watched } from './fixture.ts';

const test = suite('recover service');
const SIZE = 4 * 1024 * 1024;

async function serviceRig(t: TestContext): Promise<Rig & { readonly service: RecoverService }> {
  const rig = await makeRig(t, { isEncrypted: false });
  const connectLibvirt = (uri: string): Promise<never> =>
    Promise.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', `nothing answers at ${uri}`));
  return { ...rig, service: t.use(await RecoverService.open({ ...rig.parts, connectLibvirt })) };
}

test('a restore holds its point for as long as it runs, also when it fails', async (t) => {
  const { fixture, service, directory } = await serviceRig(t);
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 1) } });
  const watched = new Watched();
  const seen: string[][] = [];
  watched.onEach = () => seen.push(service.usedBy(point.id));
  const request = { point, to: join(directory, 'restored'), connect: 'qemu:///system' };
  const report = await service.restore(request, watched);
  assert.equal(report.machine, null);
  assert.deepEqual(report.changes, []);
  assert.ok(seen.length > 0 && seen.every((users) => users.join() === 'restore'));
  assert.deepEqual(service.usedBy(point.id), []);
  await assert.rejects(service.restore(request, watched), { code: 'TARGET_EXISTS' });
  assert.deepEqual(service.heldPoints(), []);
});

test('a point can be read as a device, and disks that it does not have cannot', async (t) => {
  const { fixture, service } = await serviceRig(t);
  const disk = await patternedDisk(SIZE, 2);
  const point = await fixture.addPoint({ disks: { vda: disk } });
  await using device = service.openPointDevice(point);
  assert.ok((await readAll(device)).equals(await readAll(disk)));
  assert.throws(() => service.openPointDevice(point, 'vdb'), { code: 'DISK_NOT_FOUND' });
});

test('without libvirt exports and restores of disks work, and machines say what is missing', async (t) => {
  const { fixture, service, directory } = await serviceRig(t);
  const point = await fixture.addPoint({
    disks: { vda: await patternedDisk(SIZE, 3) },
    attachments: { 'domain.xml': Buffer.from('<domain><name>web</name><uuid>x</uuid><devices/></domain>') },
  });
  const base = { point, connect: 'qemu:///system' };
  await assert.rejects(service.boot(base, new Watched()), { code: 'LIBVIRT_CONNECT_FAILED' });
  await assert.rejects(service.restore({ ...base, as: 'web2' }, new Watched()), { code: 'LIBVIRT_CONNECT_FAILED' });
  await assert.rejects(service.restore({ ...base, inPlace: true }, new Watched()), { code: 'LIBVIRT_CONNECT_FAILED' });
  assert.deepEqual(await service.booted(), []);
  assert.deepEqual(service.heldPoints(), []);
  const { id } = await service.export({ point, socket: join(directory, 'own.sock'), writable: true });
  assert.deepEqual(
    service.exports().map((open) => open.id),
    [id],
  );
});

test('closing ends every export', async (t) => {
  const { fixture, service, parts } = await serviceRig(t);
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 4) } });
  await service.export({ point });
  await service.export({ point, writable: true });
  await service.close();
  assert.deepEqual(service.exports(), []);
  assert.deepEqual(parts.nbd.exports(), []);
  assert.deepEqual(service.heldPoints(), []);
});
