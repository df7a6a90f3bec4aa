// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import { LibvirtConnection } from '../../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../../appliance/hypervisor/qemu-img.ts';
import { ProtectionRecords } from '../../../appliance/protect/continuous/protection-record.ts';
import type { SessionSettings } from '../../../appliance/protect/continuous/session-settings.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../../support/machines.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../../support/small-file-system.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';
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

/** A machine with one disk under continuous protection. */
async function protectedMachine(
  t: TestContext,
  directory: string,
  settings: Partial<SessionSettings> = {},
): Promise<{ rig: ContinuousRig; libvirt: LibvirtRig; domain: Domain }> {
  const libvirt = await startLibvirt(t);
  const fixture = await FixtureRepository.create(join(directory, 'repo'));
  const rig = await ContinuousRig.start(t, directory, fixture, settings);
  const plain = await definePlainMachine(libvirt, 'web');
  // Without ACPI nothing can be plugged in.
  const xml = (await plain.xml({ isInactive: true })).replace('</os>', '</os><features><acpi/></features>');
  const domain = await libvirt.connection.define(xml);
  await domain.start();
  const connectUri = libvirt.libvirt.uri;
  await rig.continuous.protect({ target: 'web', connectUri, intervalMs: 0, durability: 'group' });
  await rig.until('web', 'protected');
  return { rig, libvirt, domain };
}

test('a disk that is plugged in, one that grows and one that is gone change the base, and protection goes on', async (t) => {
  const { rig, libvirt, domain } = await protectedMachine(t, await t.tempDir());
  const location = join(libvirt.libvirt.directory, 'more.qcow2');
  await createImage({ location, format: 'qcow2' }, { sizeBytes: 4 * MIB });
  const xml =
    `<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="${location}"/>` +
    '<target dev="vdb" bus="virtio"/></disk>';
  await domain.changeDevice({ change: 'attach', xml, affects: ['live'] });
  await rig.until('web', 'resyncing');
  await rig.until('web', 'protected');
  await guestIo(domain, 1, 'write -P 0xcc 1M 512');
  assert.equal((await rig.contentAt(domain, 'vdb', 'newest'))[MIB], 0xcc);
  const { session } = await rig.status('web');
  assert.ok(
    session?.history.some(({ reason }) => reason === 'the disk vdb was added'),
    JSON.stringify(session?.history),
  );
  const { journal } = await rig.status('web');
  const withTwoDisks = journal.newest.sequence;

  // While a mirror runs libvirt refuses to resize.
  await rejectsWith(domain.blockResize('vda', 24 * MIB), 'LIBVIRT_FAILED');
  await rig.continuous.pause('web', 'paused by the operator');
  await domain.blockResize('vda', 24 * MIB);
  await rig.continuous.resume('web');
  await rig.until('web', 'protected');
  await guestIo(domain, 0, 'write -P 0xdd 23M 512');
  const grown = await rig.contentAt(domain, 'vda', 'newest');
  assert.deepEqual([grown.length, grown[23 * MIB]], [24 * MIB, 0xdd]);

  // The disk was plugged into the running machine only: the next start is without it.
  await domain.destroy();
  await rig.until('web', 'paused');
  await domain.start();
  await rig.until('web', 'protected');
  assert.deepEqual(await rig.disksOf(domain), ['vda']);
  assert.equal((await rig.contentAt(domain, 'vdb', { sequence: withTwoDisks }))[MIB], 0xcc, 'its history stays');
  await domain.destroy();
});

test('libvirtd is killed and started again: the stretch goes on, and every write is kept', async (t) => {
  const { rig, libvirt, domain } = await protectedMachine(t, await t.tempDir());
  await libvirt.libvirt.killDaemon();
  await libvirt.libvirt.startDaemon();
  await using connection = await LibvirtConnection.open(libvirt.libvirt.uri);
  const again = await connection.domainByUuid(domain.uuid);
  await guestIo(again, 0, 'write -P 0xdd 2M 512');
  assert.equal((await rig.contentAt(again, 'vda', 'newest'))[2 * MIB], 0xdd);
  const { journal } = await rig.status('web');
  assert.deepEqual((await journal.timeline()).gaps, []);
  await rig.continuous.pause('web', 'paused by the operator');
  assert.doesNotMatch(await again.xml(), /<mirror/);
  await again.destroy();
});

