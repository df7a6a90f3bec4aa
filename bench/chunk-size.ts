// SPDX-License-Identifier: Apache-2.0
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ChunkSizeFigures } from './chunk-size-run.ts';
import { diskInput } from './disk-input.ts';
import { measureProcess } from './measured-process.ts';
import { parseOptions, USAGE } from './options.ts';
import { median } from './statistics.ts';
import { ROOT, Workspace } from './workspace.ts';

/*
 * What the chunk size costs: ratio, speed of a first backup, random reads, and what scattered changes store.
 *
 *   sh scripts/run bench/chunk-size.ts [--quick | --size GIB] [--rounds N]
 *
 * docs/decisions/0006-chunk-size.md has the result.
 */

const KIB = 1024;
const CHUNK_SIZES: readonly number[] = [64, 128, 256, 1024].map((kibibytes) => kibibytes * KIB);
const RUN: string = join(ROOT, 'bench', 'chunk-size-run.ts');

interface Column {
  readonly title: string;
  readonly value: (figures: ChunkSizeFigures) => number;
  readonly digits: number;
}

const COLUMNS: readonly Column[] = [
  { title: 'ingest, s', value: (f) => f.ingestSeconds, digits: 1 },
  { title: 'ingest, CPU s', value: (f) => f.ingestCpuSeconds, digits: 1 },
  { title: 'unique, MiB', value: (f) => f.uniqueBytes / 2 ** 20, digits: 0 },
  { title: 'repository, MiB', value: (f) => f.repositoryBytes / 2 ** 20, digits: 0 },
  { title: 'data ÷ repository', value: (f) => f.dataBytes / f.repositoryBytes, digits: 2 },
  { title: 'catalog, MiB', value: (f) => f.catalogBytes / 2 ** 20, digits: 1 },
  { title: 'random 4 KiB, depth 16, IOPS', value: (f) => f.randomIops, digits: 0 },
  { title: 'random 4 KiB, depth 1, µs', value: (f) => f.randomLatencyUs, digits: 0 },
  { title: '64 MiB scattered: read, MiB', value: (f) => f.changedReadBytes / 2 ** 20, digits: 0 },
  { title: '64 MiB scattered: stored, MiB', value: (f) => f.changedStoredBytes / 2 ** 20, digits: 0 },
  { title: '64 MiB scattered: s', value: (f) => f.changedSeconds, digits: 2 },
];

const options = parseOptions(process.argv.slice(2));
if (options === 'help') process.stdout.write(USAGE);
else {
  await using workspace = await Workspace.open();
  const input = await diskInput(workspace.inputDirectory, options.diskBytes, (sentence) => {
    process.stderr.write(`input: ${sentence}\n`);
  });
  await measureProcess('cat', [input.path], { discardsOutput: true });
  const reads = options.isQuick ? 4000 : 40_000;
  const all: ChunkSizeFigures[] = [];
  for (let round = 0; round < options.rounds; round++) {
    for (const chunkBytes of CHUNK_SIZES) {
      process.stderr.write(`round ${round + 1} of ${options.rounds}: ${chunkBytes / KIB} KiB\n`);
      const directory = workspace.path('chunk-size');
      await mkdir(directory);
      await measureProcess('sync', []);
      const args = [RUN, input.path, String(chunkBytes), directory, String(reads)];
      all.push(JSON.parse((await measureProcess(process.execPath, args)).stdout) as ChunkSizeFigures);
      await workspace.remove(directory);
    }
  }
  process.stdout.write(`| chunk | ${CHUNK_SIZES.map((bytes) => `${bytes / KIB} KiB`).join(' | ')} |\n`);
  process.stdout.write(`| --- |${' --- |'.repeat(CHUNK_SIZES.length)}\n`);
  for (const { title, value, digits } of COLUMNS) {
    const cells = CHUNK_SIZES.map((bytes) =>
      median(all.filter((figures) => figures.chunkBytes === bytes).map(value)).toFixed(digits),
    );
    process.stdout.write(`| ${title} | ${cells.join(' | ')} |\n`);
  }
}
