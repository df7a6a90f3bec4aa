// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { FailbackReport, FailoverReport } from '../../appliance/api/schemas/standbys.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';

const NEEDED: readonly string[] = ['libvirtd', 'qemu-system-x86_64', 'qemu-nbd', 'mke2fs', 'busybox'];
const MACHINE = 'web';
const SPARE = 'web-standby';
const MIB: number = 1024 ** 2;
const DATA_BYTES: number = 64 * MIB;
const PLAIN_BYTES: number = 8192 * MIB;
/** What the spare writes to its plain disk: so many pieces of one MiB, so many MiB apart. */
const CHANGED_MIB = 64;
const APART_MIB = 100;
const LIMIT_S = 5;
const LIMIT_RATIO = 1.2;
const POLL_MS = 20;
const PROTECTED_WITHIN_MS = 120_000;
const GUEST_TIMEOUT_MS = 120_000;

interface Rig {
  readonly bench: ContinuousRun;
  readonly original: LibvirtConnection;
  readonly spare: LibvirtConnection;
  readonly service: ServiceProcess;
}

interface Round {
  readonly answerS: number;
  readonly failover: FailoverReport;
  readonly failback: FailbackReport;
}

/** A machine under continuous protection loses its hypervisor's favour, its spare takes over, and it returns. */
export async function failover(bench: ContinuousRun): Promise<Comparison[]> {
  const missing = await bench.missing(NEEDED);
  const rounds: Round[] = [];
  if (missing.length === 0) await measure(bench, rounds);
  const comparisons: Comparison[] = [
    {
      what: 'failover, command → guest user space answers',
      unit: 's',
      ours: { label: 'failover --force', samples: rounds.map(({ answerS }) => answerS) },
      other: undefined,
      target: { kind: 'at most', limit: LIMIT_S },
      notes: [
        `the small guest, under software emulation where there is no KVM; QEMU ran after ${rounds.map(({ failover: { bootedMs } }) => `${(bootedMs / 1000).toFixed(1)} s`).join(', ')}`,
      ],
    },
    {
      what: `failback after ${CHANGED_MIB} MiB of changes on an 8 GiB disk`,
      unit: 'MiB',
      ours: { label: 'copied', samples: rounds.map(({ failback: { copiedBytes } }) => copiedBytes / MIB) },
      other: { label: 'changed', samples: rounds.map(({ failback: { changedBytes } }) => changedBytes / MIB) },
      target: { kind: 'ratio at most', limit: LIMIT_RATIO },
      notes: [
        `the original was down for ${rounds.map(({ failback: { downMs } }) => `${(downMs / 1000).toFixed(1)} s`).join(', ')}`,
      ],
    },
  ];
  return missing.length === 0 ? comparisons : withoutPeers(comparisons, missing);
}

async function measure(bench: ContinuousRun, rounds: Round[]): Promise<void> {
  bench.say('failover: a machine and its spare');
  await using stack = new AsyncDisposableStack();
  const [first, second] = [stack.use(await PrivateLibvirt.start()), stack.use(await PrivateLibvirt.start())];
  const original = stack.use(await LibvirtConnection.open(first.uri));
  const spare = stack.use(await LibvirtConnection.open(second.uri));
  await startOriginal(original, first.directory);
  const state = bench.workspace.statePath('state-standby');
  await bench.understudy.init(state);
  const { probeDirectory } = bench.workspace;
  const service = stack.use(await ServiceProcess.start(state, { probeDirectory, connect: first.uri }));
  await service.appliance.protect({ target: MACHINE, connect: first.uri }, UNATTENDED);
  const rig = { bench, original, spare, service };
  await untilProtected(rig);
  await service.appliance.standbyCreate({ name: MACHINE, on: second.uri, connect: first.uri }, UNATTENDED);
  for (let round = 1; round <= bench.options.rounds; round++) {
    bench.say(`failover, round ${round} of ${bench.options.rounds}`);
    await untilProtected(rig);
    rounds.push(await failOverAndBack(rig, `round ${round}`));
  }
}

