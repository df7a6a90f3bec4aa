// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { mirrorDestinationXml, readDiskJobs } from '../../appliance/hypervisor/libvirt/mirror-xml.ts';
import { readMachine } from '../../appliance/hypervisor/libvirt/read-machine.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import {
  definePlainMachine,
  GUEST_REQUIREMENTS,
  type LibvirtRig,
  startGuest,
  startLibvirt,
} from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('libvirt block jobs', { requires: GUEST_REQUIREMENTS, timeoutMs: 60_000 });

const SIZE_BYTES = 16 * 1024 * 1024;

interface Target {
  readonly server: NbdServer;
  readonly socketPath: string;
  readonly xml: string;
}

async function startTarget(t: TestContext, rig: LibvirtRig): Promise<Target> {
  const socketPath = join(rig.libvirt.directory, 'target.sock');
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } }));
  server.addExport({ name: 'copy', device: memoryDevice({ sizeBytes: SIZE_BYTES }) });
  const xml = mirrorDestinationXml({ place: { kind: 'unix', socketPath }, exportName: 'copy' });
  return { server, socketPath, xml };
}

async function startMachine(rig: LibvirtRig): Promise<Domain> {
  const domain = await definePlainMachine(rig, 'machine');
  await domain.start();
  return domain;
}

const SYNCHRONOUS = { disk: 'vda', reusesDestination: true, isTransient: true, isSynchronous: true } as const;

test('a copy to an NBD export becomes ready, shows where it goes, and is gone when it is aborted', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const { xml, socketPath } = await startTarget(t, rig);
  const ready = rig.connection.waitForEvent('block-job', (event) => event.status === 'ready');
  const params = { bandwidthBytes: 1024 ** 3, granularityBytes: 131_072, bufferBytes: 1024 * 1024 };
  await domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml, params });
  assert.deepEqual(await ready, { uuid: domain.uuid, name: 'machine', disk: 'vda', kind: 'copy', status: 'ready' });
  const job = await domain.blockJobInfo('vda');
  assert.deepEqual({ kind: job?.kind, bandwidth: job?.bandwidthBytes }, { kind: 'copy', bandwidth: 1024 ** 3 });
  assert.equal(job?.currentBytes, job?.endBytes);
  const destination = { place: { kind: 'unix', socketPath }, exportName: 'copy' } as const;
  assert.deepEqual(readDiskJobs(await domain.xml()), [{ disk: 'vda', kind: 'copy', ready: 'yes', destination }]);
  const cancelled = rig.connection.waitForEvent('block-job', (event) => event.status === 'cancelled');
  await domain.abortBlockJob('vda');
  assert.equal((await cancelled).disk, 'vda');
  assert.equal(await domain.blockJobInfo('vda'), null);
  assert.deepEqual(readDiskJobs(await domain.xml()), []);
});

test('a job that is aborted without waiting ends by itself', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const { xml } = await startTarget(t, rig);
  await domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml });
  const cancelled = rig.connection.waitForEvent('block-job', (event) => event.status === 'cancelled');
  await domain.abortBlockJob('vda', { isAsync: true });
  await cancelled;
  assert.equal(await domain.blockJobInfo('vda'), null);
});

test('a disk without a job, with a job, and a machine that is off each have their error', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'machine');
  const { xml } = await startTarget(t, rig);
  await rejectsWith(domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml }), 'DOMAIN_WRONG_STATE');
  await domain.start();
  await rejectsWith(domain.abortBlockJob('vda'), 'NO_BLOCK_JOB');
  await domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml });
  await rejectsWith(domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml }), 'DOMAIN_BUSY');
});

test('a destination where nobody listens is LIBVIRT_FAILED, and no job is left', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const socketPath = join(rig.libvirt.directory, 'nobody.sock');
  const destinationXml = mirrorDestinationXml({ place: { kind: 'unix', socketPath }, exportName: 'copy' });
  await rejectsWith(domain.blockCopy({ ...SYNCHRONOUS, destinationXml }), 'LIBVIRT_FAILED');
  assert.equal(await domain.blockJobInfo('vda'), null);
});

test('a machine goes on with its copy after a pivot', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const { xml, socketPath } = await startTarget(t, rig);
  const ready = rig.connection.waitForEvent('block-job', (event) => event.status === 'ready');
  await domain.blockCopy({ ...SYNCHRONOUS, destinationXml: xml });
  await ready;
  await domain.abortBlockJob('vda', { isPivot: true });
  assert.deepEqual((await readMachine(rig.connection, domain)).disks[0]?.source, {
    kind: 'network',
    protocol: 'nbd',
    name: 'copy',
    hosts: [socketPath],
  });
});

test('a disk that is plugged in and one that the guest lets go are told by their aliases', async (t) => {
  const rig = await startLibvirt(t);
  const { domain } = await startGuest(t, rig);
  const path = join(rig.libvirt.directory, 'more.raw');
  await createImage({ location: path, format: 'raw' }, { sizeBytes: SIZE_BYTES });
  const xml = `<disk type="file"><driver name="qemu" type="raw"/><source file="${path}"/><target dev="vdb" bus="virtio"/></disk>`;
  const added = rig.connection.waitForEvent('device-added', () => true);
  await domain.changeDevice({ change: 'attach', xml, affects: ['live'] });
  assert.deepEqual(await added, { uuid: domain.uuid, name: 'guest', deviceAlias: 'virtio-disk1' });
  const removed = rig.connection.waitForEvent('device-removed', () => true);
  await domain.changeDevice({ change: 'detach', xml, affects: ['live'] });
  assert.deepEqual(await removed, { uuid: domain.uuid, name: 'guest', deviceAlias: 'virtio-disk1' });
});
