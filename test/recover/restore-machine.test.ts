// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { identityOf } from '../../appliance/cbt/plan-disks.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { readMarker } from '../../appliance/hypervisor/libvirt/domain-marker.ts';
import { readMachine } from '../../appliance/hypervisor/libvirt/read-machine.ts';
import { QemuNbd } from '../../appliance/hypervisor/qemu-nbd.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import type { RestoreReport, RestoreRequest } from '../../appliance/recover/restore-request.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, type Rig, tool, Watched } from './fixture.ts';

const test = suite('restore of machines', {
  requires: [...LIBVIRT_REQUIREMENTS, 'qemu-io', 'qemu-nbd', 'nbdinfo'],
  timeoutMs: 60_000,
});
const MIB = 1024 * 1024;
const SIZE = 16 * MIB;
const FIRMWARE = '/usr/share/OVMF/OVMF_CODE.fd';
const VARIABLES = '/usr/share/OVMF/OVMF_VARS.fd';

interface MachineRig extends Rig {
  readonly hypervisor: LibvirtRig;
  readonly domain: Domain;
  readonly point: RecoveryPoint;
  readonly service: RecoverService;
  readonly watched: Watched;
  /** The original's images, and raw files of what they held at the point. */
  readonly images: Readonly<Record<'vda' | 'vdb', { path: string; format: string; snapshot: string }>>;
  readonly restore: (request: Omit<RestoreRequest, 'point' | 'connect'>) => Promise<RestoreReport>;
}

/** A machine that is off, with a qcow2 and a raw disk, and a point of it. */
async function machineRig(t: TestContext): Promise<MachineRig> {
  const rig = await makeRig(t);
  const hypervisor = await startLibvirt(t);
  const { libvirt, connection } = hypervisor;
  const domain = await definePlainMachine(hypervisor, 'web', [
    { target: 'vda', format: 'qcow2', sizeBytes: SIZE },
    { target: 'vdb', format: 'raw', sizeBytes: SIZE },
  ]);
  const image = (disk: 'vda' | 'vdb', format: string): MachineRig['images']['vda'] => ({
    path: join(libvirt.directory, `web-${disk}.${format}`),
    format,
    snapshot: join(rig.directory, `${disk}.raw`),
  });
  const images = { vda: image('vda', 'qcow2'), vdb: image('vdb', 'raw') };
  for (const { path, format, snapshot } of Object.values(images)) {
    await io(path, format, 'write -P 0x11 0 3M', 'write -P 0x22 8M 70k', 'write -P 0x33 12M 1M');
    await tool('qemu-img', 'convert', '-f', format, '-O', 'raw', path, snapshot);
  }
  await using vda = await openFileDevice(images.vda.snapshot, 'read-only');
  await using vdb = await openFileDevice(images.vdb.snapshot, 'read-only');
  const machine = await readMachine(connection, domain);
  const point = await rig.fixture.addPoint({
    machine: { id: domain.uuid, name: 'web' },
    disks: { vda, vdb },
    identities: Object.fromEntries(machine.disks.map((disk) => [disk.target, identityOf(disk)])),
    attachments: { 'domain.xml': Buffer.from(await domain.xml({ isSecure: true, isInactive: true })) },
  });
  const service = t.use(await RecoverService.open(rig.parts));
  const watched = new Watched();
  const restore: MachineRig['restore'] = (request) =>
    service.restore({ ...request, point, connect: libvirt.uri }, watched);
  return { ...rig, hypervisor, domain, point, service, watched, images, restore };
}

async function io(path: string, format: string, ...commands: readonly string[]): Promise<void> {
  await tool('qemu-io', '-f', format, ...commands.flatMap((command) => ['-c', command]), path);
}

async function assertSame(raw: string, path: string, format: string): Promise<void> {
  assert.match(await tool('qemu-img', 'compare', '-f', 'raw', '-F', format, raw, path), /identical/);
}

test('a machine is restored as a new one, its disks beside the originals', async (t) => {
  const { hypervisor, images, restore, point, domain } = await machineRig(t);
  const { connection, libvirt } = hypervisor;
  const before = await domain.xml({ isInactive: true });
  const report = await restore({ as: 'web2' });
  assert.equal(report.machine, 'web2');
  assert.deepEqual(
    report.targets.map(({ disk, to, sizeBytes }) => ({ disk, to, sizeBytes })),
    [
      { disk: 'vda', to: join(libvirt.directory, 'web2-vda.qcow2'), sizeBytes: SIZE },
      { disk: 'vdb', to: join(libvirt.directory, 'web2-vdb.raw'), sizeBytes: SIZE },
    ],
  );
  await assertSame(images.vda.snapshot, join(libvirt.directory, 'web2-vda.qcow2'), 'qcow2');
  await assertSame(images.vdb.snapshot, join(libvirt.directory, 'web2-vdb.raw'), 'raw');
  const restored = await connection.domainByName('web2');
  assert.notEqual(restored.uuid, domain.uuid);
  const xml = await restored.xml({ isInactive: true });
  assert.equal(readMarker(xml)?.point, point.id);
  assert.equal((await restored.state()).state, 'shut-off');
  assert.equal(await domain.xml({ isInactive: true }), before);
  await restored.start();
  await restored.destroy();
});

