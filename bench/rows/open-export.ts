// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { type BenchContext, LARGE_DISK_BYTES } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { cloneState } from '../opened-state.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { SOURCE_NAME } from '../understudy-command.ts';

/** Fresh services per round: the first export of a service finds no node and no chunk in its caches. */
const SERVICES_PER_ROUND = 3;
const READ_BYTES = 4096;

/**
 * From the call for an export to the first 4 KiB of data, read by an NBD client that connects after the call has
 * returned: with a long chain of points of an 8 TiB disk, by a service that has read nothing of it yet.
 */
export async function openExport(bench: BenchContext): Promise<Comparison[]> {
  const { longChain, rounds } = bench.options;
  const state = bench.workspace.statePath('state-open');
  await cloneState(await bench.largeState(), state);
  bench.say(`open an export: growing a chain to ${longChain} points`);
  await bench.understudy.subject(['grow', state, await bench.largeDisk(), String(longChain)]);
  await bench.settle();
  const samples: number[] = [];
  const points: number[] = [];
  for (let n = 0; n < rounds * SERVICES_PER_ROUND; n++) {
    bench.say(`open an export, ${n + 1} of ${rounds * SERVICES_PER_ROUND}`);
    const service = await ServiceProcess.start(state, { probeDirectory: bench.workspace.probeDirectory });
    try {
      samples.push(await openAndRead(service, n));
      points.push((await service.appliance.points({}, UNATTENDED)).length);
    } finally {
      bench.use('open an export', await service.close());
    }
  }
  await bench.workspace.remove(state);
  return [
    {
      what: `open an export and answer the first read, ${points[0]} points, 8 TiB disk`,
      unit: 'ms',
      ours: { label: 'call → 4 KiB', samples },
      other: undefined,
      target: { kind: 'at most', limit: 150 },
      notes: [
        "API call over the service's socket, export, connection of an NBD client, first read; the service runs, its " +
          'caches of nodes and chunks are empty; page cache warm',
      ],
    },
  ];
}

/** Reads from a piece of data in the last quarter of the disk, another one each time. */
async function openAndRead({ appliance }: ServiceProcess, n: number): Promise<number> {
  const pieces = 64;
  const offset = (LARGE_DISK_BYTES / pieces) * (48 + (n % 16)) + READ_BYTES * n;
  const began = systemClock.elapsedMs();
  const { uri } = await appliance.export(
    { point: n === 0 ? `${SOURCE_NAME}@latest` : `${SOURCE_NAME}@-${n}` },
    UNATTENDED,
  );
  await using device = await connectNbd(uri);
  const bytes = Buffer.alloc(READ_BYTES);
  await device.read(offset, bytes);
  const elapsed = systemClock.elapsedMs() - began;
  const [extent] = await device.extents({ offset, length: READ_BYTES });
  if (extent?.kind !== 'data') throw new ApplianceError('INTERNAL', `there is no data at ${offset}`);
  return elapsed;
}
