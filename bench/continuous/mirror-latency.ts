// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { mirrorDestinationXml } from '../../appliance/hypervisor/libvirt/mirror-xml.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration } from '../../lab/guest.ts';
import { GuestConsole } from '../../lab/guest-console.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import type { Comparison } from '../comparison.ts';
import { ServerProcess } from '../server-process.ts';
import { median } from '../statistics.ts';
import { EXPORT_NAME, startJournalServer } from './journal-server.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';
import { WriteHistogram } from './write-histogram.ts';

const DISK_BYTES: number = 16 * 1024 * 1024;
const DISK = 'vdb';
const ALIAS = 'virtio-disk1';
/** As many as a compiler that works at run time needs: a session lasts for hours. */
const WARM_WRITES = 4000;
const WARM_ROUNDS = 5;
const NEEDED: readonly string[] = ['libvirtd', 'qemu-system-x86_64', 'mke2fs', 'busybox', 'nbdkit'];
const WANTED_P50 = 1.25;
const WANTED_P99 = 1.5;

interface Rig {
  readonly bench: ContinuousRun;
  readonly domain: Domain;
  readonly connection: LibvirtConnection;
  readonly console: GuestConsole;
}

interface Sample {
  readonly p50Us: number;
  readonly p99Us: number;
}

/** Something to mirror to; undefined: nothing. */
type OpenTarget = (bench: ContinuousRun) => Promise<ServerProcess | undefined>;

const TARGETS = {
  nothing: () => Promise.resolve(undefined),
  nbdkit: openNbdkit,
  journal: (bench) =>
    startJournalServer(bench.workspace, { directory: bench.workspace.path('journal'), sizeBytes: DISK_BYTES }),
} as const satisfies Readonly<Record<string, OpenTarget>>;
type TargetName = keyof typeof TARGETS;
const NAMES: readonly TargetName[] = ['nothing', 'nbdkit', 'journal'];

/** What a mirror adds to a guest's 4 KiB write, one at a time, O_DIRECT, by QEMU's own histogram of the virtual disk. */
export async function mirrorLatency(bench: ContinuousRun): Promise<Comparison[]> {
  const missing = await bench.missing(NEEDED);
  const samples: Record<TargetName, Sample[]> = { nothing: [], nbdkit: [], journal: [] };
  if (missing.length === 0) await measure(bench, samples);
  const comparisons = [
    ...comparisonsOf('p50', WANTED_P50, samples, ({ p50Us }) => p50Us),
    ...comparisonsOf('p99', WANTED_P99, samples, ({ p99Us }) => p99Us),
  ];
  return missing.length === 0 ? comparisons : withoutPeers(comparisons, missing);
}

/** The whole of a write under a mirror, and what is left of it without the write to the machine's own disk. */
function comparisonsOf(
  name: string,
  limit: number,
  samples: Readonly<Record<TargetName, readonly Sample[]>>,
  of: (sample: Sample) => number,
): Comparison[] {
  const own = median(samples.nothing.map(of));
  const [ours, theirs] = [samples.journal.map(of), samples.nbdkit.map(of)];
  const added = (series: readonly number[]): number[] => series.map((us) => Math.max(0, us - own));
  const isNoise = median(added(theirs)) === 0;
  const labels = ['mirror to our server', 'mirror to nbdkit memory'] as const;
  const target = { kind: 'ratio at most', limit } as const;
  const remark = `${own.toFixed(0)} µs (median of the runs) without a mirror`;
  return [
    {
      what: `guest's 4 KiB write under a mirror, depth 1, ${name}`,
      unit: 'µs',
      ours: { label: labels[0], samples: ours },
      other: { label: labels[1], samples: theirs },
      target,
      notes: [remark],
    },
    {
      what: `of that, added by the mirror, ${name}`,
      unit: 'µs',
      ours: { label: labels[0], samples: added(ours) },
      other: { label: labels[1], samples: added(theirs) },
      target,
      ...(isNoise ? { missing: 'not measured', notes: ['nbdkit added nothing that could be seen'] } : {}),
    },
  ];
}

async function measure(bench: ContinuousRun, samples: Record<TargetName, Sample[]>): Promise<void> {
  await using stack = new AsyncDisposableStack();
  bench.say('mirror-latency: a guest');
  const rig = await startRig(bench, stack);
  const writes = bench.amount(2000, 200);
  for (let round = 0; round < bench.options.rounds * 2; round++) {
    bench.say(`mirror-latency, round ${round + 1} of ${bench.options.rounds * 2}`);
    // Each target comes at each place in the order.
    for (let n = 0; n < NAMES.length; n++) {
      const name = NAMES[(n + round) % NAMES.length] ?? 'nothing';
      samples[name].push(await measureTarget(rig, TARGETS[name], writes));
    }
  }
}

async function openNbdkit({ workspace }: ContinuousRun): Promise<ServerProcess> {
  const socketPath = workspace.socketPath('nbdkit');
  const args = ['--foreground', '--exit-with-parent', '--unix', socketPath, 'memory', String(DISK_BYTES)];
  return await ServerProcess.start('nbdkit', args, { socketPath });
}

async function startRig(bench: ContinuousRun, stack: AsyncDisposableStack): Promise<Rig> {
  const libvirt = stack.use(await PrivateLibvirt.start());
  const connection = stack.use(await LibvirtConnection.open(libvirt.uri));
  const image = await guestImage();
  const disks = [
    { path: join(libvirt.directory, 'a.qcow2'), format: 'qcow2', target: 'vda' },
    { path: join(libvirt.directory, 'b.qcow2'), format: 'qcow2', target: DISK },
  ] as const;
  await createDataDisk({ path: disks[0].path, sizeBytes: DISK_BYTES, format: 'qcow2' });
  await createImage({ location: disks[1].path, format: 'qcow2' }, { sizeBytes: DISK_BYTES });
  const acceleration = await probeAcceleration(image);
  const domain = await connection.define(guestDomainXml({ name: 'latency', image, acceleration, disks }));
  await domain.start();
  const console = stack.use(await GuestConsole.of(domain));
  // Allocates the image, so that no round pays for it.
  await console.expect(`dd if=/dev/zero of=/dev/${DISK} bs=1M count=16 oflag=direct 2>/dev/null`);
  return { bench, domain, connection, console };
}

async function write(console: GuestConsole, count: number): Promise<void> {
  const command = `dd if=/dev/zero of=/dev/${DISK} bs=4k count=${count} oflag=direct 2>/dev/null`;
  await console.expect(command, { timeoutMs: 120_000 });
}

async function measureTarget(rig: Rig, open: OpenTarget, writes: number): Promise<Sample> {
  const { bench, domain, connection, console } = rig;
  await using target = await open(bench);
  if (target !== undefined) {
    const ready = connection.waitForEvent('block-job', ({ status }) => status === 'ready');
    const place = { kind: 'unix', socketPath: target.socketPath } as const;
    const destinationXml = mirrorDestinationXml({ place, exportName: EXPORT_NAME });
    const flags = { reusesDestination: true, isTransient: true, isSynchronous: true } as const;
    await domain.blockCopy({ disk: DISK, destinationXml, ...flags });
    await ready;
  }
  for (let n = 0; n < WARM_ROUNDS; n++) await write(console, WARM_WRITES);
  const histogram = await WriteHistogram.start(domain, ALIAS);
  await write(console, writes);
  const sample = { p50Us: await histogram.percentile(0.5), p99Us: await histogram.percentile(0.99) };
  if (target !== undefined) await domain.abortBlockJob(DISK);
  return sample;
}
