// SPDX-License-Identifier: Apache-2.0
// time limit: 600 s
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { Watched } from './fixture.ts';
import { acknowledged, assertNumbers, makeMigrateRig, startAnew, startWriting, untilWritten } from './migrate-rig.ts';

const test = suite('migration to production storage', { requires: GUEST_REQUIREMENTS, timeoutMs: 180_000 });
const MIB = 1024 * 1024;

test('a machine moves to qcow2 files while it writes, loses nothing, and needs the appliance no more', async (t) => {
  const rig = await makeMigrateRig(t);
  const { service, shell, domain, place, directory, point } = rig;
  await startWriting(shell);
  await untilWritten(shell);
  const watched = new Watched();
  const report = await service.machines.migrate(
    { name: 'web-test', place: { kind: 'directory', path: place } },
    watched,
  );
  assert.deepEqual(
    report.disks.map(({ disk, path, format }) => ({ disk, path, format })),
    [
      { disk: 'vda', path: join(place, 'web-test-vda.qcow2'), format: 'qcow2' },
      { disk: 'vdb', path: join(place, 'web-test-vdb.qcow2'), format: 'qcow2' },
    ],
  );
  const wholeBytes = report.disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  assert.equal((report.verifiedBytes ?? 0) + report.busyBytes, wholeBytes);
  assert.ok((report.verifiedBytes ?? 0) > wholeBytes / 2, JSON.stringify(report));
  assert.ok(watched.progress.some(({ phase, unit }) => phase === 'copying 2 disks' && unit === 'bytes'));
  assert.equal((await domain.state()).state, 'running');
  assert.deepEqual(await service.machines.booted(), []);
  assert.deepEqual(service.use.heldPoints(), []);
  assert.deepEqual(await readdir(join(directory, 'sessions')), []);
  const moved = await untilWritten(shell);
  await service.close();
  const last = await untilWritten(shell);
  assert.ok(last > moved);
  await assertNumbers(shell, last);
  const definition = await domain.xml({ isInactive: true });
  assert.doesNotMatch(definition, /nbd|understudy\.dev|error_policy|backingStore/);
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
  const before = await acknowledged(shell);
  await assertNumbers(await startAnew(t, rig), before);
  assert.equal(point.machine.name, 'web');
  assert.deepEqual((await readdir(place)).sort(), ['web-test-vda.qcow2', 'web-test-vdb.qcow2']);
});

test('a machine moves to raw volumes of a pool, starts with its host, and gets its name when it is shut off', async (t) => {
  const rig = await makeMigrateRig(t);
  const { service, shell, connection, libvirt, place } = rig;
  const virsh = (...words: string[]): Promise<{ stdout: string }> =>
    promisify(execFile)('virsh', ['-c', libvirt.uri, ...words]);
  await virsh('pool-create-as', 'store', 'dir', '--target', place);
  await startWriting(shell);
  const report = await service.machines.migrate(
    {
      name: 'web-test',
      place: { kind: 'pool', name: 'store' },
      format: 'raw',
      as: 'web',
      autostart: true,
      bandwidthBytes: 64 * MIB,
    },
    new Watched(),
  );
  assert.equal(report.nextName, 'web');
  assert.deepEqual(
    report.disks.map(({ path }) => path),
    [join(place, 'web-vda.raw'), join(place, 'web-vdb.raw')],
  );
  // What was a hole is one still.
  assert.ok((await stat(join(place, 'web-vda.raw'))).blocks * 512 < 30 * MIB);
  assert.match((await virsh('dominfo', 'web-test')).stdout, /Autostart:\s+enable/);
  const last = await untilWritten(shell);
  await assertNumbers(shell, last);
  await (await connection.domainByName('web-test')).destroy();
  while (!(await connection.domains()).some(({ domain }) => domain.name === 'web'));
  await assertNumbers(await startAnew(t, rig, 'web'), last);
});
