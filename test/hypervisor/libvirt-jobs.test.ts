// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../appliance/core/clock.ts';
import { backupXml, checkpointXml } from '../../appliance/hypervisor/libvirt/backup-xml.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { readMachine } from '../../appliance/hypervisor/libvirt/read-machine.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt backup jobs', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

interface Job {
  readonly backup: string;
  readonly checkpoint: string;
  readonly socketPath: string;
  readonly scratchPath: string;
}

/** A pull backup of `vda` under the checkpoint `name`. */
async function planJob(rig: LibvirtRig, name: string, base?: string): Promise<Job> {
  const directory = join(rig.libvirt.directory, 'jobs');
  await mkdir(directory, { recursive: true });
  const socketPath = join(directory, `${name}.sock`);
  const scratchPath = join(directory, `${name}.scratch`);
  const mode = base === undefined ? ({ kind: 'full' } as const) : ({ kind: 'incremental', checkpoint: base } as const);
  const bitmap = base === undefined ? {} : { exportBitmap: 'changed' };
  return {
    backup: backupXml({
      server: { kind: 'unix', socketPath },
      disks: [{ target: 'vda', exportName: 'first', mode, scratchPath, ...bitmap }],
      excludedTargets: [],
    }),
    checkpoint: checkpointXml({ name, targets: ['vda'], excludedTargets: [] }),
    socketPath,
    scratchPath,
  };
}

async function startMachine(rig: LibvirtRig): Promise<Domain> {
  const domain = await definePlainMachine(rig, 'machine');
  await domain.start();
  return domain;
}

async function runJob(domain: Domain, job: Job): Promise<void> {
  await domain.backupBegin(job);
  await domain.endBackup(job.socketPath);
}

test('a pull backup opens its NBD server and creates its checkpoint, and aborting it leaves only the checkpoint', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const job = await planJob(rig, 'cp1');
  await domain.backupBegin(job);
  assert.equal(existsSync(job.socketPath), true);
  assert.equal(existsSync(job.scratchPath), true);
  assert.match(await domain.backupXml(), /exportname='first'/);
  assert.deepEqual(pick(await domain.jobInfo()), { kind: 'unbounded' });
  assert.equal((await domain.jobStats()).operation, 'backup');
  const completed = rig.connection.waitForEvent('job-completed', (event) => event.uuid === domain.uuid);
  assert.equal(await domain.endBackup(job.socketPath), true);
  assert.equal((await completed).operation, 'backup');
  assert.equal(existsSync(job.scratchPath), false);
  assert.deepEqual(pick(await domain.jobInfo()), { kind: 'none' });
  const checkpoints = await domain.checkpoints();
  assert.deepEqual(
    checkpoints.map(({ name, parent }) => ({ name, parent })),
    [{ name: 'cp1', parent: null }],
  );
});

test('a second backup is DOMAIN_BUSY at once, and the first goes on', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const first = await planJob(rig, 'cp1');
  await domain.backupBegin(first);
  const startedAt = systemClock.elapsedMs();
  await rejectsWith(domain.backupBegin(await planJob(rig, 'cp2')), 'DOMAIN_BUSY');
  assert.ok(systemClock.elapsedMs() - startedAt < 5000, "libvirt's own wait is 30 s");
  assert.equal(await domain.endBackup('/somebody/else'), false);
  assert.deepEqual(pick(await domain.jobInfo()), { kind: 'unbounded' });
  assert.equal(await domain.endBackup(first.socketPath), true);
});

test(
  'a disk with a block job of somebody else is DOMAIN_BUSY, and the block job goes on',
  async (t) => {
    const rig = await startLibvirt(t);
    const domain = await startMachine(rig);
    const copy = join(rig.libvirt.directory, 'copy.qcow2');
    await runTool('virsh', [
      '-c',
      rig.libvirt.uri,
      'blockcopy',
      'machine',
      'vda',
      '--dest',
      copy,
      '--format',
      'qcow2',
      '--transient-job',
    ]);
    await rejectsWith(domain.backupBegin(await planJob(rig, 'cp1')), 'DOMAIN_BUSY');
    assert.equal((await domain.blockJobInfo('vda'))?.kind, 'copy');
    assert.equal((await readMachine(rig.connection, domain)).disks[0]?.hasBlockJob, true);
    assert.deepEqual(await domain.checkpoints(), []);
  },
  { requires: ['virsh'] },
);

test('an incremental backup takes the checkpoint before it as its base', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  await runJob(domain, await planJob(rig, 'cp1'));
  const job = await planJob(rig, 'cp2', 'cp1');
  await domain.backupBegin(job);
  assert.match(await domain.backupXml(), /exportbitmap='changed'/);
  await domain.endBackup(job.socketPath);
  const checkpoints = await domain.checkpoints();
  assert.deepEqual(
    checkpoints.map(({ name, parent }) => ({ name, parent })),
    [
      { name: 'cp1', parent: null },
      { name: 'cp2', parent: 'cp1' },
    ],
  );
  await checkpoints[0]?.delete();
  assert.deepEqual(
    (await domain.checkpoints()).map(({ name, parent }) => ({ name, parent })),
    [{ name: 'cp2', parent: null }],
  );
});

