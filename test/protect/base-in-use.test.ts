// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { systemClock } from '../../appliance/core/clock.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { assertDisk } from '../support/point-model.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const execute = promisify(execFile);
const test = suite('the base of a running backup', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });
const MIB = 1024 * 1024;

test('a base that is deleted and collected during an incremental leaves the new point whole', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: 32 * MIB }]);
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  const writes = Array.from({ length: 32 }, (_, n) => ['-c', `write -P ${n + 1} ${n}M 1M`]).flat();
  await execute('qemu-io', ['-f', 'qcow2', ...writes, image]);
  await domain.start();
  const { point: base } = await backups.backup('web');
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 99 3M 64k"' },
  });
  assert.doesNotMatch(String(reply), /failed|error/i);

  const { repository, catalog } = backups.fixture;
  let collected: Promise<unknown> | undefined;
  const deleteBase = async (): Promise<void> => {
    await repository.manifests.purge({ machineId: base.machine.id, pointId: base.id });
    await catalog.deletePoint(base.id);
    await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });
  };
  const { point } = await backups.backup('web', {
    onProgress: () => {
      collected ??= deleteBase();
    },
  });
  await collected;
  assert.ok(collected !== undefined, 'the base was collected during the run');
  assert.equal(point.kind, 'incremental', point.reason);
  await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });

  await domain.destroy();
  const raw = join(rig.libvirt.directory, 'expected.raw');
  await execute('qemu-img', ['convert', '-O', 'raw', image, raw]);
  repository.reader.dropCaches();
  await assertDisk(repository, point, 'vda', await readFile(raw));
});
