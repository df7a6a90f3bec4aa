// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { type GuestWrite, guestWrite } from '../../lab/guest-write.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS } from '../../test/support/machines.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { median, Seeded } from '../statistics.ts';
import { ReferenceDisks } from './reference-disks.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';

const MACHINE = 'written';
const DISKS: readonly string[] = ['vda', 'vdb'];
const DISK_BYTES: number = 4 * 1024 ** 2;
const SECTOR_BYTES = 512;
const LONGEST_WRITE_SECTORS = 128;
/** One write in so many is of zeroes. */
const ZERO_SHARE = 10;
/** So often the service is killed, and the machine written to while it is gone; and the journal is folded in between. */
const LIVES = 4;
const UNPROTECTED_WRITES = 20;
/** Longer than the clock's unit: a moment lies between two writes. */
const APART_MS = 2;
const POLL_MS = 50;
const PROTECTED_WITHIN_MS = 60_000;
const TOLD_EACH = 200;

interface Rig {
  readonly bench: ContinuousRun;
  readonly uri: string;
  readonly domain: Domain;
  readonly state: string;
  readonly random: Seeded;
  readonly disks: ReferenceDisks;
}

/**
 * Random moments of a machine's journal, each read whole through an export, against the machine's writes applied one after the
 * other to plain buffers. The machine is mirrored by QEMU to a real service, which is killed in between.
 */
export async function moments(bench: ContinuousRun): Promise<Comparison[]> {
  const missing = await bench.missing(LIBVIRT_REQUIREMENTS);
  const count = bench.amount(1000, 40);
  const { different, writes, openMs } =
    missing.length > 0 ? { different: 0, writes: 0, openMs: [] } : await measure(bench, count);
  const comparison: Comparison = {
    what: `random moments that differ from a reference, of ${count.toLocaleString('en-US')}`,
    unit: 'moments',
    ours: { label: 'different', samples: [different] },
    other: undefined,
    target: { kind: 'at most', limit: 0 },
    remark: `${writes.toLocaleString('en-US')} writes to ${DISKS.length} disks in ${LIVES} stretches; export of a disk ${median(openMs).toFixed(0)} ms in the middle, ${Math.max(...openMs).toFixed(0)} ms at worst; seed ${bench.options.seed}`,
  };
  return missing.length === 0 ? [comparison] : withoutPeers([comparison], missing);
}

async function measure(
  bench: ContinuousRun,
  count: number,
): Promise<{ different: number; writes: number; openMs: number[] }> {
  await using stack = new AsyncDisposableStack();
  const libvirt = stack.use(await PrivateLibvirt.start());
  const connection = stack.use(await LibvirtConnection.open(libvirt.uri));
  const disks = DISKS.map((target) => ({ target, sizeBytes: DISK_BYTES }));
  const domain = await definePlainMachine({ libvirt, connection }, MACHINE, disks);
  await domain.start({ isPaused: true });
  const state = bench.workspace.statePath('state-moments');
  await bench.understudy.init(state);
  const reference = new ReferenceDisks(DISKS.length, DISK_BYTES);
  const random = new Seeded(bench.options.seed);
  const rig: Rig = { bench, uri: libvirt.uri, domain, state, random, disks: reference };
  const writesOfLife = bench.amount(1000, 100);
  for (let life = 1; life < LIVES; life++) {
    bench.say(`moments: writes, stretch ${life} of ${LIVES}`);
    const service = await startService(rig, life === 1);
    await writeKept(rig, service, writesOfLife);
    await service.kill();
    for (let n = 0; n < UNPROTECTED_WRITES; n++) await write(rig, false);
  }
  bench.say(`moments: writes, stretch ${LIVES} of ${LIVES}`);
  await using service = await startService(rig, false);
  await writeKept(rig, service, writesOfLife);
  return { ...(await compare(rig, service, count)), writes: reference.writeCount };
}

async function startService({ bench, uri, state }: Rig, isFirst: boolean): Promise<ServiceProcess> {
  const { probeDirectory } = bench.workspace;
  const service = await ServiceProcess.start(state, { probeDirectory, connect: uri });
  if (isFirst) await service.appliance.protect({ target: MACHINE, connect: uri }, UNATTENDED);
  const deadline = systemClock.elapsedMs() + PROTECTED_WITHIN_MS;
  for (;;) {
    const [report] = await service.appliance.protection({}, UNATTENDED);
    if (report?.state === 'protected') return service;
    if (systemClock.elapsedMs() > deadline) {
      await service.close();
      throw new ApplianceError('TIMED_OUT', `the machine is not protected: ${report?.reason}`);
    }
    await delay(POLL_MS);
  }
}

/** Writes that the journal has, with a fold between them. */
async function writeKept(rig: Rig, { appliance }: ServiceProcess, count: number): Promise<void> {
  for (let n = 0; n < count; n++) {
    if (n === Math.floor(count / 2)) await appliance.backup({ target: MACHINE, connect: rig.uri }, UNATTENDED);
    await write(rig, true);
  }
}

async function write({ domain, random, disks }: Rig, isKept: boolean): Promise<void> {
  const disk = random.below(DISKS.length);
  const sectors = 1 + random.below(LONGEST_WRITE_SECTORS);
  const change: GuestWrite = {
    offset: random.below(DISK_BYTES / SECTOR_BYTES - sectors) * SECTOR_BYTES,
    length: sectors * SECTOR_BYTES,
    byte: random.below(ZERO_SHARE) === 0 ? 0 : 1 + random.below(255),
  };
  await guestWrite(domain, disk, change);
  await delay(APART_MS);
  disks.add({ ...change, disk, isKept, afterMs: systemClock.nowMs() });
  await delay(APART_MS);
}

async function compare(
  { bench, random, disks }: Rig,
  { appliance }: ServiceProcess,
  count: number,
): Promise<{ different: number; openMs: number[] }> {
  const openMs: number[] = [];
  let [done, different] = [0, 0];
  for (const { afterMs, contents } of disks.randomMoments(count, random)) {
    if (done % TOLD_EACH === 0) bench.say(`moments: ${done} of ${count} compared`);
    done += 1;
    let isEqual = true;
    for (const [disk, content] of contents.entries()) {
      const beganMs = systemClock.elapsedMs();
      const point = `${MACHINE}@${new Date(afterMs).toISOString()}`;
      const { id, uri } = await appliance.export({ point, disk: DISKS[disk] ?? '' }, UNATTENDED);
      openMs.push(systemClock.elapsedMs() - beganMs);
      isEqual &&= content.equals(await readWhole(uri));
      await appliance.unexport({ id }, UNATTENDED);
    }
    if (isEqual) continue;
    different += 1;
    bench.say(`moments: ${new Date(afterMs).toISOString()} differs from the reference`);
  }
  return { different, openMs };
}

async function readWhole(uri: string): Promise<Buffer> {
  await using client = await connectNbd(uri, { connections: 1, reconnect: false });
  const content = Buffer.allocUnsafe(client.sizeBytes);
  await client.read(0, content);
  return content;
}