test('a disk of a mixed job can be full while another is incremental', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'machine', [{ target: 'vda' }, { target: 'vdb', format: 'raw' }]);
  await domain.start();
  const scratch = (name: string): string => join(rig.libvirt.directory, name);
  const checkpoint = (name: string): string => checkpointXml({ name, targets: ['vda'], excludedTargets: ['vdb'] });
  const vdb = { target: 'vdb', exportName: 'vdb', mode: { kind: 'full' }, scratchPath: scratch('b') } as const;
  const socketPath = scratch('sock');
  const full = { target: 'vda', exportName: 'vda', mode: { kind: 'full' }, scratchPath: scratch('a') } as const;
  await domain.backupBegin({
    backup: backupXml({ server: { kind: 'unix', socketPath }, disks: [full, vdb], excludedTargets: [] }),
    checkpoint: checkpoint('cp1'),
  });
  await domain.endBackup(socketPath);
  const incremental = { ...full, mode: { kind: 'incremental', checkpoint: 'cp1' }, exportBitmap: 'changed' } as const;
  await domain.backupBegin({
    backup: backupXml({ server: { kind: 'unix', socketPath }, disks: [incremental, vdb], excludedTargets: [] }),
    checkpoint: checkpoint('cp2'),
  });
  const running = await domain.backupXml();
  assert.match(running, /<disk name='vda' .*incremental='cp1'/);
  assert.match(running, /<disk name='vdb' .*backupmode='full'/);
  await domain.endBackup(socketPath);
});

test('a base that does not exist is CHECKPOINT_NOT_FOUND, and no job and no checkpoint are left', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  await rejectsWith(domain.backupBegin(await planJob(rig, 'cp2', 'cp1')), 'CHECKPOINT_NOT_FOUND');
  assert.deepEqual(pick(await domain.jobInfo()), { kind: 'none' });
  assert.deepEqual(await domain.checkpoints(), []);
});

test('a checkpoint that libvirt forgot is redefined from its XML; one whose bitmap is gone is refused', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  await runJob(domain, await planJob(rig, 'cp1'));
  const checkpoint = await domain.checkpoint('cp1');
  const xml = await checkpoint.xml();
  await checkpoint.delete({ metadataOnly: true });
  await rejectsWith(domain.checkpoint('cp1'), 'CHECKPOINT_NOT_FOUND');
  assert.equal((await domain.redefineCheckpoint(xml, { isValidated: true })).name, 'cp1');
  // Bitmaps that were never stored are lost with QEMU.
  await domain.destroy();
  await domain.start();
  await (await domain.checkpoint('cp1')).delete({ metadataOnly: true });
  const kept = await domain.redefineCheckpoint(xml, { isValidated: true }).then(
    () => 'kept',
    (error: unknown) => (error as { code?: string }).code,
  );
  const node = await domain.monitorCommand({ execute: 'query-block' });
  const hasBitmap = JSON.stringify(node).includes('"name":"cp1"');
  assert.equal(kept, hasBitmap ? 'kept' : 'CHECKPOINT_INCONSISTENT');
});

test('a backup outlives the daemon, and a new connection finds and ends it', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  const job = await planJob(rig, 'cp1');
  await domain.backupBegin(job);
  await rig.libvirt.killDaemon();
  await rejectsWith(domain.abortJob(), 'LIBVIRT_CONNECTION_LOST');
  await rig.libvirt.startDaemon();
  const connection = t.use(await LibvirtConnection.open(rig.libvirt.uri));
  const again = await connection.domainByUuid(domain.uuid);
  assert.match(await again.backupXml(), /exportname='first'/);
  assert.equal(await again.endBackup(job.socketPath), true);
  await rejectsWith(again.backupXml(), 'NO_BACKUP_JOB');
});

test('a machine that is destroyed during its backup says so by events', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  await domain.backupBegin(await planJob(rig, 'cp1'));
  const stopped = rig.connection.waitForEvent('lifecycle', (event) => event.event === 'stopped');
  await domain.destroy();
  assert.deepEqual(await stopped, { uuid: domain.uuid, name: 'machine', event: 'stopped', detail: 'destroyed' });
  await rejectsWith(domain.backupXml(), 'NO_BACKUP_JOB');
});

test('the size of a disk is what the guest sees, also after a resize', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await startMachine(rig);
  assert.equal((await domain.blockInfo('vda')).capacityBytes, 16 * 1024 * 1024);
  await domain.blockResize('vda', 32 * 1024 * 1024);
  assert.equal((await domain.blockInfo('vda')).capacityBytes, 32 * 1024 * 1024);
  assert.equal(await domain.blockJobInfo('vda'), null);
});

function pick({ kind }: { readonly kind: string }): { kind: string } {
  return { kind };
}
