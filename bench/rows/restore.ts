// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { BenchContext } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { measureProcess } from '../measured-process.ts';
import { serveByQemu } from '../server-process.ts';

/**
 * Restore of the disk to a raw file, against a plain copy: nbdcopy from qemu-nbd on the raw image. Same file system for
 * both, and both have flushed the file before they end.
 */
export async function restore(bench: BenchContext): Promise<Comparison[]> {
  const state = await bench.fullState();
  const hasPeer = (await bench.has('nbdcopy')) && (await bench.has('qemu-nbd'));
  const ours: number[] = [];
  const copies: number[] = [];
  for (let round = 0; round < bench.options.rounds; round++) {
    bench.say(`restore, round ${round + 1} of ${bench.options.rounds}: understudy`);
    const path = bench.workspace.path('restored.raw');
    await bench.settle(join(state, 'repository', 'packs'));
    const figures = await bench.understudy.restore(state, path);
    bench.use('restore', figures);
    ours.push(figures.wallMs / 1000);
    if (round === 0) await measureProcess('cmp', [bench.input.path, path]);
    await bench.workspace.remove(path);
    if (!hasPeer) continue;
    bench.say('  nbdcopy');
    copies.push(await copy(bench));
  }
  return [
    {
      what: 'restore to a raw file',
      unit: 's',
      ours: { label: 'understudy restore', samples: ours },
      other: { label: 'nbdcopy --flush from qemu-nbd, raw', samples: copies },
      target: { kind: 'ratio at most', limit: 1.3 },
      notes: [
        'sources in the page cache, the file flushed by both; what was restored is equal to the input byte by byte',
      ],
      ...(hasPeer ? {} : { missing: 'peer missing' }),
    },
  ];
}

async function copy(bench: BenchContext): Promise<number> {
  const path = bench.workspace.path('copied.raw');
  await using source = await serveByQemu({
    path: bench.input.path,
    format: 'raw',
    socketPath: bench.workspace.socketPath('raw'),
  });
  await bench.settle(bench.input.path);
  const { wallMs } = await measureProcess('nbdcopy', ['--flush', source.uri(), path]);
  await bench.workspace.remove(path);
  return wallMs / 1000;
}
