// SPDX-License-Identifier: Apache-2.0
// time limit: 900 s
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { BackupReport } from '../../appliance/api/operations.ts';
import { ApplianceProcess, assertSameBytes } from '../support/appliance-process.ts';
import { LIBVIRT_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { Scene } from './mid-backup-scene.ts';

const MIB = 1024 * 1024;

const test = suite('two products on one machine', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 180_000 });

test('another backup product holds the machine: DOMAIN_BUSY, its job and checkpoints stay', async (t) => {
  const scene = await Scene.create(t);
  const first = await scene.expected();
  await scene.backup();
  await scene.fill();
  const socket = join(scene.rig.libvirt.directory, 'other.sock');
  await scene.domain.backupBegin({
    backup: `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/></domainbackup>`,
    checkpoint: '<domaincheckpoint><name>other-tool-1</name></domaincheckpoint>',
  });
  const error = await scene.appliance.refused('DOMAIN_BUSY', ...scene.backupWords);
  assert.equal(error.exitCode, 4);
  assert.ok(existsSync(socket));
  await scene.domain.abortJob();
  const next = await scene.backup();
  assert.equal(next.kind, 'incremental', next.reason);
  const names = (await scene.domain.checkpoints()).map(({ name }) => name);
  assert.ok(names.includes('other-tool-1'), names.join());
  assertSameBytes(await scene.appliance.restored(next.point), await scene.expected(), 'the next point');
  assertSameBytes(await scene.appliance.restored('web@-1'), first, 'the first point');
  await scene.domain.destroy();
});

test('two appliances take turns on one machine: each continues from its own checkpoint, and one waits for the other', async (t) => {
  const scene = await Scene.create(t);
  const other = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await other.ask('init');
  await scene.backup();
  await other.ask(...scene.backupWords);
  await scene.fill();
  const running = await scene.halfBackup();
  await other.refused('DOMAIN_BUSY', ...scene.backupWords);
  running.kill('SIGCONT');
  const mine = await running.result;
  assert.equal(mine.exitCode, 0, mine.stdout);
  const atMine = await scene.expected();
  await scene.guestWrite('write -P 61 1M 1M');
  const theirs = await other.ask<BackupReport>(...scene.backupWords);
  assert.equal(theirs.kind, 'incremental', theirs.reason);
  assert.ok((theirs.disks[0]?.changedBytes ?? 0) >= 37 * MIB, 'it sees what changed since its own point');
  const atTheirs = await scene.expected();
  await scene.guestWrite('write -z 2M 1M');
  const next = await scene.backup();
  assert.deepEqual([next.kind, next.disks[0]?.changedBytes], ['incremental', 2 * MIB], next.reason);
  assertSameBytes(await scene.appliance.restored(next.point), await scene.expected(), 'the newest point');
  assertSameBytes(await scene.appliance.restored('web@-1'), atMine, 'the point before');
  assertSameBytes(await other.restored(theirs.point), atTheirs, 'the point of the other');
  assert.equal((await scene.domain.checkpoints()).length, 2);
  await scene.domain.destroy();
});
