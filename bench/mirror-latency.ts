// SPDX-License-Identifier: Apache-2.0

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BlockDevice } from '../appliance/block/block-device.ts';
import { checked } from '../appliance/block/checked-device.ts';
import { memoryDevice } from '../appliance/block/memory-device.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { parseMachineId } from '../appliance/core/ids.ts';
import { LibvirtConnection } from '../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../appliance/hypervisor/libvirt/domain.ts';
import { mirrorDestinationXml } from '../appliance/hypervisor/libvirt/mirror-xml.ts';
import { createImage } from '../appliance/hypervisor/qemu-img.ts';
import { NbdServer } from '../appliance/nbd/server/nbd-server.ts';
import { JournalTarget } from '../appliance/protect/continuous/journal-target.ts';
import { Journal } from '../appliance/volume/journal.ts';
import { createDataDisk, guestDomainXml, guestImage, probeAcceleration, shellSocketPath } from '../lab/guest.ts';
import { GuestConsole } from '../lab/guest-console.ts';
import { PrivateLibvirt } from '../lab/libvirtd.ts';
import { median } from './statistics.ts';

/*
 * What a mirror adds to a guest's 4 KiB write, one at a time, O_DIRECT: QEMU's own histogram of the virtual disk, with no
 * mirror, with a mirror to `nbdkit memory`, to our server over memory, and over an encrypted journal (which is flushed
 * every second). The targets take turns; each figure is the median over the rounds.
 *
 *   sh scripts/run bench/mirror-latency.ts [ROUNDS [WRITES]]
 */

const DISK_BYTES: number = 16 * 1024 * 1024;
const DISK = 'vdb';
const WARM_WRITES = 100;
/** Half a percent wide: from 10 µs to about 1 s. */
const BOUNDARIES_NS: readonly number[] = Array.from({ length: 2300 }, (_, n) => Math.round(10_000 * 1.005 ** n));
const FLUSH_MS = 1_000;
const ALIAS = 'virtio-disk1';

interface Percentiles {
  readonly p50Us: number;
  readonly p99Us: number;
}

interface Histogram {
  readonly boundaries: readonly number[];
  readonly bins: readonly number[];
}

interface Rig {
  readonly domain: Domain;
  readonly connection: LibvirtConnection;
  readonly console: GuestConsole;
  readonly directory: string;
}

/** Something to mirror to; undefined: nothing. */
type OpenTarget = (rig: Rig) => Promise<({ readonly socketPath: string } & AsyncDisposable) | undefined>;

const TARGETS: Readonly<Record<string, OpenTarget>> = {
  'no mirror': () => Promise.resolve(undefined),
  'nbdkit memory': openNbdkit,
  'our server, memory': (rig) => openServer(rig, memoryDevice({ sizeBytes: DISK_BYTES })),
  'our server, journal': openJournal,
};

async function openNbdkit({ directory }: Rig): Promise<{ readonly socketPath: string } & AsyncDisposable> {
  const socketPath = join(directory, 'nbdkit.sock');
  const server: ChildProcess = spawn('nbdkit', ['-f', '-U', socketPath, 'memory', String(DISK_BYTES)]);
  while (!existsSync(socketPath)) {
    if (server.exitCode !== null) throw new ApplianceError('TOOL_FAILED', 'nbdkit does not start');
    await delay(10);
  }
  return {
    socketPath,
    [Symbol.asyncDispose]: async () => {
      const ended = new Promise((resolve) => server.once('exit', resolve));
      server.kill();
      await ended;
      await rm(socketPath, { force: true });
    },
  };
}

async function openServer(
  { directory }: Rig,
  device: BlockDevice,
): Promise<{ readonly socketPath: string } & AsyncDisposable> {
  const socketPath = join(directory, 'ours.sock');
  const server = await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } });
  server.addExport({ name: DISK, device });
  return { socketPath, [Symbol.asyncDispose]: () => server.close() };
}

async function openJournal(rig: Rig): Promise<{ readonly socketPath: string } & AsyncDisposable> {
  const journalDirectory = join(rig.directory, `journal-${randomUUID()}`);
  const journal = await Journal.open(journalDirectory, {
    key: randomBytes(32),
    machineId: parseMachineId(rig.domain.uuid),
  });
  const volume = memoryDevice({ sizeBytes: DISK_BYTES });
  const options = { log: journal, disk: 0, sizeBytes: DISK_BYTES, durability: 'group', volume: () => volume } as const;
  const served = await openServer(rig, checked(new JournalTarget(options)));
  const timer = setInterval(() => void journal.flush(), FLUSH_MS);
  return {
    socketPath: served.socketPath,
    [Symbol.asyncDispose]: async () => {
      await served[Symbol.asyncDispose]();
      clearInterval(timer);
      await journal[Symbol.asyncDispose]();
      await rm(journalDirectory, { recursive: true, force: true });
    },
  };
}

