// SPDX-License-Identifier: Apache-2.0
import type { Figures, MachineFigures, NbdFigures } from '../api/metrics/figures.ts';
import type { Clock } from '../core/clock.ts';
import { COUNTED_COMMANDS, LATENCY_BOUNDS_MS, nbdServerTotals } from '../nbd/server/server-totals.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';
import type { Upkeep } from './housekeeping/upkeep.ts';
import { protectionReports } from './protection.ts';

/** What the metrics are made of. @throws ApplianceError CATALOG_DAMAGED, IO_FAILED */
export async function figuresOf(core: Core, upkeep: Upkeep, clock: Clock): Promise<Figures> {
  const points = await core.catalog.points();
  const protections = await protectionReports(core, clock);
  return {
    machines: machineFigures(points, protections, clock.nowMs()),
    ...(await upkeep.figures(core)),
    nbd: nbdFigures(core),
  };
}

/** Machines by name, each with what is known of it. */
export function machineFigures(
  points: readonly RecoveryPoint[],
  protections: readonly {
    readonly machineId: string;
    readonly machine: string;
    readonly state: string;
    readonly rpoMs: number | null;
  }[],
  nowMs: number,
): readonly MachineFigures[] {
  const found = new Map<string, MachineFigures>();
  for (const { machine, createdAt } of points) {
    const atMs = Date.parse(createdAt);
    const before = found.get(machine.id);
    const lastPointMs = Math.max(before?.lastPointMs ?? atMs, atMs);
    found.set(machine.id, {
      id: machine.id,
      name: lastPointMs === atMs ? machine.name : (before?.name ?? machine.name),
      points: (before?.points ?? 0) + 1,
      lastPointMs,
      rpoMs: Math.max(0, nowMs - lastPointMs),
      protection: 'none',
    });
  }
  for (const { machineId, machine, state, rpoMs } of protections) {
    const before = found.get(machineId) ?? { id: machineId, name: machine, points: 0, lastPointMs: null, rpoMs: null };
    found.set(machineId, { ...before, protection: state, rpoMs: rpoMs ?? before.rpoMs });
  }
  return [...found.values()].toSorted((a, b) => a.name.localeCompare(b.name, 'en') || (a.id < b.id ? -1 : 1));
}

function nbdFigures({ nbd }: Core): NbdFigures {
  const commands = Object.entries(COUNTED_COMMANDS);
  return {
    exports: nbd.exports().length,
    connections: nbd.connectionCount,
    requests: Object.fromEntries(commands.map(([name, number]) => [name, nbdServerTotals.requests[number] ?? 0])),
    errors: nbdServerTotals.errors,
    bytesRead: nbdServerTotals.bytesRead,
    bytesWritten: nbdServerTotals.bytesWritten,
    latencyBoundsMs: LATENCY_BOUNDS_MS,
    latency: Object.fromEntries(commands.map(([name, number]) => [name, nbdServerTotals.latency(number)])),
  };
}
