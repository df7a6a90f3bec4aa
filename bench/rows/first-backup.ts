// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { BenchContext } from '../bench-context.ts';
import type { Comparison } from '../comparison.ts';
import { measureProcess } from '../measured-process.ts';
import { type ServerProcess, serveRaw } from '../server-process.ts';
import { storedBytes } from '../stored-bytes.ts';

const MIB: number = 1024 ** 2;

interface Figures {
  readonly seconds: number[];
  readonly storedMib: number[];
}

const newFigures = (): Figures => ({ seconds: [], storedMib: [] });

/**
 * The first backup of the disk, encrypted and compressed, from an NBD export, against `qemu-img convert -c` from the same
 * export, and against restic, which is given the raw file itself: that spares it an NBD client.
 */
export async function firstBackup(bench: BenchContext): Promise<Comparison[]> {
  const ours = newFigures();
  const qemu = newFigures();
  const restic = newFigures();
  const [hasQemu, hasRestic] = [await bench.has('qemu-img'), await bench.has('restic')];
  await using source = await serveRaw(bench.input.path, bench.workspace.socketPath('source'));
  for (let round = 0; round < bench.options.rounds; round++) {
    const isLast = round === bench.options.rounds - 1;
    bench.say(`first backup, round ${round + 1} of ${bench.options.rounds}: understudy`);
    await backUp(bench, source, ours, isLast);
    if (hasQemu) {
      bench.say('  qemu-img convert -c');
      await convert(bench, source, qemu, isLast);
    }
    if (hasRestic) {
      bench.say('  restic backup');
      await runRestic(bench, restic);
    }
  }
  return compare({ ours, qemu, restic });
}

async function backUp(bench: BenchContext, source: ServerProcess, into: Figures, isKept: boolean): Promise<void> {
  const state = bench.workspace.statePath('state');
  await bench.understudy.init(state);
  await bench.settle(bench.input.path);
  const figures = await bench.understudy.backup(state, source.uri());
  bench.use('first backup', figures);
  into.seconds.push(figures.wallMs / 1000);
  bench.firstBackups.push(figures.wallMs / 1000);
  into.storedMib.push((await storedBytes(join(state, 'repository'))) / MIB);
  if (isKept) bench.keepFullState(state);
  else await bench.workspace.remove(state);
}

async function convert(bench: BenchContext, source: ServerProcess, into: Figures, isKept: boolean): Promise<void> {
  const path = bench.workspace.path('disk.qcow2');
  const options = ['-c', '-O', 'qcow2', '-o', 'compression_type=zstd'];
  await bench.settle(bench.input.path);
  const { wallMs } = await measureProcess('qemu-img', ['convert', '-f', 'raw', ...options, source.uri(), path]);
  into.seconds.push(wallMs / 1000);
  into.storedMib.push(((await stat(path)).blocks * 512) / MIB);
  if (isKept) bench.keepCompressedImage(path);
  else await bench.workspace.remove(path);
}

async function runRestic(bench: BenchContext, into: Figures): Promise<void> {
  const repository = bench.workspace.path('restic');
  const cache = bench.workspace.path('restic-cache');
  const env = { RESTIC_PASSWORD: 'bench', RESTIC_REPOSITORY: repository, RESTIC_CACHE_DIR: cache };
  await measureProcess('restic', ['init'], { env });
  await bench.settle(bench.input.path);
  const { wallMs } = await measureProcess('restic', ['backup', '--quiet', bench.input.path], { env });
  into.seconds.push(wallMs / 1000);
  into.storedMib.push((await storedBytes(repository)) / MIB);
  await bench.workspace.remove(repository);
  await bench.workspace.remove(cache);
}

function compare({ ours, qemu, restic }: Record<'ours' | 'qemu' | 'restic', Figures>): Comparison[] {
  const missing = (figures: Figures): { readonly missing?: 'peer missing' } =>
    figures.seconds.length === 0 ? { missing: 'peer missing' } : {};
  return [
    {
      what: 'first backup, encrypted and compressed',
      unit: 's',
      ours: { label: 'understudy backup', samples: ours.seconds },
      other: { label: 'qemu-img convert -c, zstd qcow2', samples: qemu.seconds },
      target: { kind: 'ratio at most', limit: 0.5 },
      notes: [
        'both from the same NBD export (nbdkit file), page cache warm; qemu-img does not encrypt and does not flush',
      ],
      ...missing(qemu),
    },
    {
      what: 'first backup, encrypted and compressed',
      unit: 's',
      ours: { label: 'understudy backup', samples: ours.seconds },
      other: { label: 'restic backup', samples: restic.seconds },
      target: { kind: 'ratio at most', limit: 0.33 },
      notes: ['restic reads the raw file itself, without an NBD client in between'],
      ...missing(restic),
    },
    {
      what: 'stored size',
      unit: 'MiB',
      ours: { label: 'understudy repository', samples: ours.storedMib },
      other: { label: 'restic repository', samples: restic.storedMib },
      target: { kind: 'ratio at most', limit: 1.1 },
      ...missing(restic),
    },
    {
      what: 'stored size',
      unit: 'MiB',
      ours: { label: 'understudy repository', samples: ours.storedMib },
      other: { label: 'zstd qcow2', samples: qemu.storedMib },
      target: { kind: 'none' },
      ...missing(qemu),
    },
  ];
}