async function startRig(stack: AsyncDisposableStack): Promise<Rig> {
  const libvirt = stack.use(await PrivateLibvirt.start());
  const connection = stack.use(await LibvirtConnection.open(libvirt.uri));
  const image = await guestImage();
  const disks = [
    { path: join(libvirt.directory, 'a.qcow2'), format: 'qcow2', target: 'vda' },
    { path: join(libvirt.directory, 'b.qcow2'), format: 'qcow2', target: DISK },
  ] as const;
  await createDataDisk({ path: disks[0].path, sizeBytes: 16 * 1024 * 1024, format: 'qcow2' });
  await createImage({ location: disks[1].path, format: 'qcow2' }, { sizeBytes: DISK_BYTES });
  const acceleration = await probeAcceleration(image);
  const domain = await connection.define(guestDomainXml({ name: 'latency', image, acceleration, disks }));
  await domain.start();
  const socketPath = shellSocketPath(await domain.xml()) ?? '';
  const console = stack.use(await GuestConsole.connect(socketPath));
  // Allocates the image, so that no round pays for it.
  await console.expect(`dd if=/dev/zero of=/dev/${DISK} bs=1M count=16 oflag=direct 2>/dev/null`);
  return { domain, connection, console, directory: libvirt.directory };
}

async function write(console: GuestConsole, count: number): Promise<void> {
  const command = `dd if=/dev/zero of=/dev/${DISK} bs=4k count=${count} oflag=direct 2>/dev/null`;
  await console.expect(command, { timeoutMs: 120_000 });
}

async function measure(rig: Rig, open: OpenTarget, writes: number): Promise<Percentiles> {
  const { domain, connection, console } = rig;
  await using target = await open(rig);
  if (target !== undefined) {
    const ready = connection.waitForEvent('block-job', ({ status }) => status === 'ready');
    const place = { kind: 'unix', socketPath: target.socketPath } as const;
    const destinationXml = mirrorDestinationXml({ place, exportName: DISK });
    const flags = { reusesDestination: true, isTransient: true, isSynchronous: true } as const;
    await domain.blockCopy({ disk: DISK, destinationXml, ...flags });
    await ready;
  }
  await write(console, WARM_WRITES);
  const id = `/machine/peripheral/${ALIAS}/virtio-backend`;
  const histogram = { id, 'boundaries-write': BOUNDARIES_NS };
  await domain.monitorCommand({ execute: 'block-latency-histogram-set', arguments: histogram });
  await write(console, writes);
  const stats = (await domain.monitorCommand({ execute: 'query-blockstats' })) as readonly {
    readonly qdev?: string;
    readonly stats: { readonly wr_latency_histogram?: Histogram };
  }[];
  if (target !== undefined) await domain.abortBlockJob(DISK);
  const found = stats.find(({ qdev }) => qdev === id)?.stats.wr_latency_histogram;
  if (found === undefined) throw new ApplianceError('NOT_SUPPORTED', 'this QEMU keeps no histogram of latencies');
  return { p50Us: percentile(found, 0.5), p99Us: percentile(found, 0.99) };
}

function percentile({ boundaries, bins }: Histogram, share: number): number {
  const total = bins.reduce((sum, count) => sum + count, 0);
  let seen = 0;
  for (const [bin, count] of bins.entries()) {
    seen += count;
    if (seen >= total * share) return (boundaries[bin] ?? Number.POSITIVE_INFINITY) / 1000;
  }
  return Number.NaN;
}

async function main(rounds: number, writes: number): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const rig = await startRig(stack);
  const names = Object.keys(TARGETS);
  const all = new Map<string, Percentiles[]>(names.map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    // Each target comes at each place in the order.
    for (let n = 0; n < names.length; n++) {
      const name = names[(n + round) % names.length] ?? '';
      const open = TARGETS[name];
      if (open !== undefined) all.get(name)?.push(await measure(rig, open, writes));
    }
  }
  const middle = (name: string, of: (each: Percentiles) => number): number => median((all.get(name) ?? []).map(of));
  const [p50, p99] = [(each: Percentiles): number => each.p50Us, (each: Percentiles): number => each.p99Us];
  console.log(`${rounds} rounds of ${writes} writes of 4 KiB, one at a time; ratios to nbdkit memory`);
  console.log('target                p50 µs   p99 µs  p50 ratio  p99 ratio');
  for (const name of names) {
    const ratio = (of: (each: Percentiles) => number): string =>
      (middle(name, of) / middle('nbdkit memory', of)).toFixed(2).padStart(10);
    const figures = [p50, p99].map((of) => middle(name, of).toFixed(0).padStart(8)).join(' ');
    console.log(`${name.padEnd(20)} ${figures} ${ratio(p50)} ${ratio(p99)}`);
  }
}

const [rounds = '6', writes = '2000'] = process.argv.slice(2);
await main(Number(rounds), Number(writes));
