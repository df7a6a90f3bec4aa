// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import type { PointDevice } from '../../appliance/volume/point-device.ts';
import {
  definePlainMachine,
  GUEST_REQUIREMENTS,
  LIBVIRT_REQUIREMENTS,
  startGuest,
  startLibvirt,
} from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const execute = promisify(execFile);
const test = suite('backup of machines under libvirt', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 90_000 });
const MIB = 1024 * 1024;

/** Writes into a running machine's disk as its guest would: through QEMU, so that bitmaps see it. */
async function qemuIo(domain: Domain, command: string): Promise<void> {
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "${command}"` },
  });
  assert.doesNotMatch(String(reply), /failed|error/i, `${command}: ${String(reply)}`);
}

async function imageIo(path: string, ...commands: readonly string[]): Promise<void> {
  await execute('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

async function bytesAt(device: PointDevice, offset: number, length: number): Promise<string> {
  const bytes = Buffer.alloc(length);
  await device.read(offset, bytes);
  const values = new Set(bytes);
  return values.size === 1 ? String(bytes[0]) : createHash('sha256').update(bytes).digest('hex');
}

test('the second backup of a running machine takes what was written, zeroed and discarded since', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await imageIo(image, 'write -P 0xaa 0 12M');
  await domain.start();
  const first = await backups.backup('web');
  assert.equal(first.point.kind, 'full');
  assert.equal(first.point.reason, 'first backup');
  await qemuIo(domain, 'write -P 0xbb 1M 64k');
  await qemuIo(domain, 'write -z 4M 1M');
  await qemuIo(domain, 'discard 6M 1M');
  const second = await backups.backup('web');
  assert.equal(second.point.kind, 'incremental', second.point.reason);
  const disk = second.point.disks[0];
  assert.equal(disk?.stats.changedBytes, 64 * 1024 + 2 * MIB);
  assert.equal(disk?.stats.readBytes, 64 * 1024, 'zeroes are not read');
  const now = backups.device(second.point, 'vda');
  assert.equal(await bytesAt(now, MIB, 64 * 1024), '187');
  assert.equal(await bytesAt(now, MIB + 64 * 1024, MIB), '170');
  assert.equal(await bytesAt(now, 4 * MIB, MIB), '0', 'zeroes written over data are in the point');
  assert.equal(await bytesAt(now, 6 * MIB, MIB), '0', 'what was discarded is in the point');
  const before = backups.device(first.point, 'vda');
  assert.equal(await bytesAt(before, 0, 12 * MIB), '170', 'the first point is what it was');
  await domain.destroy();
});

test('only the newest own checkpoint is kept, others are left alone, and nothing else stays behind', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  await domain.createCheckpoint('<domaincheckpoint><name>other-tool-1</name></domaincheckpoint>');
  await backups.backup('web');
  await backups.backup('web');
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'incremental', point.reason);
  const names = (await domain.checkpoints()).map(({ name }) => name);
  assert.deepEqual(names.sort(), ['other-tool-1', point.tracker['checkpoint'] ?? '?'].sort());
  assert.deepEqual(await readdir(backups.runtimeDirectory), []);
  assert.deepEqual(
    (await readdir(rig.libvirt.directory)).filter((name) => name.includes('scratch')),
    [],
  );
  await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
  await domain.destroy();
});

test('a machine on which another backup job runs gives a clear error, and the job goes on', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  const socket = join(rig.libvirt.directory, 'other.sock');
  await domain.backupBegin({
    backup: `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/></domainbackup>`,
  });
  await rejectsWith(backups.backup('web'), 'DOMAIN_BUSY');
  assert.ok(existsSync(socket));
  await domain.abortJob();
  await domain.destroy();
});

test('a resized disk is scanned whole, with the reason in the point', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  await backups.backup('web');
  await domain.blockResize('vda', 24 * MIB);
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'full-scan');
  assert.match(point.reason, /resized from 16777216 to 25165824/);
  assert.equal(point.disks[0]?.sizeBytes, 24 * MIB);
  await domain.destroy();
});

test('a checkpoint that is gone, or whose bitmap is broken, means a full scan with the reason', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  const { point: first } = await backups.backup('web');
  await (await domain.checkpoint(first.tracker['checkpoint'] ?? '')).delete();
  const second = await backups.backup('web');
  assert.equal(second.point.kind, 'full-scan');
  assert.match(second.point.reason, /is gone/);
  // A killed QEMU never wrote the bitmap of this checkpoint to the image.
  const stopped = rig.connection.waitForEvent('lifecycle', ({ name, event }) => name === 'web' && event === 'stopped');
  for (const pid of await rig.libvirt.qemuPids()) process.kill(pid, 'SIGKILL');
  await stopped;
  await imageIo(join(rig.libvirt.directory, 'web-vda.qcow2'), 'write -P 0x55 2M 1M');
  await domain.start();
  const third = await backups.backup('web');
  assert.equal(third.point.kind, 'full-scan', third.point.reason);
  assert.equal(await bytesAt(backups.device(third.point, 'vda'), 2 * MIB, MIB), '85');
  assert.equal((await backups.backup('web')).point.kind, 'incremental');
  await domain.destroy();
});

test('a disk that was replaced under the same target name is scanned whole', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  await domain.start();
  await backups.backup('web');
  await domain.destroy();
  const old = join(rig.libvirt.directory, 'web-vda.qcow2');
  const other = join(rig.libvirt.directory, 'other.qcow2');
  await execute('cp', [old, other]);
  await rig.connection.define((await domain.xml({ isInactive: true })).replace(old, other));
  await domain.start();
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'full-scan');
  assert.match(point.reason, /replaced/);
  await domain.destroy();
});

test('a raw disk is scanned beside a qcow2 disk that is incremental, at one moment', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [
    { target: 'vda' },
    { target: 'vdb', format: 'raw', sizeBytes: 8 * MIB },
  ]);
  await domain.start();
  await backups.backup('web');
  const { point } = await backups.backup('web');
  assert.deepEqual(
    point.disks.map(({ name, kind }) => ({ name, kind })),
    [
      { name: 'vda', kind: 'incremental' },
      { name: 'vdb', kind: 'full-scan' },
    ],
  );
  assert.equal(point.kind, 'full-scan');
  assert.match(point.reason, /vdb: a raw image cannot store dirty bitmaps/);
  await domain.destroy();
});

test('a shut-off machine is backed up from its image, incrementally where its bitmap was closed cleanly', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await imageIo(image, 'write -P 1 0 1M');
  const off = await backups.backup('web');
  assert.equal(off.point.kind, 'full');
  assert.equal(off.point.consistency, 'crash-consistent', 'nobody knows how the machine was shut off');
  await domain.start();
  assert.equal((await backups.backup('web')).point.kind, 'full-scan');
  await qemuIo(domain, 'write -P 2 2M 64k');
  await domain.destroy();
  await imageIo(image, 'write -P 3 3M 64k');
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'incremental', point.reason);
  assert.equal(point.consistency, 'crash-consistent', 'the machine was destroyed');
  const device = backups.device(point, 'vda');
  assert.equal(await bytesAt(device, 2 * MIB, 64 * 1024), '2');
  assert.equal(await bytesAt(device, 3 * MIB, 64 * 1024), '3');
  await domain.start();
  await qemuIo(domain, 'write -P 4 4M 64k');
  const running = await backups.backup('web');
  assert.equal(running.point.kind, 'full-scan');
  assert.match(running.point.reason, /the image changed since/);
  assert.equal(await bytesAt(backups.device(running.point, 'vda'), 4 * MIB, 64 * 1024), '4');
  assert.equal((await backups.backup('web')).point.kind, 'incremental');
  await domain.destroy();
});

test('an older copy of the image that is put back after an offline point is found out', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await imageIo(image, 'write -P 1 0 8M');
  await domain.start();
  await backups.backup('web');
  await domain.destroy();
  await execute('cp', [image, `${image}.old`]);
  await imageIo(image, 'write -P 2 2M 64k');
  const offline = await backups.backup('web');
  assert.equal(offline.point.kind, 'incremental', offline.point.reason);
  assert.equal((await backups.backup('web')).point.kind, 'incremental', 'an image that was not touched can be trusted');
  await execute('cp', [`${image}.old`, image]);
  const again = await backups.backup('web');
  assert.equal(again.point.kind, 'full-scan');
  assert.equal(await bytesAt(backups.device(again.point, 'vda'), 2 * MIB, 64 * 1024), '1');
});

test('a machine that is destroyed during its backup gives DOMAIN_GONE, and the next backup works', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: 512 * MIB }]);
  await imageIo(join(rig.libvirt.directory, 'web-vda.qcow2'), 'write -P 7 0 400M');
  await domain.start();
  let destroyed: Promise<void> | undefined;
  await rejectsWith(
    backups.backup('web', {
      onProgress: () => {
        destroyed ??= domain.destroy();
      },
    }),
    'DOMAIN_GONE',
  );
  await destroyed;
  assert.deepEqual(await backups.fixture.catalog.points(), []);
  assert.deepEqual(await readdir(backups.runtimeDirectory), []);
  await domain.start();
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'full');
  assert.equal(await bytesAt(backups.device(point, 'vda'), 399 * MIB, MIB), '7');
  await domain.destroy();
});

test('an interrupted backup leaves no point, no job and no checkpoint, and the old base stays', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: 256 * MIB }]);
  await domain.start();
  const { point: base } = await backups.backup('web');
  await qemuIo(domain, 'write -P 9 0 200M');
  const abort = new AbortController();
  await rejectsWith(backups.backup('web', { signal: abort.signal, onProgress: () => abort.abort() }), 'ABORTED');
  assert.deepEqual(
    (await domain.checkpoints()).map(({ name }) => name),
    [base.tracker['checkpoint']],
  );
  assert.equal((await backups.fixture.catalog.points()).length, 1);
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'incremental', point.reason);
  assert.equal(await bytesAt(backups.device(point, 'vda'), 0, 200 * MIB), '9');
  await domain.destroy();
});

test('the machine definition is part of the point', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const { point } = await backups.backup('web');
  assert.deepEqual(
    point.attachments.map(({ name }) => name),
    ['domain.xml'],
  );
  assert.ok((point.attachments[0]?.lengthBytes ?? 0) > 500);
  assert.equal(point.machine.id, domain.uuid);
});

test(
  'a guest with an agent is frozen for the moment of the point only',
  async (t) => {
    const rig = await startLibvirt(t);
    const backups = await BackupRig.create(t, rig.libvirt.uri);
    const { domain, console, diskPath } = await startGuest(t, rig);
    await console.run('echo before > /data/note; sync');
    const { point } = await backups.backup('guest');
    assert.equal(point.consistency, 'file-system-consistent');
    assert.equal(
      (await console.run('echo after > /data/note && sync', { timeoutMs: 20_000 })).status,
      0,
      'the guest is thawed',
    );
    assert.equal((await stat(dirname(diskPath))).isDirectory(), true);
    await domain.destroy();
  },
  { requires: GUEST_REQUIREMENTS },
);
