// SPDX-License-Identifier: Apache-2.0
import type { BenchContext } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { BITMAP, makeDirtyImage } from '../dirty-image.ts';
import { cloneState } from '../opened-state.ts';
import { type ServerProcess, serveByQemu } from '../server-process.ts';
import type { IncrementalReport } from '../subject.ts';

const MIB: number = 1024 ** 2;
/** 64 MiB of a disk of 8 GiB. */
const CHANGED_SHARE = 1 / 128;

interface Chain {
  readonly points: number;
  readonly state: string;
  readonly wallSeconds: number[];
  readonly runMs: number[];
}

/**
 * An incremental by a dirty bitmap, without a hypervisor: qemu-nbd exports a qcow2 image with its bitmap, and the run
 * reads what is dirty, as for a machine that is shut off. Each run starts from the same points, with 1, 10 and many in
 * the chain before it.
 */
export async function incremental(bench: BenchContext): Promise<Comparison[]> {
  const full = await bench.fullState();
  const changedBytes = bench.input.sizeBytes * CHANGED_SHARE;
  const path = bench.workspace.path('dirty.qcow2');
  bench.say(`incremental: ${changedBytes / MIB} MiB of scattered changes`);
  await makeDirtyImage({
    path,
    backingPath: bench.input.path,
    sizeBytes: bench.input.sizeBytes,
    changedBytes,
    socketPath: bench.workspace.socketPath('writable'),
  });
  await using server = await serveByQemu({
    path,
    format: 'qcow2',
    socketPath: bench.workspace.socketPath('dirty'),
    bitmap: BITMAP,
  });
  const chains = await makeChains(bench, full);
  const reports: IncrementalReport[] = [];
  for (let round = 0; round < bench.options.rounds; round++) {
    for (const chain of chains) {
      bench.say(`incremental, round ${round + 1} of ${bench.options.rounds}: after ${chain.points} points`);
      reports.push(await measure(bench, server, chain));
    }
  }
  const [short, ...longer] = chains;
  const readMib = (reports[0]?.readBytes ?? 0) / MIB;
  const storedMib = (reports[0]?.storedBytes ?? 0) / MIB;
  for (const chain of longer) await bench.workspace.remove(chain.state);
  return [
    {
      what: `incremental after ${changedBytes / MIB} MiB of scattered changes`,
      unit: 's',
      ours: { label: 'incremental', samples: short?.wallSeconds ?? [] },
      other: { label: 'first backup', samples: bench.firstBackups },
      target: { kind: 'ratio at most', limit: 0.1 },
      notes: [
        `whole processes, start included; ${(changedBytes / 65_536).toFixed(0)} writes of 64 KiB at multiples of 4 KiB: ` +
          `${readMib.toFixed(0)} MiB dirty in the bitmap and read, ${storedMib.toFixed(0)} MiB stored`,
      ],
    },
    ...longer.map(
      (chain): Comparison => ({
        what: `incremental, the same with ${chain.points} points in the chain`,
        unit: 'ms',
        ours: { label: `after ${chain.points} points`, samples: chain.runMs },
        other: { label: 'after 1 point', samples: short?.runMs ?? [] },
        target: { kind: 'ratio at most', limit: 1.2 },
        notes: ['opening catalog and repository, the run, the durable point; without the start of the process'],
      }),
    ),
  ];
}

async function makeChains(bench: BenchContext, full: string): Promise<Chain[]> {
  const chains: Chain[] = [{ points: 1, state: full, wallSeconds: [], runMs: [] }];
  let from = full;
  for (const points of [10, bench.options.longChain]) {
    const state = bench.workspace.statePath(`state-${points}`);
    await cloneState(from, state);
    bench.say(`incremental: growing a chain to ${points} points`);
    await bench.understudy.subject(['grow', state, bench.input.path, String(points)]);
    chains.push({ points, state, wallSeconds: [], runMs: [] });
    from = state;
  }
  return chains;
}

async function measure(bench: BenchContext, server: ServerProcess, chain: Chain): Promise<IncrementalReport> {
  const state = bench.workspace.statePath('state-incremental');
  await cloneState(chain.state, state);
  await bench.settle();
  const figures = await bench.understudy.subject(['incremental', state, server.uri(), BITMAP]);
  bench.use('incremental', figures);
  const report = JSON.parse(figures.stdout) as IncrementalReport;
  chain.wallSeconds.push(figures.wallMs / 1000);
  chain.runMs.push(report.openMs + report.runMs);
  await bench.workspace.remove(state);
  return report;
}