/** The checkpoint from which the next catch-up would read. */
async function positionOf(rig: ContinuousRig, { uuid }: Domain): Promise<string | undefined> {
  const position = await new ProtectionRecords(rig.fixture.catalog).position(parseMachineId(uuid));
  return position?.tracker['checkpoint'];
}

test('another tool gets the machine when it is paused, and then the machine is caught up from the bitmap first', async (t) => {
  const directory = await t.tempDir();
  const { rig, domain } = await protectedMachine(t, directory, { renewMs: 1 });
  await guestIo(domain, 0, 'write -P 0x10 0 2M');
  for (let renewals = 0, last = await positionOf(rig, domain); renewals < 2; ) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const now = await positionOf(rig, domain);
    if (now !== last) renewals += 1;
    last = now;
  }
  const backup = `<domainbackup mode='pull'><server transport='unix' socket='/tmp/${domain.uuid}.sock'/></domainbackup>`;
  await rejectsWith(domain.backupBegin({ backup }), 'DOMAIN_BUSY');
  await rig.continuous.pause('web', 'paused by the operator');
  await domain.backupBegin({ backup });
  await domain.abortJob();
  await guestIo(domain, 0, 'write -P 0x11 3M 4k');
  await rig.continuous.resume('web');
  await rig.until('web', 'protected');
  await guestIo(domain, 0, 'write -P 0x12 3M 4k');
  const { journal, session } = await rig.status('web');
  assert.deepEqual(
    [session?.resync?.kind, (session?.resync?.changedBytes ?? 0) < MIB, session?.resync?.compared !== null],
    ['bitmap', true, true],
    JSON.stringify(session?.resync),
  );
  const { gaps, moments } = await journal.timeline();
  assert.deepEqual(
    gaps.map(({ reason }) => reason.replace(/[0-9.]+ MiB/, 'N MiB')),
    ['paused by the operator', 'caught up: N MiB read as changed; then the disks were copied whole'],
  );
  const caughtUp = await rig.contentAt(domain, 'vda', { sequence: moments[0]?.sequence ?? 0 });
  assert.deepEqual([caughtUp[0], caughtUp[3 * MIB]], [0x10, 0x11]);
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[3 * MIB], 0x12);

  await rig.continuous.pause('web', 'paused by the operator');
  for (const checkpoint of await domain.checkpoints()) await checkpoint.delete();
  // A job of its own that libvirt has not let go of: its socket lies in a directory of the appliance.
  const own = join(directory, 'run', '0123456789ab');
  await mkdir(own);
  await domain.backupBegin({ backup: backup.replace(/socket='[^']*'/, `socket='${join(own, 's')}'`) });
  await guestIo(domain, 0, 'write -P 0x13 3M 4k');
  await rig.continuous.resume('web');
  await rig.until('web', 'protected');
  assert.equal((await rig.status('web')).session?.resync?.kind, 'comparison', 'nothing is guessed');
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[3 * MIB], 0x13);
  await rig.continuous.pause('web', 'paused by the operator', 1);
  await rig.until('web', 'protected');
  await domain.destroy();
});

test(
  'a full journal ends the stretch, not the guest, and room brings protection back',
  async (t) => {
    const directory = await t.tempDir();
    const small = t.use(await SmallFileSystem.mount(join(directory, 'journals'), 8 * MIB));
    const { rig, domain } = await protectedMachine(t, directory);
    await small.fill();
    await guestIo(domain, 0, 'write -P 0x22 0 1M');
    await rig.until('web', 'behind');
    await guestIo(domain, 0, 'write -P 0x33 1M 64k');
    assert.equal((await domain.state()).state, 'running');
    await small.release();
    await rig.until('web', 'protected');
    const vda = await rig.contentAt(domain, 'vda', 'newest');
    assert.deepEqual([vda[0], vda[MIB - 1], vda[MIB]], [0x22, 0x22, 0x33]);
    await domain.destroy();
    await rig.close();
  },
  { requires: MOUNT_REQUIREMENTS },
);