test('a restore as a new machine that fails takes its files with it', async (t) => {
  const { hypervisor, restore, directory, watched, service, point } = await machineRig(t);
  const target = join(directory, 'new');
  await mkdir(target);
  await writeFile(join(target, 'web2-vdb.raw'), 'precious');
  await assert.rejects(restore({ as: 'web2', directory: target }), { code: 'TARGET_EXISTS' });
  assert.deepEqual(await readdir(target), ['web2-vdb.raw']);
  await assert.rejects(restore({ as: 'web' }), { code: 'DOMAIN_EXISTS' });
  await assert.rejects(restore({ as: 'a/b' }), { code: 'BAD_ARGUMENT' });
  watched.onEach = ({ phase, done }) => {
    if (phase.includes('vdb') && done > 0) watched.abort.abort();
  };
  await assert.rejects(restore({ as: 'web3', directory: target }), { code: 'ABORTED' });
  assert.deepEqual(await readdir(target), ['web2-vdb.raw']);
  assert.equal((await hypervisor.connection.domains()).length, 1);
  assert.deepEqual(service.usedBy(point.id), []);
});

test('a restore in place brings both disks back and writes only what differs', async (t) => {
  const { images, restore, hypervisor } = await machineRig(t);
  await io(images.vda.path, 'qcow2', 'write -P 0xaa 1M 64k', 'write -z 8M 64k', 'write -P 0xbb 15M 128k');
  await io(images.vdb.path, 'raw', 'write -P 0xcc 2M 1M', 'write -P 0xdd 10M 4k');
  const report = await restore({ inPlace: true });
  await assertSame(images.vda.snapshot, images.vda.path, 'qcow2');
  await assertSame(images.vdb.snapshot, images.vdb.path, 'raw');
  assert.equal(report.machine, 'web');
  const written = report.targets.map(({ writtenBytes }) => writtenBytes);
  assert.equal(written[0], 64 * 1024 + 64 * 1024 + 128 * 1024);
  assert.ok((written[1] ?? 0) >= MIB + 4096 && (written[1] ?? 0) < 2 * MIB, `${written[1]} bytes were written`);
  assert.deepEqual(
    (await readdir(hypervisor.libvirt.directory)).filter((name) => name.endsWith('.sock')),
    [],
  );
  const again = await restore({ inPlace: true });
  assert.deepEqual(
    again.targets.map(({ writtenBytes }) => writtenBytes),
    [0, 0],
  );
});

test('dirty bitmaps see a restore in place as writes', async (t) => {
  const { images, restore, directory, hypervisor } = await machineRig(t);
  const { path } = images.vda;
  await io(path, 'qcow2', 'write -P 0xaa 1M 64k');
  await tool('qemu-img', 'bitmap', '--add', '-f', 'qcow2', path, 'since-damage');
  await restore({ inPlace: true, disk: 'vda' });
  const socketPath = join(directory, 'check.sock');
  await using server = await QemuNbd.start({
    path,
    format: 'qcow2',
    socketPath,
    exportName: 'x',
    bitmap: 'since-damage',
  });
  const uri = `nbd+unix:///x?socket=${socketPath}`;
  const dirty = JSON.parse(await tool('nbdinfo', '--json', '--map=qemu:dirty-bitmap:since-damage', uri)) as {
    offset: number;
    length: number;
    type: number;
  }[];
  assert.deepEqual(
    dirty.filter(({ type }) => type === 1).map(({ offset, length }) => ({ offset, length })),
    [{ offset: MIB, length: 64 * 1024 }],
  );
  assert.ok(server);
  assert.equal((await hypervisor.connection.domains()).length, 1);
});

test('a restore in place of one disk leaves the other alone', async (t) => {
  const { images, restore } = await machineRig(t);
  await io(images.vda.path, 'qcow2', 'write -P 0xaa 1M 64k');
  await io(images.vdb.path, 'raw', 'write -P 0xaa 1M 64k');
  await restore({ inPlace: true, disk: 'vdb' });
  await assertSame(images.vdb.snapshot, images.vdb.path, 'raw');
  await assert.rejects(tool('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', images.vda.snapshot, images.vda.path));
});

