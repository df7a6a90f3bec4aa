// SPDX-License-Identifier: Apache-2.0
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MachineWatch } from '../../appliance/cbt/machine-watch.ts';
import { MirrorLines } from '../../appliance/cbt/mirror-lines.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { parseMachineId } from '../../appliance/core/ids.ts';
import type { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { MachineSources } from '../../appliance/protect/continuous/machine-sources.ts';
import { PointStorage } from '../../appliance/protect/continuous/point-storage.ts';
import type { SessionStorage } from '../../appliance/protect/continuous/ports.ts';
import { ProtectionRecords } from '../../appliance/protect/continuous/protection-record.ts';
import { ContinuousSession } from '../../appliance/protect/continuous/session.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../appliance/protect/continuous/session-settings.ts';
import { ProtectService } from '../../appliance/protect/protect-service.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS } from '../../test/support/machines.ts';
import type { Comparison } from '../comparison.ts';
import { openState } from '../opened-state.ts';
import { median } from '../statistics.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';
import { type CallTimes, type ConnectionTimes, TimedConnection } from './timed-connection.ts';

const LIMIT_MS = 150;
const INTERVAL_MS = 250;
const MACHINE = 'idle';
/** They make the base, and warm up both sides. */
const WARM_CYCLES = 4;
const LONGEST_MS = 180_000;
/** Operations of libvirt that a note names, the longest first. */
const NAMED_OPERATIONS = 5;

interface Cycle {
  readonly ms: number;
  readonly libvirt: ConnectionTimes;
}

/** Intervals of one idle machine: how long each takes, from its first look at the machine to the end of the backup job. */
export async function interval(bench: ContinuousRun): Promise<Comparison[]> {
  const missing = await bench.missing(LIBVIRT_REQUIREMENTS);
  const cycles = missing.length > 0 ? [] : (await measure(bench)).slice(WARM_CYCLES);
  const comparisons: Comparison[] = [
    {
      what: 'interval, one machine, nothing changed',
      unit: 'ms',
      ours: { label: 'a cycle', samples: cycles.map(({ ms }) => ms) },
      other: { label: 'of it waiting for libvirt', samples: cycles.map(({ libvirt }) => libvirt.busyMs) },
      target: { kind: 'at most', limit: LIMIT_MS },
      notes: [describe(cycles)],
    },
  ];
  return missing.length === 0 ? comparisons : withoutPeers(comparisons, missing);
}

/** Median times of libvirt's operations in a cycle. */
function describe(cycles: readonly Cycle[]): string {
  const operations = [...new Set(cycles.flatMap(({ libvirt }) => [...libvirt.operations.keys()]))].map((name) => {
    const of = (value: (times: CallTimes) => number): number =>
      median(cycles.map(({ libvirt }) => value(libvirt.operations.get(name) ?? { count: 0, ms: 0 })));
    return { name, ms: of(({ ms }) => ms), count: of(({ count }) => count) };
  });
  const longest = operations.sort((a, b) => b.ms - a.ms).slice(0, NAMED_OPERATIONS);
  const calls = operations.reduce((sum, { count }) => sum + count, 0);
  const named = longest.map(({ name, ms, count }) => `${name} ${ms.toFixed(1)} (${count} ×)`);
  return `${calls} calls of libvirt in a cycle, ms: ${named.join(', ')}`;
}

async function measure(bench: ContinuousRun): Promise<Cycle[]> {
  bench.say('interval: an idle machine');
  await using stack = new AsyncDisposableStack();
  const libvirt = stack.use(await PrivateLibvirt.start());
  const timed = stack.use(await TimedConnection.open(libvirt.uri));
  const { connection } = timed;
  const domain = await definePlainMachine({ libvirt, connection }, MACHINE);
  await domain.start();
  const cycles: Cycle[] = [];
  const wanted = bench.amount(60, 15) + WARM_CYCLES;
  const whenDone = Promise.withResolvers<void>();
  const session = await startSession(bench, stack, timed, (cycle) => {
    cycles.push(cycle);
    if (cycles.length === wanted) whenDone.resolve();
  });
  const timer = setTimeout(() => {
    whenDone.reject(new ApplianceError('TIMED_OUT', `${cycles.length} cycles: ${session.status().change.reason}`));
  }, LONGEST_MS);
  try {
    await whenDone.promise;
  } finally {
    clearTimeout(timer);
    await session.close();
  }
  return cycles;
}

/** A session of a service's own parts, whose cycles are timed. */
async function startSession(
  bench: ContinuousRun,
  stack: AsyncDisposableStack,
  timed: TimedConnection,
  onCycle: (cycle: Cycle) => void,
): Promise<ContinuousSession> {
  const stateDirectory = bench.workspace.statePath('state-interval');
  await bench.understudy.init(stateDirectory);
  const { repository, catalog } = stack.use(await openState(stateDirectory));
  const runtimeDirectory = bench.workspace.socketPath('run');
  const scratchDirectory = join(stateDirectory, 'scratch');
  for (const path of [runtimeDirectory, scratchDirectory]) await mkdir(path, { recursive: true });
  const { connection } = timed;
  const connect = (): Promise<LibvirtConnection> => Promise.resolve(connection);
  const clock = systemClock;
  const { uuid } = await connection.domainByName(MACHINE);
  const machineId = parseMachineId(uuid);
  const { keys } = repository;
  const journal = stack.use(
    await Journal.open(join(stateDirectory, 'journal'), { key: keys.isEncrypted ? keys.logRoot : null, machineId }),
  );
  const own = { repository, catalog, clock, runtimeDirectory, scratchDirectory, connect };
  const record = {
    machineId,
    name: MACHINE,
    connect: connection.uri,
    intervalMs: INTERVAL_MS,
    durability: 'group',
    since: new Date(clock.nowMs()).toISOString(),
  } as const;
  const records = new ProtectionRecords(catalog);
  const protect = new ProtectService(own);
  const sources = new MachineSources({
    ...own,
    record,
    records,
    protect,
    repositoryId: repository.config.id,
    onNotice: () => undefined,
  });
  const storage = stack.use(new PointStorage({ ...own, machineId, journal, sources }));
  const watch = stack.use(await MachineWatch.open({ connect, uuid }));
  const session = new ContinuousSession({
    clock,
    settings: { ...DEFAULT_SESSION_SETTINGS, intervalMs: INTERVAL_MS },
    watch,
    lines: new MirrorLines({ watch, socketPath: join(runtimeDirectory, 'm'), ownDirectories: [] }),
    journal,
    storage: timedStorage(storage, timed, onCycle),
    onChange: ({ state, reason }) => {
      if (state === 'behind') bench.say(`interval: behind, ${reason}`);
    },
  });
  session.start();
  return session;
}

function timedStorage(storage: PointStorage, timed: TimedConnection, onCycle: (cycle: Cycle) => void): SessionStorage {
  return {
    hasBase: (disks) => storage.hasBase(disks),
    makeBase: (disks, signal) => storage.makeBase(disks, signal),
    logDiskOf: (disk) => storage.logDiskOf(disk),
    volume: (disk) => storage.volume(disk),
    fold: (upTo, reason, signal) => storage.fold(upTo, reason, signal),
    known: (disk) => storage.known(disk),
    newPosition: () => storage.newPosition(),
    adoptPosition: (position, newer) => storage.adoptPosition(position, newer),
    releaseMachine: (signal) => storage.releaseMachine(signal),
    onWait: (listener) => storage.onWait(listener),
    cycle: async (disks, wish, signal) => {
      timed.take();
      const beganMs = systemClock.elapsedMs();
      const cycle = await storage.cycle(disks, wish, signal);
      return {
        changedBytes: cycle.changedBytes,
        takenAtMs: cycle.takenAtMs,
        commit: () => cycle.commit(),
        abandon: async () => {
          await cycle.abandon();
          onCycle({ ms: systemClock.elapsedMs() - beganMs, libvirt: timed.take() });
        },
      };
    },
  };
}
