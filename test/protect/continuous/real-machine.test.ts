// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { Domain } from '../../../appliance/hypervisor/libvirt/domain.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../../support/machines.ts';
import { suite } from '../../support/suite.ts';
import { ContinuousRig } from './continuous-rig.ts';

const test = suite('continuous protection of real machines', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });
const KIB = 1024;
const MIB = 1024 * KIB;

/** Writes into a running machine's disk as its guest would. */
async function guestIo(domain: Domain, disk: number, command: string): Promise<void> {
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': `qemu-io -d /machine/peripheral/virtio-disk${disk}/virtio-backend "${command}"` },
  });
  assert.doesNotMatch(String(reply), /failed|error/i, `${command}: ${String(reply)}`);
}

test('every write of a machine with two disks can be opened, in order, after a seeding', async (t) => {
  const libvirt = await startLibvirt(t);
  const directory = await t.tempDir();
  const rig = await ContinuousRig.start(t, directory, await FixtureRepository.create(join(directory, 'repo')));
  const domain = await definePlainMachine(libvirt, 'web', [{ target: 'vda' }, { target: 'vdb' }]);
  await domain.start();
  await guestIo(domain, 0, 'write -P 0xaa 0 4M');
  await rig.continuous.protect({
    target: 'web',
    connectUri: libvirt.libvirt.uri,
    intervalMs: 0,
    durability: 'group',
  });
  await rig.until('web', 'protected');
  const { journal } = await rig.status('web');
  const atBegin = journal.newest;
  await guestIo(domain, 0, 'write -P 0xbb 64k 4k');
  const afterFirst = journal.newest;
  await guestIo(domain, 1, 'write -P 0xcc 1M 512');
  await guestIo(domain, 0, 'write -z 0 32k');
  await guestIo(domain, 0, 'write -z -u 1M 1M');
  assert.deepEqual(
    [...new Set((await rig.contentAt(domain, 'vda', { sequence: atBegin.sequence })).subarray(0, 4 * MIB))],
    [0xaa],
  );
  const first = await rig.contentAt(domain, 'vda', { sequence: afterFirst.sequence });
  assert.deepEqual(
    [first[64 * KIB - 1], first[64 * KIB], first[68 * KIB - 1], first[68 * KIB]],
    [0xaa, 0xbb, 0xbb, 0xaa],
  );
  assert.equal((await rig.contentAt(domain, 'vdb', { sequence: afterFirst.sequence }))[MIB], 0);
  const [vda, vdb] = [await rig.contentAt(domain, 'vda', 'newest'), await rig.contentAt(domain, 'vdb', 'newest')];
  assert.deepEqual([vda[0], vda[32 * KIB - 1], vda[32 * KIB], vda[MIB], vda[2 * MIB]], [0, 0, 0xaa, 0, 0xaa]);
  assert.deepEqual([vdb[MIB], vdb[MIB + 511], vdb[MIB + 512]], [0xcc, 0xcc, 0]);
  const { point } = await rig.continuous.unprotect('web');
  assert.equal(point?.journal?.logId, journal.logId);
  assert.equal((await domain.state()).state, 'running');
  await guestIo(domain, 0, 'write -P 0xee 0 4k');
  await domain.destroy();
});

test('intervals: what a machine wrote is in the moment after it, and nothing changed costs little', async (t) => {
  const libvirt = await startLibvirt(t);
  const directory = await t.tempDir();
  const rig = await ContinuousRig.start(t, directory, await FixtureRepository.create(join(directory, 'repo')));
  const domain = await definePlainMachine(libvirt, 'web', [{ target: 'vda' }, { target: 'vdb' }]);
  await domain.start();
  await guestIo(domain, 0, 'write -P 0xaa 0 4M');
  const connectUri = libvirt.libvirt.uri;
  await rig.continuous.protect({ target: 'web', connectUri, intervalMs: 1_000, durability: 'group' });
  await rig.until('web', 'protected', 'interval');
  const { journal } = await rig.status('web');
  const before = journal.newest.sequence;
  await guestIo(domain, 0, 'write -P 0xbb 64k 4k');
  await guestIo(domain, 1, 'write -P 0xcc 1M 512');
  for (;;) {
    const vdb = await rig.contentAt(domain, 'vdb', 'newest');
    if (vdb[MIB] === 0xcc) break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const vda = await rig.contentAt(domain, 'vda', 'newest');
  assert.deepEqual([vda[64 * KIB - 1], vda[64 * KIB], vda[68 * KIB]], [0xaa, 0xbb, 0xaa]);
  assert.equal((await rig.contentAt(domain, 'vda', { sequence: before }))[64 * KIB], 0xaa);
  await rig.continuous.unprotect('web');
  await domain.destroy();
});
