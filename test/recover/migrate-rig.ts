// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import type { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import type { TestContext } from '../support/test-scope.ts';
import { type BootRig, MACHINE_ID, shellOf, startService } from './boot-rig.ts';
import { noise, Watched } from './fixture.ts';

const MIB = 1024 * 1024;
const DATA_BYTES = 48 * MIB;
const SECOND_BYTES = 24 * MIB;
const NAME = 'web-test';

/** A booted guest with two disks: `/data` on the first, and the second, which is written sector by sector. */
export interface MigrateRig extends BootRig {
  /** Where the disks go; empty. */
  readonly place: string;
  readonly domain: Domain;
  readonly shell: GuestConsole;
}

export async function makeMigrateRig(t: TestContext): Promise<MigrateRig> {
  const directory = await t.tempDir();
  const libvirt = t.use(await PrivateLibvirt.start());
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  const fixture = await FixtureRepository.create(directory);
  const service = await startService(t, directory, fixture, connection);
  const [first, second] = [join(directory, 'first.raw'), join(directory, 'second.raw')];
  await createDataDisk({ path: first, sizeBytes: DATA_BYTES, format: 'raw', files: { hello: noise(9 * MIB, 7) } });
  await writeFile(second, Buffer.concat([noise(5 * MIB, 8), Buffer.alloc(SECOND_BYTES - 5 * MIB)]));
  const image = await guestImage();
  const definition = guestDomainXml({
    name: 'web',
    uuid: MACHINE_ID,
    image,
    acceleration: await probeAcceleration(image),
    disks: [
      { path: first, format: 'raw', target: 'vda', serial: 'DATA-1' },
      { path: second, format: 'raw', target: 'vdb', serial: 'DATA-2' },
    ],
    macAddress: '52:54:00:11:22:33',
  });
  await using vda = await openFileDevice(first, 'read-only');
  await using vdb = await openFileDevice(second, 'read-only');
  const point = await fixture.addPoint({
    machine: { id: MACHINE_ID, name: 'web' },
    disks: { vda, vdb },
    attachments: { 'domain.xml': Buffer.from(definition) },
  });
  const place = join(directory, 'production');
  await mkdir(place);
  await service.machines.boot({ point, connect: libvirt.uri, as: NAME }, new Watched());
  const domain = await connection.domainByName(NAME);
  return { libvirt, connection, directory, point, service, place, domain, shell: await shellOf(t, domain) };
}

/** Numbers written without end: each into a file, flushed, and then to the second disk, flushed. */
export async function startWriting(shell: GuestConsole): Promise<void> {
  const loop =
    'i=0; while :; do i=$((i+1)); echo $i >> /data/numbers; sync; ' +
    'printf "%08d" $i | dd of=/dev/vdb bs=512 seek=$((20480 + i % 4096)) conv=sync,fsync,notrunc 2>/dev/null; ' +
    'echo $i > /tmp/acknowledged; done';
  await shell.expect(`echo '${loop}' > /tmp/writer; sh /tmp/writer </dev/null >/dev/null 2>&1 & true`);
}

/** The last number of which the guest was told that it is on both disks. */
export async function acknowledged(shell: GuestConsole): Promise<number> {
  return Number(await shell.expect('cat /tmp/acknowledged 2>/dev/null || echo 0'));
}

/** Waits until the guest has written `more` numbers more. */
export async function untilWritten(shell: GuestConsole, more: number = 5): Promise<number> {
  const goal = (await acknowledged(shell)) + more;
  for (;;) {
    const now = await acknowledged(shell);
    if (now >= goal) return now;
  }
}

/** Every number up to `least` is on both disks, read from the disks and not from the guest's memory. */
export async function assertNumbers(shell: GuestConsole, least: number): Promise<void> {
  await shell.expect('sync; echo 3 > /proc/sys/vm/drop_caches');
  const script =
    'awk \'{ if ($1 != NR) { print "gap at " NR; exit } } END { print NR }\' /data/numbers | head -n 1; ' +
    `dd if=/dev/vdb bs=512 skip=$((20480 + ${least} % 4096)) count=1 2>/dev/null | head -c 8`;
  const [last = '', sector = ''] = (await shell.expect(script)).split('\n');
  assert.match(last, /^\d+$/, last);
  assert.ok(Number(last) >= least, `${last} of ${least} numbers are in the file`);
  assert.equal(Number(sector), least);
}

/** The machine as it comes up from its definition alone, after the plug was pulled. */
export async function startAnew(t: TestContext, rig: MigrateRig, name: string = NAME): Promise<GuestConsole> {
  const domain = await rig.connection.domainByName(name);
  if ((await domain.state()).state !== 'shut-off') await domain.destroy();
  await domain.start();
  return await shellOf(t, domain);
}
