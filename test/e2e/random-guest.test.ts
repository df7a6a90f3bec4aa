// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { compareDevices } from '../../appliance/block/compare-devices.ts';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { BackupRig } from '../protect/backup-rig.ts';
import { randomSource } from '../support/crashing-file-system.ts';
import { GUEST_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/** UNDERSTUDY_ROUNDS and UNDERSTUDY_SEED make a campaign of it: the seed of a failed run repeats what the guest did. */
const ROUNDS = Number(process.env['UNDERSTUDY_ROUNDS'] ?? 6);
const SEED = Number(process.env['UNDERSTUDY_SEED'] ?? Math.floor(systemClock.nowMs() % 1_000_000));
const test = suite('a guest at random', { requires: GUEST_REQUIREMENTS, timeoutMs: 60_000 + ROUNDS * 20_000 });

const execute = promisify(execFile);
const RAW_BYTES = 96 * 1024 * 1024;
const SECTOR = 512;

interface Guest {
  readonly domain: Domain;
  readonly console: GuestConsole;
  readonly disks: { readonly vda: string; readonly vdb: string };
}

/** What was true at the moment of a point, from two independent witnesses. */
interface Witness {
  readonly point: RecoveryPoint;
  /** SHA-256 of the second disk, computed inside the guest. */
  readonly rawDigest: string;
  /** A raw copy of the first disk, made by qemu-img while the guest was stopped. */
  readonly fileSystemCopy: string;
}

async function startTwoDiskGuest(t: TestContext, rig: LibvirtRig): Promise<Guest> {
  const image = await guestImage();
  const vda = join(rig.libvirt.directory, 'vda.qcow2');
  const vdb = join(rig.libvirt.directory, 'vdb.qcow2');
  await createDataDisk({ path: vda, sizeBytes: 64 * 1024 * 1024, format: 'qcow2', files: { hello: 'world' } });
  await createImage({ location: vdb, format: 'qcow2' }, { sizeBytes: RAW_BYTES });
  const domain = await rig.connection.define(
    guestDomainXml({
      name: 'random',
      image,
      acceleration: await probeAcceleration(image),
      disks: [
        { path: vda, format: 'qcow2', target: 'vda' },
        { path: vdb, format: 'qcow2', target: 'vdb' },
      ],
    }),
  );
  await domain.start();
  return { domain, console: t.use(await GuestConsole.of(domain)), disks: { vda, vdb } };
}

async function run(guest: Guest, command: string): Promise<string> {
  const { status, output } = await guest.console.run(command, { timeoutMs: 30_000 });
  assert.equal(status, 0, `${command}: ${output}`);
  return output.trim();
}

/** One step of the guest: writes, zeroes and discards on the raw disk, files made, changed and removed on the other. */
function randomStep(random: () => number): string {
  const below = (limit: number): number => Math.floor(random() * limit);
  const sectors = RAW_BYTES / SECTOR;
  const count = 1 + below(below(4) === 0 ? 4000 : 40);
  const start = below(sectors - count);
  const to = `of=/dev/vdb bs=${SECTOR} seek=${start} count=${count} conv=notrunc 2>/dev/null`;
  const file = `/data/f${below(12)}`;
  const steps = [
    `tr '\\0' '\\${(1 + below(254)).toString(8).padStart(3, '0')}' < /dev/zero | dd iflag=fullblock ${to}`,
    `dd if=/dev/urandom ${to}`,
    `dd if=/dev/zero ${to}`,
    `blkdiscard -o ${start * SECTOR} -l ${count * SECTOR} /dev/vdb || dd if=/dev/zero ${to}`,
    `dd if=/dev/urandom of=${file} bs=1000 count=${1 + below(600)} 2>/dev/null || true`,
    `rm -f ${file}`,
    `mkdir -p /data/d && cp -r /data/f* /data/d/ 2>/dev/null || true`,
    `rm -rf /data/d; fstrim /data 2>/dev/null || true`,
    `[ -e ${file} ] && truncate -s ${below(200_000)} ${file} || true`,
  ];
  return steps[below(steps.length)] ?? 'true';
}

async function digestOf(backups: BackupRig, point: RecoveryPoint, disk: string): Promise<string> {
  const device = backups.device(point, disk);
  const hash = createHash('sha256');
  const bytes = Buffer.alloc(1024 * 1024);
  for (let offset = 0; offset < device.sizeBytes; offset += bytes.length) {
    const part = bytes.subarray(0, Math.min(bytes.length, device.sizeBytes - offset));
    await device.read(offset, part);
    hash.update(part);
  }
  return hash.digest('hex');
}

async function assertHolds(backups: BackupRig, witness: Witness): Promise<void> {
  const name = `point ${witness.point.id} (${witness.point.kind}), seed ${SEED}`;
  assert.equal(await digestOf(backups, witness.point, 'vdb'), witness.rawDigest, `${name}: vdb`);
  await using copy = await openFileDevice(witness.fileSystemCopy, 'read-only');
  assert.equal(await compareDevices(backups.device(witness.point, 'vda'), copy), undefined, `${name}: vda`);
}

test(`every recovery point is the guest's state at its moment, also after others were deleted (seed ${SEED}, ${ROUNDS} rounds)`, async (t) => {
  const random = randomSource(SEED);
  const rig = await startLibvirt(t);
  const backups = await BackupRig.create(t, rig.libvirt.uri);
  const copies = await t.tempDir();
  const guest = await startTwoDiskGuest(t, rig);
  const { repository, catalog } = backups.fixture;
  let witnesses: Witness[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const steps = Array.from({ length: 3 + Math.floor(random() * 12) }, () => randomStep(random));
    for (const step of steps) await run(guest, step);
    const rawDigest = (await run(guest, 'sync; sha256sum /dev/vdb')).slice(0, 64);
    await guest.domain.suspend();
    const fileSystemCopy = join(copies, `${round}.raw`);
    // The guest has flushed everything and stands still: what another process sees of the image is all there is.
    await execute('qemu-img', ['convert', '-U', '-f', 'qcow2', '-O', 'raw', guest.disks.vda, fileSystemCopy]);
    const { point } = await backups.backup('random');
    await guest.domain.resume();
    assert.equal(point.kind, round === 0 ? 'full' : 'incremental', point.reason);
    witnesses.push({ point, rawDigest, fileSystemCopy });
    if (random() < 0.4 && witnesses.length > 2) {
      const [victim] = witnesses.splice(Math.floor(random() * (witnesses.length - 1)), 1);
      assert.ok(victim !== undefined);
      await repository.manifests.purge({ machineId: victim.point.machine.id, pointId: victim.point.id });
      await catalog.deletePoint(victim.point.id);
      await rm(victim.fileSystemCopy);
      await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0, minLiveShare: 0.9 });
    }
    witnesses = [...witnesses];
    repository.reader.dropCaches();
    for (const witness of witnesses) await assertHolds(backups, witness);
  }
  const result = await check(repository, catalog, { readData: true });
  assert.deepEqual(result.findings, []);
  await guest.domain.destroy();
});
