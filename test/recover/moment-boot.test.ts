// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { BootedMachines } from '../../appliance/recover/booted-machines.ts';
import type { RecoverParts } from '../../appliance/recover/context.ts';
import { findAttachment } from '../../appliance/recover/point-content.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import type { RecoverableState } from '../../appliance/volume/recoverable-state.ts';
import { createDataDisk } from '../../lab/guest.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { type BootRig, MACHINE_ID, makeBootRig, shellOf, startService } from './boot-rig.ts';
import { Watched } from './fixture.ts';

const test = suite('machines booted at a moment', { requires: GUEST_REQUIREMENTS, timeoutMs: 120_000 });
const BLOCK = 4096;
const LOG_DISK = 3;

interface MomentBoot {
  readonly parts: RecoverParts;
  readonly machines: BootedMachines;
  readonly state: RecoverableState;
  readonly journal: Journal;
  readonly journalDirectory: string;
}

/** A journal in which the guest's file system becomes another one, and then is overwritten from its start to its end. */
async function journaled(t: TestContext, rig: BootRig): Promise<MomentBoot> {
  const { directory, service } = rig;
  const { fixture } = service;
  const journalDirectory = join(directory, 'journal');
  const key = fixture.repository.keys.logRoot;
  const { machine } = rig.point;
  const journal = t.use(await Journal.open(journalDirectory, { key, machineId: machine.id }));
  const base = await basePoint(rig, journal.logId);
  await journal.beginStretch('writes');
  const moment = await writeDisk(rig, journal);
  const destroyed = await journal.appendZero({ disk: LOG_DISK, offset: 0, length: base.disks[0]?.sizeBytes ?? 0 });
  assert.ok(destroyed.sequence > moment.sequence);
  const parts: RecoverParts = {
    ...service.parts,
    journals: { openLayer: ({ after, upTo }) => journal.openView(after, upTo) },
  };
  const machines = t.use(new BootedMachines(parts, service.use));
  const { logId } = journal;
  const state = { point: base, moment: { logId, ...moment, consistency: 'crash-consistent', bookmark: null } as const };
  return { parts, machines, state, journal, journalDirectory };
}

async function basePoint({ service, point, directory }: BootRig, logId: string): Promise<RecoveryPoint> {
  const { fixture, parts } = service;
  const xml = await findAttachment(parts.repository, point, 'domain.xml');
  await using vda = await openFileDevice(join(directory, 'original.raw'), 'read-only');
  return await fixture.addPoint({
    machine: { id: MACHINE_ID, name: 'web' },
    disks: { vda },
    attachments: { 'domain.xml': xml ?? Buffer.alloc(0) },
    parent: point,
    journal: { logId, sequence: 0, timeUs: 0, disks: { vda: LOG_DISK } },
  });
}

/** Writes the blocks in which another file system differs; the last of them is the moment. */
async function writeDisk({ directory }: BootRig, journal: Journal): Promise<Moment> {
  const before = await readFile(join(directory, 'original.raw'));
  const path = join(directory, 'later.raw');
  await createDataDisk({ path, sizeBytes: before.length, format: 'raw', files: { hello: 'from the moment' } });
  const after = await readFile(path);
  let moment: Moment | undefined;
  for (let offset = 0; offset < after.length; offset += BLOCK) {
    const data = after.subarray(offset, offset + BLOCK);
    if (!data.equals(before.subarray(offset, offset + BLOCK)))
      moment = await journal.append({ disk: LOG_DISK, offset, data });
  }
  assert.ok(moment);
  return moment;
}

test('a guest boots at a moment, and goes on after a restart of the service without the journal', async (t) => {
  const rig = await makeBootRig(t);
  const { connection, libvirt, service, directory } = rig;
  const { machines, state, journal, journalDirectory } = await journaled(t, rig);
  const report = await machines.boot({ ...state, connect: libvirt.uri, as: 'spare' }, new Watched());
  assert.equal(report.moment?.sequence, state.moment?.sequence);
  const shell = await shellOf(t, await connection.domainByName('spare'));
  assert.equal(await shell.expect('cat /data/hello'), 'from the moment');
  await shell.expect('echo after > /data/note; sync');
  assert.equal((await machines.booted())[0]?.moment?.sequence, state.moment?.sequence);

  await machines.close();
  await service.close();
  await journal.close();
  await rm(journalDirectory, { recursive: true });
  const again = await startService(t, directory, await service.fixture.reopen(), connection);
  assert.deepEqual((await again.machines.restoreSessions()).problems, []);
  await shell.expect('echo 3 > /proc/sys/vm/drop_caches');
  assert.equal(await shell.expect('cat /data/hello /data/note'), 'from the momentafter');
  const stopped = await again.machines.stop('spare', true);
  assert.equal(stopped.discarded, true);
});

test('the same machine goes on from its moment, and another moment needs another name', async (t) => {
  const rig = await makeBootRig(t);
  const { connection, libvirt } = rig;
  const { machines, state } = await journaled(t, rig);
  const boot = (wanted: RecoverableState): Promise<unknown> =>
    machines.boot({ ...wanted, connect: libvirt.uri, as: 'spare' }, new Watched());
  await boot(state);
  const shell = await shellOf(t, await connection.domainByName('spare'));
  await shell.expect('echo kept > /data/note; sync');
  await machines.stop('spare', false);
  await assert.rejects(boot({ point: state.point }), { code: 'DOMAIN_EXISTS' });
  await boot(state);
  const shellAgain = await shellOf(t, await connection.domainByName('spare'));
  assert.equal(await shellAgain.expect('cat /data/note'), 'kept');
  await machines.stop('spare', true);
});
