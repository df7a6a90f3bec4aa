// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Comparison } from '../comparison.ts';
import { runFio } from '../fio-load.ts';
import { serveByQemu } from '../server-process.ts';
import { EXPORT_NAME, startJournalServer } from './journal-server.ts';
import { type ContinuousRun, withoutPeers } from './run.ts';

const MIB: number = 1024 ** 2;
const DISK_BYTES: number = 1024 * MIB;
const BLOCK_BYTES = 4096;
const DEPTH = 16;
/** A file system in memory on every Linux. */
const TMPFS = '/dev/shm';
const WANTED_PER_SECOND = 60_000;
const WANTED_RATIO = 0.8;

/** Writes of 4 KiB at depth 16 over one unix connection, into our journal and by qemu-nbd into a raw file. */
export async function appends(bench: ContinuousRun): Promise<Comparison[]> {
  const places = [
    { name: 'on disk', directory: bench.workspace.runDirectory },
    { name: 'in memory (tmpfs)', directory: TMPFS },
  ];
  const comparisons: Comparison[] = [];
  const missing = await bench.missing(['fio', 'qemu-nbd']);
  for (const { name, directory } of places) {
    const ours: number[] = [];
    const theirs: number[] = [];
    for (let round = 1; missing.length === 0 && round <= bench.options.rounds; round++) {
      bench.say(`appends ${name}, round ${round} of ${bench.options.rounds}`);
      const work = await mkdtemp(join(directory, 'us-appends-'));
      await using _ = { [Symbol.asyncDispose]: () => rm(work, { recursive: true, force: true }) };
      ours.push(await intoJournal(bench, join(work, 'journal')));
      theirs.push(await intoRawFile(bench, join(work, 'raw')));
    }
    const what = `log append, 4 KiB at depth ${DEPTH}, ${name}`;
    const series = { label: 'encrypted journal, flushed each 0.5 s', samples: ours };
    comparisons.push(
      {
        what,
        unit: 'IOPS',
        ours: series,
        other: { label: 'qemu-nbd, raw file', samples: theirs },
        target: { kind: 'ratio at least', limit: WANTED_RATIO },
      },
      { what, unit: 'IOPS', ours: series, other: undefined, target: { kind: 'at least', limit: WANTED_PER_SECOND } },
    );
  }
  return missing.length === 0 ? comparisons : withoutPeers(comparisons, missing);
}

async function intoJournal(bench: ContinuousRun, directory: string): Promise<number> {
  await using server = await startJournalServer(bench.workspace, { directory, sizeBytes: DISK_BYTES });
  return await load(bench, server.uri(EXPORT_NAME));
}

async function intoRawFile(bench: ContinuousRun, path: string): Promise<number> {
  await using file = await open(path, 'w');
  await file.truncate(DISK_BYTES);
  const socketPath = bench.workspace.socketPath('qemu');
  await using server = await serveByQemu({ path, format: 'raw', socketPath, isWritable: true, isKilled: true });
  return await load(bench, server.uri());
}

async function load(bench: ContinuousRun, uri: string): Promise<number> {
  const { iops } = await runFio({
    uri,
    pattern: 'randwrite',
    blockBytes: BLOCK_BYTES,
    depth: DEPTH,
    offset: 0,
    size: DISK_BYTES,
    seconds: bench.amount(5, 2),
    isTimeBased: true,
    reportPath: bench.workspace.path('fio'),
  });
  return iops;
}
