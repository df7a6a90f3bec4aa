// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport } from '../../appliance/api/operations.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import type { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { guestWrite } from '../../lab/guest-write.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS } from '../../test/support/machines.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { median, percentile, Seeded } from '../statistics.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';

const MIB: number = 1024 ** 2;
const DISK_BYTES: number = 64 * MIB;
const INTERVAL_S = 10;
/** A tenth of the interval: states cannot come more evenly than the machines' cycles wait for one another. */
const LIMIT_S = 11;
/** One machine in so many is written to. */
const WRITTEN_SHARE = 5;
const WRITE_PAUSE_MS = 200;
const POLL_MS = 2000;
const SEEDED_WITHIN_MS = 300_000;

interface Figures {
  /** Seconds between two states of a machine, over all of them. */
  readonly gaps: readonly number[];
  readonly writes: number;
  readonly seconds: number;
  readonly peakRssBytes: number | undefined;
}

/** Many small machines of one host under protection in intervals, by one service: how even their states come. */
export async function manyMachines(bench: ContinuousRun): Promise<Comparison[]> {
  const missing = await bench.missing(LIBVIRT_REQUIREMENTS);
  const count = bench.amount(50, 6);
  const figures = missing.length > 0 ? undefined : await measure(bench, count);
  const { gaps = [], writes = 0, seconds = 0, peakRssBytes = 0 } = figures ?? {};
  const worst = Math.max(...gaps);
  const comparison: Comparison = {
    what: `${count} machines, interval of ${INTERVAL_S} s: from one state of a machine to the next, 99 of 100`,
    unit: 's',
    ours: { label: 'achieved', samples: [percentile(gaps, 0.99)] },
    other: undefined,
    target: { kind: 'at most', limit: LIMIT_S },
    remark: `${median(gaps).toFixed(1)} s in the middle, ${worst.toFixed(1)} s at worst, ${gaps.length} states`,
    notes: [
      `paused guests of 64 MiB in QEMU; every fifth was written to, ${writes} writes of 4 KiB in ${seconds.toFixed(0)} s; the service took ${(peakRssBytes / MIB).toFixed(0)} MiB at most`,
    ],
  };
  return missing.length === 0 ? [comparison] : withoutPeers([comparison], missing);
}

async function measure(bench: ContinuousRun, count: number): Promise<Figures> {
  bench.say(`many-machines: starting ${count}`);
  await using stack = new AsyncDisposableStack();
  const libvirt = stack.use(await PrivateLibvirt.start());
  const connection = stack.use(await LibvirtConnection.open(libvirt.uri));
  const domains: Domain[] = [];
  for (let n = 0; n < count; n++) {
    const disks = [{ target: 'vda', sizeBytes: DISK_BYTES }];
    const domain = await definePlainMachine({ libvirt, connection }, `m${n}`, disks);
    await domain.start({ isPaused: true });
    domains.push(domain);
  }
  const state = bench.workspace.statePath('state-many');
  await bench.understudy.init(state);
  const { probeDirectory } = bench.workspace;
  const service = stack.use(await ServiceProcess.start(state, { probeDirectory, connect: libvirt.uri }));
  bench.say('many-machines: first points');
  for (const { name } of domains) {
    await service.appliance.protect({ target: name, interval: `${INTERVAL_S}s`, connect: libvirt.uri }, UNATTENDED);
  }
  await untilProtected(service, count);
  const seconds = bench.amount(180, 40);
  bench.say(`many-machines: ${seconds} s of intervals`);
  const end = new AbortController();
  const written = domains.filter((_, n) => n % WRITTEN_SHARE === 0);
  const writing = writeUntil(end.signal, written, bench.options.seed);
  const gaps = await watch(service, seconds);
  end.abort();
  const writes = await writing;
  const probe = await service.close();
  return { gaps, writes, seconds, peakRssBytes: probe?.peakRssBytes };
}

async function reports({ appliance }: ServiceProcess): Promise<readonly ProtectionReport[]> {
  return await appliance.protection({}, UNATTENDED);
}

async function untilProtected(service: ServiceProcess, count: number): Promise<void> {
  const deadline = systemClock.elapsedMs() + SEEDED_WITHIN_MS;
  for (;;) {
    const machines = await reports(service);
    const ready = machines.filter(({ state }) => state === 'protected').length;
    if (ready === count) return;
    if (systemClock.elapsedMs() > deadline) {
      const other = machines.find(({ state }) => state !== 'protected');
      throw new ApplianceError('TIMED_OUT', `${ready} of ${count} machines are protected; ${other?.reason}`);
    }
    await delay(POLL_MS);
  }
}

/** Times between the newest states of each machine, in seconds; the time until now counts where it is longer. */
async function watch(service: ServiceProcess, seconds: number): Promise<number[]> {
  const newest = new Map<string, number>();
  const gaps: number[] = [];
  const endMs = systemClock.elapsedMs() + seconds * 1000;
  while (systemClock.elapsedMs() < endMs) {
    for (const { machine, window } of await reports(service)) {
      const atMs = Date.parse(window?.to ?? '');
      const before = newest.get(machine);
      if (before !== undefined && atMs > before) gaps.push((atMs - before) / 1000);
      newest.set(machine, Math.max(atMs, before ?? atMs));
    }
    await delay(POLL_MS);
  }
  for (const { rpoMs } of await reports(service)) if ((rpoMs ?? 0) > LIMIT_S * 1000) gaps.push((rpoMs ?? 0) / 1000);
  return gaps;
}

async function writeUntil(signal: AbortSignal, domains: readonly Domain[], seed: number): Promise<number> {
  const random = new Seeded(seed);
  let writes = 0;
  while (!signal.aborted) {
    for (const domain of domains) {
      await guestWrite(domain, 0, {
        offset: random.below(DISK_BYTES / 4096) * 4096,
        length: 4096,
        byte: 1 + (writes % 255),
      });
      writes += 1;
    }
    await delay(WRITE_PAUSE_MS);
  }
  return writes;
}