async function startOriginal(connection: LibvirtConnection, directory: string): Promise<void> {
  const image = await guestImage();
  const disks = [
    { path: join(directory, 'data.qcow2'), format: 'qcow2', target: 'vda', serial: 'DATA-1' },
    { path: join(directory, 'plain.qcow2'), format: 'qcow2', target: 'vdb', serial: 'DATA-2' },
  ] as const;
  await createDataDisk({ path: disks[0].path, sizeBytes: DATA_BYTES, format: 'qcow2' });
  await createImage({ location: disks[1].path, format: 'qcow2' }, { sizeBytes: PLAIN_BYTES });
  const acceleration = await probeAcceleration(image);
  const domain = await connection.define(guestDomainXml({ name: MACHINE, image, acceleration, disks }));
  await domain.start();
  await using console = await shellOf(connection, MACHINE);
  await console.expect('head -c 6000000 /dev/urandom > /dev/vdb; sync');
}

async function failOverAndBack(rig: Rig, word: string): Promise<Round> {
  const { appliance } = rig.service;
  {
    await using console = await shellOf(rig.original, MACHINE);
    await console.expect(`echo ${word} > /data/last; sync`);
  }
  const beganMs = systemClock.elapsedMs();
  const answering = answerOf(rig, word).then((console) => ({
    console,
    answerS: (systemClock.elapsedMs() - beganMs) / 1000,
  }));
  // Whichever fails first is what is said.
  const [report, { console, answerS }] = await Promise.all([
    appliance.failover({ name: MACHINE, force: true }, UNATTENDED),
    answering,
  ]);
  rig.bench.say(`  the spare answered after ${answerS.toFixed(2)} s`);
  const sum = await changeAndSum(console);
  await console.close();
  const failback = await appliance.failback({ name: MACHINE }, UNATTENDED);
  if (failback.method !== 'changes') rig.bench.say(`  everything was compared: ${failback.reason}`);
  await using again = await shellOf(rig.original, MACHINE);
  if ((await sumOf(again)) !== sum) throw new ApplianceError('INTERNAL', 'the failback returned something else');
  return { answerS, failover: report, failback };
}

/** The spare's shell, when it runs and has read a file of its disk. */
async function answerOf({ spare }: Rig, word: string): Promise<GuestConsole> {
  const deadline = systemClock.elapsedMs() + GUEST_TIMEOUT_MS;
  while (!(await isRunning(spare))) {
    if (systemClock.elapsedMs() > deadline) throw new ApplianceError('TIMED_OUT', 'the spare does not start');
    await delay(POLL_MS);
  }
  const console = await shellOf(spare, SPARE);
  const found = await console.expect('cat /data/last');
  if (found !== word) throw new ApplianceError('INTERNAL', `the spare has ${found} instead of ${word}`);
  return console;
}

async function isRunning(connection: LibvirtConnection): Promise<boolean> {
  try {
    return (await (await connection.domainByName(SPARE)).state()).state === 'running';
  } catch (error) {
    // It is defined anew.
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return false;
    throw error;
  }
}

async function shellOf(connection: LibvirtConnection, name: string): Promise<GuestConsole> {
  return await GuestConsole.of(await connection.domainByName(name));
}

/** Changes pieces all over the plain disk; the sum of what is in them. */
async function changeAndSum(console: GuestConsole): Promise<string> {
  const each = `dd if=/dev/urandom of=/dev/vdb bs=1M seek=$((n * ${APART_MIB})) count=1 conv=notrunc 2>/dev/null`;
  await console.expect(`n=0; while [ $n -lt ${CHANGED_MIB} ]; do ${each}; n=$((n + 1)); done; sync`, {
    timeoutMs: GUEST_TIMEOUT_MS,
  });
  return await sumOf(console);
}

async function sumOf(console: GuestConsole): Promise<string> {
  const each = `dd if=/dev/vdb bs=1M skip=$((n * ${APART_MIB})) count=1 2>/dev/null`;
  const loop = `n=0; while [ $n -lt ${CHANGED_MIB} ]; do ${each}; n=$((n + 1)); done`;
  return await console.expect(`echo 3 > /proc/sys/vm/drop_caches; (${loop}) | md5sum`, { timeoutMs: GUEST_TIMEOUT_MS });
}

async function untilProtected({ service: { appliance } }: Rig): Promise<void> {
  const deadline = systemClock.elapsedMs() + PROTECTED_WITHIN_MS;
  for (;;) {
    const [report] = await appliance.protection({}, UNATTENDED);
    if (report?.state === 'protected') return;
    if (systemClock.elapsedMs() > deadline) {
      throw new ApplianceError('TIMED_OUT', `the machine is not protected: ${report?.reason}`);
    }
    await delay(POLL_MS * 10);
  }
}
