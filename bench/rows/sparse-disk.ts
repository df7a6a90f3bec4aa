// SPDX-License-Identifier: Apache-2.0
import { type BenchContext, LARGE_DISK_BYTES } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { sparseDisk } from '../disk-input.ts';
import { serveRaw } from '../server-process.ts';

const MIB: number = 1024 ** 2;

/** The first backup of a huge disk that is almost empty, against that of the small one with the same data. */
export async function sparseDisks(bench: BenchContext): Promise<Comparison[]> {
  const dataBytes = bench.sparseDataBytes;
  const small = { sizeBytes: bench.input.sizeBytes, path: bench.workspace.path('small.raw'), seconds: [] as number[] };
  const large = { sizeBytes: LARGE_DISK_BYTES, path: await bench.largeDisk(), seconds: [] as number[] };
  await sparseDisk(bench.input, { path: small.path, sizeBytes: small.sizeBytes, dataBytes });
  for (let round = 0; round < bench.options.rounds; round++) {
    for (const disk of [large, small]) {
      bench.say(`sparse disk, round ${round + 1} of ${bench.options.rounds}: ${disk.sizeBytes / 1024 ** 3} GiB`);
      await using source = await serveRaw(disk.path, bench.workspace.socketPath('sparse'));
      const state = bench.workspace.statePath('state-sparse');
      await bench.understudy.init(state);
      await bench.settle();
      const figures = await bench.understudy.backup(state, source.uri());
      bench.use('sparse disk', figures);
      disk.seconds.push(figures.wallMs / 1000);
      if (disk === large && round === bench.options.rounds - 1) bench.keepLargeState(state);
      else await bench.workspace.remove(state);
    }
  }
  await bench.workspace.remove(small.path);
  return [
    {
      what: `first backup of an 8 TiB sparse disk holding ${dataBytes / MIB} MiB`,
      unit: 's',
      ours: { label: '8 TiB disk', samples: large.seconds },
      other: { label: `${small.sizeBytes / 1024 ** 3} GiB disk, same data`, samples: small.seconds },
      target: { kind: 'ratio at most', limit: 1.5 },
      notes: ['in 64 pieces, spread evenly over the disk'],
    },
  ];
}
