// SPDX-License-Identifier: Apache-2.0
// time limit: 600 s
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { hasCode } from '../../appliance/core/errors.ts';
import type { MigrateRequest } from '../../appliance/recover/migration-plan.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
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

test('a migration that is cancelled leaves nothing at the target, and the machine runs on from the appliance', async (t) => {
  const rig = await makeMigrateRig(t);
  const { service, shell, domain, place } = rig;
  await startWriting(shell);
  for (const phase of ['making room', 'copying 2 disks', 'comparing', 'going over']) {
    const watched = new Watched();
    watched.onEach = (progress) => {
      // Going over is not interrupted any more: the abort comes with the last step before it.
      if (progress.phase === phase && phase !== 'going over') watched.abort.abort();
    };
    const request = {
      name: 'web-test',
      place: { kind: 'directory', path: place } as const,
      ...(phase === 'copying 2 disks' ? { bandwidthBytes: MIB } : {}),
    };
    if (phase === 'going over') {
      await service.machines.migrate(request, watched);
      break;
    }
    await assert.rejects(service.machines.migrate(request, watched), { code: 'ABORTED' });
    assert.deepEqual(await readdir(place), [], phase);
    assert.deepEqual(watched.notices, []);
    assert.doesNotMatch(await domain.xml(), /<mirror/);
    assert.equal((await service.machines.booted())[0]?.state, 'running');
    await untilWritten(shell);
  }
  await assertNumbers(shell, await untilWritten(shell));
});

test('what cannot be moved is refused before anything is made', async (t) => {
  const { service, connection, domain, place, directory } = await makeMigrateRig(t);
  const migrate = (request: Partial<MigrateRequest>): Promise<unknown> =>
    service.machines.migrate(
      { name: 'web-test', place: { kind: 'directory', path: place }, ...request },
      new Watched(),
    );
  await writeFile(join(place, 'web-test-vdb.qcow2'), 'somebody else’s');
  await assert.rejects(migrate({}), { code: 'TARGET_EXISTS' });
  await connection.define(
    '<domain type="qemu"><name>taken</name><memory unit="MiB">32</memory><os><type>hvm</type></os></domain>',
  );
  await assert.rejects(migrate({ as: 'taken' }), { code: 'DOMAIN_EXISTS' });
  await assert.rejects(migrate({ as: 'a/b' }), { code: 'BAD_ARGUMENT' });
  await assert.rejects(migrate({ name: 'nobody' }), { code: 'MACHINE_NOT_FOUND' });
  await assert.rejects(migrate({ place: { kind: 'pool', name: 'nowhere' } }), { code: 'VOLUME_NOT_FOUND' });
  await assert.rejects(migrate({ place: { kind: 'directory', path: join(directory, 'nowhere') } }), {
    code: 'IO_FAILED',
  });
  await assert.rejects(service.machines.migrate({ name: 'web-test' }, new Watched()), { code: 'BAD_ARGUMENT' });
  await domain.destroy();
  await assert.rejects(migrate({ format: 'raw' }), { code: 'DOMAIN_WRONG_STATE' });
  assert.deepEqual(await readdir(place), ['web-test-vdb.qcow2']);
  assert.equal(await readFile(join(place, 'web-test-vdb.qcow2'), 'utf8'), 'somebody else’s');
  assert.equal((await service.machines.booted()).length, 1);
});

test(
  'a target without room is refused with what is missing, and one that fills up leaves the machine where it was',
  async (t) => {
    const { service, shell, domain, directory } = await makeMigrateRig(t);
    const small = t.use(await SmallFileSystem.mount(join(directory, 'small'), 40 * MIB));
    await small.fill();
    const request = { name: 'web-test', place: { kind: 'directory', path: small.path } as const };
    await assert.rejects(
      service.machines.migrate(request, new Watched()),
      (error: unknown) => hasCode(error, 'NO_SPACE') && Number(error.details['missingBytes']) > 14 * MIB,
    );
    await small.release();
    await startWriting(shell);
    const watched = new Watched();
    let filling: Promise<void> | undefined;
    watched.onEach = ({ phase }) => {
      if (phase === 'copying 2 disks') filling ??= small.fill();
    };
    await assert.rejects(service.machines.migrate({ ...request, bandwidthBytes: MIB }, watched), { code: 'NO_SPACE' });
    await filling;
    await small.release();
    assert.deepEqual(await readdir(small.path), []);
    await assertNumbers(shell, await untilWritten(shell));
    await service.machines.migrate(request, new Watched());
    await assertNumbers(shell, await untilWritten(shell));
    await domain.destroy();
  },
  { requires: MOUNT_REQUIREMENTS },
);
