// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { compareDevices } from '../../appliance/block/compare-devices.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import { BackupRig } from '../protect/backup-rig.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { noFreezes, noJournals, tool, Watched } from './fixture.ts';

const test = suite('backups after a restore in place', {
  requires: [...LIBVIRT_REQUIREMENTS, 'qemu-io', 'qemu-nbd'],
  timeoutMs: 90_000,
});

test('the next backup is incremental, and holds exactly what the restore put there', async (t) => {
  const hypervisor = await startLibvirt(t);
  const { libvirt } = hypervisor;
  const domain = await definePlainMachine(hypervisor, 'web');
  const path = join(libvirt.directory, 'web-vda.qcow2');
  const write = (...commands: readonly string[]): Promise<string> =>
    tool('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path);
  const rig = await BackupRig.create(t, libvirt.uri);
  const directory = await t.tempDir();
  const nbd = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: join(directory, 'nbd.sock') } }));
  const service = t.use(
    await RecoverService.open({
      repository: rig.fixture.repository,
      catalog: rig.fixture.catalog,
      journals: noJournals,
      freezeMarker: noFreezes,
      nbd,
      clock: systemClock,
      runtimeDirectory: directory,
      stateDirectory: directory,
      connectLibvirt: (uri) => LibvirtConnection.open(uri),
    }),
  );

  await write('write -P 0x11 0 2M', 'write -P 0x22 8M 1M');
  await domain.start();
  const first = (await rig.backup('web')).point;
  await domain.destroy();
  await write('write -P 0xaa 1M 128k', 'write -z 8M 64k', 'write -P 0xbb 12M 64k');
  await domain.start();
  const second = (await rig.backup('web')).point;
  await domain.destroy();
  await write('write -P 0xcc 4M 64k');

  const report = await service.restore({ point: first, inPlace: true, connect: libvirt.uri }, new Watched());
  assert.equal(report.targets[0]?.writtenBytes, 128 * 1024 + 3 * 64 * 1024);
  await domain.start();
  const third = (await rig.backup('web')).point;
  await domain.destroy();
  assert.deepEqual(
    [first, second, third].map(({ kind }) => kind),
    ['full', 'incremental', 'incremental'],
  );
  assert.equal(await compareDevices(rig.device(third, 'vda'), rig.device(first, 'vda')), undefined);
  assert.equal(third.disks[0]?.root, first.disks[0]?.root);
  assert.notEqual(second.disks[0]?.root, first.disks[0]?.root);
  const raw = join(directory, 'third.raw');
  await service.restore({ point: third, to: raw, connect: libvirt.uri }, new Watched());
  assert.match(await tool('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', raw, path), /identical/);
});
