// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BootReport, PointDetails, ProtectionReport } from '../../appliance/api/operations.ts';
import type { BookmarkReport, TimelineReport, WritesReport } from '../../appliance/api/schemas/journal.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import { consoleOf, GUEST_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('moments of a guest', { requires: GUEST_REQUIREMENTS, timeoutMs: 240_000 });
const MIB = 1024 * 1024;
const SECTOR = 512;
const POLL_MS = 50;
const WRITES = 12;

interface Scene {
  readonly rig: LibvirtRig;
  readonly appliance: ApplianceProcess;
  readonly shell: GuestConsole;
}

/** A guest with a file system and a plain disk, under continuous protection. */
async function makeScene(t: TestContext): Promise<Scene> {
  const rig = await startLibvirt(t);
  const { directory } = rig.libvirt;
  const image = await guestImage();
  const [vda, vdb] = [join(directory, 'vda.qcow2'), join(directory, 'vdb.qcow2')];
  await createDataDisk({ path: vda, sizeBytes: 64 * MIB, format: 'qcow2', files: { hello: 'world' } });
  await createImage({ location: vdb, format: 'qcow2' }, { sizeBytes: 16 * MIB });
  const acceleration = await probeAcceleration(image);
  const disks = [
    { path: vda, format: 'qcow2', target: 'vda' },
    { path: vdb, format: 'qcow2', target: 'vdb' },
  ] as const;
  const domain = await rig.connection.define(guestDomainXml({ name: 'web', image, acceleration, disks }));
  await domain.start();
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  await appliance.serve();
  const shell = await consoleOf(t, rig.libvirt, domain);
  await appliance.ask('protect', 'web', '--continuous', '--connect', rig.libvirt.uri);
  await untilProtected(appliance);
  return { rig, appliance, shell };
}

async function untilProtected(appliance: ApplianceProcess): Promise<void> {
  for (;;) {
    const [report] = await appliance.ask<ProtectionReport[]>('protection');
    if (report?.state === 'protected') return;
    await delay(POLL_MS);
  }
}

/** Numbers sectors of the plain disk, one after the other, and remembers when each was acknowledged. */
async function writeNumbers(shell: GuestConsole, from: number, count: number): Promise<Map<number, string>> {
  const times = new Map<number, string>();
  for (let number = from; number < from + count; number++) {
    await shell.expect(
      `printf '%0512d' ${number} | dd of=/dev/vdb bs=512 seek=${number} conv=notrunc,fsync 2>/dev/null`,
    );
    times.set(number, new Date(systemClock.nowMs()).toISOString());
    // The next write must not share the millisecond.
    await delay(2);
  }
  return times;
}

function lastNumber(disk: Buffer): number {
  let number = 0;
  while (
    disk.toString('latin1', (number + 1) * SECTOR, (number + 2) * SECTOR) === String(number + 1).padStart(SECTOR, '0')
  ) {
    number += 1;
  }
  assert.ok(disk.subarray((number + 1) * SECTOR).every((byte) => byte === 0));
  return number;
}

test('every moment of a guest can be recovered, and the one before a damage be found', async (t) => {
  const { rig, appliance, shell } = await makeScene(t);
  const times = await writeNumbers(shell, 1, WRITES);
  await shell.expect('echo precious > /data/precious; sync');
  const bookmark = await appliance.ask<BookmarkReport>('bookmark', 'web', 'before the damage');
  await shell.expect(`dd if=/dev/zero of=/dev/vdb bs=512 seek=1 count=${WRITES} conv=notrunc,fsync 2>/dev/null`);
  await shell.expect('rm /data/precious; sync');

  for (const [number, time] of times) {
    if (number % 3 !== 0) continue;
    assert.equal(lastNumber(await appliance.restored(`web@${time}`, '--disk', 'vdb')), number, time);
  }
  assert.equal(lastNumber(await appliance.restored('web@latest', '--disk', 'vdb')), 0);

  const offset = String(5 * SECTOR);
  const { writes } = await appliance.ask<WritesReport>('writes', 'web', '--disk', 'vdb', '--offset', offset);
  const damage = writes.at(-1);
  assert.ok(writes.length >= 2 && damage !== undefined);
  const before = await appliance.restored(`web@seq:${damage.sequence - 1}`, '--disk', 'vdb');
  assert.equal(before.toString('latin1', 5 * SECTOR, 6 * SECTOR), '5'.padStart(SECTOR, '0'));

  const timeline = await appliance.ask<TimelineReport>('timeline', 'web');
  assert.deepEqual([timeline.stretches.length, timeline.stretches[0]?.open, timeline.gaps], [1, true, []]);
  assert.deepEqual(
    timeline.bookmarks.map(({ name, sequence, consistency }) => ({ name, sequence, consistency })),
    [{ name: 'before the damage', sequence: bookmark.sequence, consistency: bookmark.consistency }],
  );

  const state = 'web@bookmark:before the damage';
  const shown = await appliance.ask<PointDetails>('point', 'show', state);
  assert.equal(shown.moment?.sequence, bookmark.sequence);
  const booted = await appliance.ask<BootReport>('boot', state, '--as', 'spare', '--connect', rig.libvirt.uri);
  assert.equal(booted.moment?.bookmark, 'before the damage');
  const spare = await consoleOf(t, rig.libvirt, await rig.connection.domainByName('spare'));
  assert.equal(await spare.expect('cat /data/hello /data/precious'), 'worldprecious');
  await appliance.ask('stop', 'spare', '--discard');
});

test('a time in a gap is refused with moments that can be taken instead', async (t) => {
  const { appliance, shell } = await makeScene(t);
  await writeNumbers(shell, 1, 3);
  await appliance.ask('protection', '--pause', 'web');
  const lost = await writeNumbers(shell, 4, 1);
  await appliance.ask('protection', '--resume', 'web');
  await untilProtected(appliance);
  await writeNumbers(shell, 5, 1);
  const error = await appliance.refused(
    'MOMENT_IN_GAP',
    'restore',
    `web@${lost.get(4)}`,
    '--to',
    '/nowhere/x',
    '--disk',
    'vdb',
  );
  const states = [...error.hint.matchAll(/web@\S+Z/g)].map(([state]) => state);
  assert.equal(states.length, 2, error.hint);
  const [before = '', after = ''] = states;
  assert.equal(lastNumber(await appliance.restored(before, '--disk', 'vdb')), 3);
  assert.equal(lastNumber(await appliance.restored(after, '--disk', 'vdb')), 4);
  assert.equal((await appliance.ask<TimelineReport>('timeline', 'web')).gaps.length, 2);
  await appliance.refused('BAD_ARGUMENT', 'delete', 'web@latest', '--yes');
});
