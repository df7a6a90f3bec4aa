// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describeStaleBitmaps, findStaleBitmaps, removeStaleBitmaps } from '../../appliance/cbt/stale-bitmaps.ts';
import { readMachine } from '../../appliance/hypervisor/libvirt/read-machine.ts';
import { changeBitmap, imageInfo } from '../../appliance/hypervisor/qemu-img.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const execute = promisify(execFile);
const test = suite('bitmaps that outlived their checkpoints', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

async function bitmapsOf(location: string): Promise<string[]> {
  const { bitmaps } = await imageInfo({ location, format: 'qcow2' }, { isShared: true });
  return bitmaps.map(({ name }) => name).sort();
}

test('those of ours are removed from the images of a shut-off machine, and no others', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await domain.start();
  const { point: first } = await backups.backup('web');
  const forgotten = first.tracker['checkpoint'] ?? '';
  // As a redefinition does: libvirt forgets the checkpoint, and its bitmap stays in the image.
  await (await domain.checkpoint(forgotten)).delete({ metadataOnly: true });
  const { point: second } = await backups.backup('web');
  assert.equal(second.kind, 'full-scan');
  const current = second.tracker['checkpoint'] ?? '';
  await domain.destroy();

  const { id: repositoryId } = backups.fixture.repository.config;
  const start = `understudy-${repositoryId.slice(0, 8)}-`;
  const foreign = ['other-tool', `${start}0123`, `${start}${'0'.repeat(17)}`, `understudy-ffffffff-${'0'.repeat(16)}`];
  for (const name of foreign) await changeBitmap(image, { action: 'add', name });
  assert.deepEqual(await bitmapsOf(image), [forgotten, current, ...foreign].sort());

  const query = { connection: rig.connection, machine: await readMachine(rig.connection, domain), repositoryId };
  const stale = await findStaleBitmaps(query);
  assert.deepEqual(stale, [{ disk: 'vda', path: image, name: forgotten }]);
  assert.match(describeStaleBitmaps(stale)[0] ?? '', new RegExp(`^vda: no checkpoint refers to ${forgotten};`));

  const offline = await backups.backup('web');
  assert.equal(offline.point.kind, 'incremental', offline.point.reason);
  assert.match(offline.notices.join('\n'), new RegExp(`${forgotten} of vda.* was removed`));
  assert.deepEqual(await bitmapsOf(image), [current, ...foreign].sort());
  const next = await backups.backup('web');
  assert.deepEqual([next.point.kind, next.notices], ['incremental', []], 'the image counts as untouched');
  await execute('qemu-img', ['check', '-f', 'qcow2', image]);
});

test('one that another machine with the same image has a checkpoint for is kept', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await domain.start();
  const { point } = await backups.backup('web');
  await domain.destroy();
  const xml = await domain.xml();
  const twin = await rig.connection.define(
    xml.replace(/<uuid>.*<\/uuid>/, '').replace('<name>web</name>', '<name>twin</name>'),
  );
  const { id: repositoryId } = backups.fixture.repository.config;
  const query = { connection: rig.connection, machine: await readMachine(rig.connection, twin), repositoryId };
  assert.deepEqual(await findStaleBitmaps(query), []);
  assert.deepEqual(await bitmapsOf(image), [point.tracker['checkpoint']]);
});

test('while somebody has the image open, nothing is removed, and that is said', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'web');
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  const repositoryId = 'b5c5f35f-4f06-4a53-a6a5-8e84c3e5cf01';
  const name = `understudy-b5c5f35f-${'ab'.repeat(8)}`;
  await changeBitmap(image, { action: 'add', name });
  await domain.start();
  const query = { connection: rig.connection, machine: await readMachine(rig.connection, domain), repositoryId };
  assert.deepEqual(
    (await findStaleBitmaps(query)).map((bitmap) => bitmap.name),
    [name],
  );
  const [sentence = ''] = await removeStaleBitmaps(query);
  assert.match(sentence, /could not be removed/);
  await domain.destroy();
  assert.deepEqual(await bitmapsOf(image), [name]);
});