test('a machine that runs is not restored in place', async (t) => {
  const { domain, restore, images } = await machineRig(t);
  await io(images.vdb.path, 'raw', 'write -P 0xaa 1M 64k');
  await domain.start();
  await assert.rejects(restore({ inPlace: true }), { code: 'DOMAIN_WRONG_STATE' });
  await domain.destroy();
  await assert.rejects(tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', images.vdb.snapshot, images.vdb.path));
});

test('a disk that was replaced, or has become smaller, is not written in place', async (t) => {
  const { domain, restore, images, hypervisor } = await machineRig(t);
  await tool('qemu-img', 'resize', '-q', '--shrink', '-f', 'raw', images.vdb.path, String(SIZE - MIB));
  await io(images.vda.path, 'qcow2', 'write -P 0xaa 1M 64k');
  const before = await readFile(images.vda.path);
  await assert.rejects(restore({ inPlace: true }), { code: 'TARGET_TOO_SMALL' });
  assert.ok((await readFile(images.vda.path)).equals(before));
  const xml = await domain.xml({ isInactive: true });
  await hypervisor.connection.define(xml.replace('web-vdb.raw', 'other.raw'));
  await assert.rejects(restore({ inPlace: true }), { code: 'TARGET_CHANGED' });
  assert.ok((await readFile(images.vda.path)).equals(before));
});

test('a disk that has grown ends in zeroes after a restore in place', async (t) => {
  const { restore, images } = await machineRig(t);
  await tool('qemu-img', 'resize', '-q', '-f', 'qcow2', images.vda.path, String(SIZE + MIB));
  await io(images.vda.path, 'qcow2', `write -P 0xaa ${SIZE} 1M`);
  const { changes } = await restore({ inPlace: true, disk: 'vda' });
  assert.equal(changes.length, 1);
  await assertSame(images.vda.snapshot, images.vda.path, 'qcow2');
});

test('an interrupted restore in place says that the disk is incomplete', async (t) => {
  const { restore, images, watched } = await machineRig(t);
  await io(images.vda.path, 'qcow2', 'write -P 0xaa 0 14M');
  watched.onEach = ({ done }) => {
    if (done > 0) watched.abort.abort();
  };
  await assert.rejects(restore({ inPlace: true }), { code: 'ABORTED' });
  assert.equal(watched.notices.length, 1);
  watched.onEach = () => undefined;
});

test('a request that names no way, or several, is refused', async (t) => {
  const { restore, directory } = await machineRig(t);
  for (const request of [{}, { to: '/x', as: 'web2' }, { as: 'x', inPlace: true }, { to: '/x', directory }]) {
    await assert.rejects(restore(request), { code: 'BAD_ARGUMENT' });
  }
});

test(
  'the variables of the firmware are restored, booted with, and put back in place',
  async (t) => {
    const { fixture, hypervisor, domain, point, service, directory } = await machineRig(t);
    const { connection, libvirt } = hypervisor;
    const variables = await readFile(VARIABLES);
    const nvramPath = join(libvirt.directory, 'web-nvram.fd');
    await writeFile(nvramPath, variables);
    const loader = `<loader readonly="yes" type="pflash">${FIRMWARE}</loader><nvram>${nvramPath}</nvram></os><features><acpi/></features>`;
    await connection.define((await domain.xml({ isInactive: true })).replace('</os>', loader));
    const uefi = await fixture.addPoint({
      machine: { id: domain.uuid, name: 'web' },
      disks: Object.fromEntries(point.disks.map((disk) => [disk.name, service.openPointDevice(point, disk.name)])),
      attachments: { 'domain.xml': Buffer.from(await domain.xml({ isInactive: true })), nvram: variables },
    });
    const base = { point: uefi, connect: libvirt.uri };
    await service.restore({ ...base, as: 'web2', directory }, new Watched());
    assert.ok((await readFile(join(directory, 'web2-nvram.fd'))).equals(variables));
    assert.match(await (await connection.domainByName('web2')).xml(), /web2-nvram\.fd/);

    const { name } = await service.boot({ ...base, as: 'tonight' }, new Watched());
    const booted = /<nvram[^>]*>([^<]+)</.exec(await (await connection.domainByName(name)).xml())?.[1];
    assert.ok(booted !== undefined && booted.startsWith(join(directory, 'sessions')));
    await service.stop(name, false);
    assert.equal((await readFile(booted)).length, variables.length);
    await service.stop(name, true);

    await writeFile(nvramPath, Buffer.alloc(variables.length, 0xff));
    await service.restore({ ...base, inPlace: true }, new Watched());
    assert.ok((await readFile(nvramPath)).equals(variables));
  },
  { requires: [FIRMWARE, VARIABLES] },
);
