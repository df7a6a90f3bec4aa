// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { BackupRig } from './backup-rig.ts';

const execute = promisify(execFile);
const test = suite('disks that were smaller in between', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });
const MIB = 1024 * 1024;
const CHUNK = 64 * 1024;

/** The values of the bytes in the last two chunks of a point's disk. */
async function tailOf(backups: BackupRig, point: Parameters<BackupRig['device']>[0]): Promise<number[][]> {
  const tail = Buffer.alloc(2 * CHUNK);
  await backups.device(point, 'vda').read(64 * MIB - tail.length, tail);
  return [[...new Set(tail.subarray(0, CHUNK))], [...new Set(tail.subarray(CHUNK))]];
}

test('a running machine whose disk was shrunk and grown back is found out, though its bitmap calls the end clean', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: 64 * MIB }]);
  await execute('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0xaa 0 64M', join(rig.libvirt.directory, 'web-vda.qcow2')]);
  await domain.start();
  const { point: first } = await backups.backup('web');
  // So little that the sample of unchanged chunks hardly ever meets it.
  await domain.blockResize('vda', 64 * MIB - CHUNK);
  await domain.blockResize('vda', 64 * MIB);
  const { point } = await backups.backup('web');
  assert.equal(point.kind, 'full-scan', point.reason);
  assert.match(point.reason, /reads as zeroes/);
  assert.deepEqual(await tailOf(backups, point), [[0xaa], [0]]);
  assert.deepEqual(await tailOf(backups, first), [[0xaa], [0xaa]]);
  const { point: third } = await backups.backup('web');
  assert.equal(third.kind, 'incremental', third.reason);
  await domain.destroy();
});

test('the same with an image that was resized while its machine was off', async (t) => {
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const domain = await definePlainMachine(rig, 'web', [{ target: 'vda', sizeBytes: 64 * MIB }]);
  const image = join(rig.libvirt.directory, 'web-vda.qcow2');
  await execute('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0xaa 0 64M', image]);
  await domain.start();
  await backups.backup('web');
  await domain.destroy();
  await execute('qemu-img', ['resize', '--shrink', image, String(64 * MIB - CHUNK)]);
  await execute('qemu-img', ['resize', image, '64M']);
  const { point } = await backups.backup('web');
  assert.deepEqual(await tailOf(backups, point), [[0xaa], [0]]);
  assert.equal(point.kind, 'full-scan', point.reason);
});
