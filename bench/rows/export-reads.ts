// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { walkExtents } from '../../appliance/block/extent-walk.ts';
import { openFileDevice } from '../../appliance/block/file-device.ts';
import type { BenchContext } from '../bench-context.ts';
import type { Comparison, Target, Unit } from '../comparison.ts';
import { runFio } from '../fio-load.ts';
import { PAGE_CACHE_SWITCH } from '../options.ts';
import { type ServerProcess, serveByQemu } from '../server-process.ts';

const MIB: number = 1024 ** 2;
const WORKING_SET_BYTES: number = 64 * MIB;

/** A part of the disk. */
interface Part {
  readonly offset: number;
  readonly size: number;
}

interface Load {
  readonly what: string;
  readonly unit: Unit;
  readonly target: Target;
  readonly notes: readonly string[];
  readonly isCold: boolean;
  /** Runs on a server that was just started, with empty caches of its own. */
  readonly run: (uri: string) => Promise<number>;
}

/**
 * Reads from an export of a point, against qemu-nbd on a qcow2 image with the same content, compressed with zstd. Each
 * run has a server of its own that was just started; the stored data of both lies in the page cache.
 */
export async function exportReads(bench: BenchContext): Promise<Comparison[]> {
  if (!(await bench.has('fio'))) return [];
  const state = await bench.fullState();
  const hasPeer = (await bench.has('qemu-nbd')) && (await bench.has('qemu-img'));
  const image = hasPeer ? await bench.compressedImage() : undefined;
  const comparisons: Comparison[] = [];
  for (const load of await loads(bench)) {
    const ours: number[] = [];
    const peer: number[] = [];
    for (let round = 0; round < bench.options.rounds; round++) {
      bench.say(`${load.what}, round ${round + 1} of ${bench.options.rounds}`);
      const socketPath = bench.workspace.socketPath('export');
      const run = async (server: ServerProcess): Promise<number> => {
        if (load.isCold) await dropPageCache(bench);
        return await load.run(server.uri());
      };
      const server = await bench.understudy.exportPoint(state, socketPath);
      try {
        ours.push(await run(server));
      } finally {
        bench.use(`export, ${load.what}`, await server.close());
      }
      if (image === undefined) continue;
      await using other = await serveByQemu({
        path: image,
        format: 'qcow2',
        socketPath: bench.workspace.socketPath('qemu'),
      });
      peer.push(await run(other));
    }
    comparisons.push({
      what: `export, ${load.what}`,
      unit: load.unit,
      ours: { label: 'understudy export', samples: ours },
      other: { label: 'qemu-nbd, zstd qcow2', samples: peer },
      target: load.target,
      notes: load.notes,
      ...(hasPeer ? {} : { missing: 'peer missing' }),
    });
  }
  return comparisons;
}

async function loads(bench: BenchContext): Promise<Load[]> {
  const { parts, dataShare } = await partsOf(bench.input.path);
  const share = `over ${(parts.span.size / MIB).toFixed(0)} MiB of the disk, ${(dataShare * 100).toFixed(0)} % of them data`;
  const fio = (pattern: 'randread' | 'read', part: Part, isTimeBased: boolean) => (uri: string) =>
    runFio({
      uri,
      pattern,
      ...part,
      blockBytes: pattern === 'read' ? MIB : 4096,
      depth: pattern === 'read' ? 4 : 16,
      seconds: bench.options.loadSeconds,
      isTimeBased,
      reportPath: bench.workspace.path('fio.json'),
    });
  const random = fio('randread', parts.span, true);
  const sequential = fio('read', parts.span, false);
  const warm = fio('read', parts.workingSet, false);
  const cached = fio('randread', parts.workingSet, true);
  const notes = ['page cache warm for both', share];
  const uncachedLoad: Load = {
    what: 'random 4 KiB reads at depth 16, nothing cached',
    unit: 'IOPS',
    target: { kind: 'ratio at least', limit: 1.2 },
    notes,
    isCold: false,
    run: async (uri) => (await random(uri)).iops,
  };
  const sequentialLoad: Load = {
    what: 'sequential 1 MiB reads at depth 4',
    unit: 'MiB/s',
    target: { kind: 'ratio at least', limit: 1.8 },
    notes,
    isCold: false,
    run: async (uri) => (await sequential(uri)).mibPerSecond,
  };
  const all: Load[] = [
    uncachedLoad,
    {
      what: 'random 4 KiB reads at depth 16, working set of 64 MiB cached',
      unit: 'IOPS',
      target: { kind: 'ratio at least', limit: 4 },
      notes: ['both have read the working set once before'],
      isCold: false,
      run: async (uri) => {
        await warm(uri);
        return (await cached(uri)).iops;
      },
    },
    sequentialLoad,
  ];
  if (!bench.options.isColdIncluded) return all;
  const cold = { isCold: true, target: { kind: 'none' }, notes: ['page cache dropped before the run', share] } as const;
  all.push({ ...uncachedLoad, ...cold, what: `${uncachedLoad.what}, cold page cache` });
  all.push({ ...sequentialLoad, ...cold, what: `${sequentialLoad.what}, cold page cache` });
  return all;
}

/** Where the data lies: as much of the disk's start as there are data, and a working set in one long extent. */
async function partsOf(path: string): Promise<{
  readonly parts: { readonly span: Part; readonly workingSet: Part };
  readonly dataShare: number;
}> {
  await using device = await openFileDevice(path, 'read-only');
  const data: Part[] = [];
  for await (const extent of walkExtents(device, { offset: 0, length: device.sizeBytes })) {
    if (extent.kind === 'data') data.push({ offset: extent.offset, size: extent.length });
  }
  const total = data.reduce((sum, part) => sum + part.size, 0);
  const size = Math.floor(total / MIB) * MIB;
  const inside = data.reduce(
    (sum, part) => sum + Math.max(0, Math.min(part.offset + part.size, size) - part.offset),
    0,
  );
  const longest = data.reduce((best, part) => (part.size > best.size ? part : best), { offset: 0, size: 0 });
  const offset = Math.floor((longest.offset + longest.size / 4) / MIB) * MIB;
  return {
    parts: { span: { offset: 0, size }, workingSet: { offset, size: WORKING_SET_BYTES } },
    dataShare: inside / size,
  };
}

async function dropPageCache(bench: BenchContext): Promise<void> {
  await bench.settle();
  writeFileSync(PAGE_CACHE_SWITCH, '1');
}