test('a reset is no gap; a mirror that somebody else ends is one, and protection returns by itself', async (t) => {
  const { rig, domain } = await protectedMachine(t, await t.tempDir());
  await domain.monitorCommand({ execute: 'system_reset' });
  await guestIo(domain, 0, 'write -P 0x44 1M 512');
  const { journal } = await rig.status('web');
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[MIB], 0x44);
  assert.deepEqual((await journal.timeline()).gaps, []);
  await domain.abortBlockJob('vda');
  await guestIo(domain, 0, 'write -P 0x55 2M 512');
  await rig.until('web', 'resyncing');
  await rig.until('web', 'protected');
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[2 * MIB], 0x55);
  const [gap] = (await journal.timeline()).gaps;
  assert.equal(gap?.reason, 'the mirror of vda ended: somebody else ended the mirror');

  // QEMU learns of it with the next write, and nothing is written: the lost connection must do.
  const yankable = (await domain.monitorCommand({ execute: 'query-yank' })) as readonly { readonly type: string }[];
  const instances = yankable.filter(({ type }) => type === 'block-node');
  await domain.monitorCommand({ execute: 'yank', arguments: { instances } });
  await rig.until('web', 'resyncing');
  await rig.until('web', 'protected');
  const [, , cut] = (await journal.timeline()).gaps;
  assert.equal(cut?.reason, 'the connection of vda was cut');
  await domain.destroy();
});

test('a journal that is too slow is left for intervals, and tried again by itself', async (t) => {
  const { rig, domain } = await protectedMachine(t, await t.tempDir(), {
    // No disk is as fast as that.
    latency: { limitMs: 0, hardLimitMs: 2_000, windowMs: 2_000, seedingLimitMs: 10_000 },
    fallbackIntervalMs: 200,
    fallbackMs: 500,
  });
  const states = async (): Promise<string[]> =>
    ((await rig.status('web')).session?.history ?? []).map(({ state, mode }) => `${state}/${mode}`);
  while (!(await states()).includes('behind/interval')) await guestIo(domain, 0, 'write -P 0x66 0 512');
  while (!(await states()).includes('protected/interval')) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal((await domain.state()).state, 'running');
  await rig.until('web', 'protected', 'writes');
  const { session } = await rig.status('web');
  assert.ok(
    session?.history.some(({ reason }) => /writes took longer than 0 ms/.test(reason)),
    JSON.stringify(session?.history),
  );
  for (const told of ['protected (writes)', 'behind (interval)', 'protected (interval)']) {
    assert.ok(rig.states.includes(`${domain.uuid}: ${told}`), JSON.stringify(rig.states));
  }
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[0], 0x66);
  await domain.destroy();
});

test('protection that was ended and begun again goes on with the same journal', async (t) => {
  const { rig, libvirt, domain } = await protectedMachine(t, await t.tempDir());
  await guestIo(domain, 0, 'write -P 0x77 1M 512');
  const { journal } = await rig.status('web');
  const { logId, newest } = journal;
  const { point } = await rig.continuous.unprotect('web');
  assert.ok(point !== undefined);
  await guestIo(domain, 0, 'write -P 0x88 1M 512');
  const connectUri = libvirt.libvirt.uri;
  const again = { target: 'web', connectUri, intervalMs: 0, durability: 'write' } as const;
  await rig.continuous.protect({ ...again, windowMs: 7 * 86_400_000 });
  await rig.continuous.protect({ ...again, windowBytes: 1024 ** 3 });
  await rig.until('web', 'protected');
  const { journal: same, record } = await rig.status('web');
  assert.deepEqual([record.windowMs, record.windowBytes], [7 * 86_400_000, 1024 ** 3], 'what was not spoken of stays');
  assert.equal(same.logId, logId);
  assert.equal((await rig.contentAt(domain, 'vda', 'newest'))[MIB], 0x88);
  assert.equal((await rig.contentAt(domain, 'vda', { sequence: newest.sequence }))[MIB], 0x77);
  await guestIo(domain, 0, 'write -P 0x99 1M 512');
  const writes: number[] = [];
  for await (const { sequence } of same.writes()) writes.push(sequence);
  // The record of the flush itself may follow, and is not flushed.
  assert.ok(same.durableSequence >= (writes.at(-1) ?? Number.POSITIVE_INFINITY), 'each write is flushed');
  await domain.destroy();
});
