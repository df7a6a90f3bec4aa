// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const test = suite('the end of a backup', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

test('a daemon that dies when the point exists makes a notice, not a failed backup, and the next one continues', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  await definePlainMachine(rig, 'web');
  await (await rig.connection.domainByName('web')).start();
  const { catalog } = backups.fixture;
  const putPoint = catalog.putPoint.bind(catalog);
  catalog.putPoint = async (point): Promise<void> => {
    await putPoint(point);
    catalog.putPoint = putPoint;
    await rig.libvirt.killDaemon();
  };
  const { point, notices } = await backups.backup('web');
  assert.deepEqual(
    (await catalog.points()).map(({ id }) => id),
    [point.id],
  );
  assert.match(notices.join('\n'), /the backup job could not be ended/);
  await rig.libvirt.startDaemon();
  const { point: next } = await backups.backup('web');
  assert.equal(next.kind, 'incremental', next.reason);
  assert.equal(next.parent, point.id);
});
