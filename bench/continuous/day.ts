// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { Comparison } from '../comparison.ts';
import { measureProcess, type ProcessFigures } from '../measured-process.ts';
import { median } from '../statistics.ts';
import type { FillAnswer, OpenAnswer } from './day-journal.ts';
import { type ContinuousRun, parseAnswer } from './run.ts';

const MIB: number = 1024 ** 2;
const SUBJECT: string = join(import.meta.dirname, 'day-journal.ts');
const MEMORY_LIMIT_MIB = 700;
const OPEN_LIMIT_MS = 1000;

/** A journal of 24 hours with ten million writes: memory while it is written and read, and opening any moment of it. */
export async function day(bench: ContinuousRun): Promise<Comparison[]> {
  const directory = bench.workspace.path('day');
  const writes = bench.amount(10_000_000, 200_000);
  bench.say(`day: a journal of ${writes.toLocaleString('en-US')} writes`);
  const filled = await subject('fill', directory, String(writes));
  const { seconds, records, journalBytes } = parseAnswer<FillAnswer>(filled.stdout);
  const moments = String(bench.amount(200, 40));
  bench.say(`day: ${moments} random moments`);
  const opened = await subject('open', directory, moments, String(bench.options.seed));
  const { openMs, momentsMs, newestMs } = parseAnswer<OpenAnswer>(opened.stdout);
  await bench.workspace.remove(directory);
  const text = writes.toLocaleString('en-US');
  const notes = [
    `${records.toLocaleString('en-US')} records, ${(journalBytes / MIB).toFixed(0)} MiB, written and sealed in ${seconds.toFixed(0)} s; a service that starts opens it in ${openMs.toFixed(0)} ms`,
  ];
  return [
    memory(`${text} writes, while it is written and sealed`, filled, notes),
    memory(`${text} writes, while it is read`, opened, notes),
    opening(`any moment of it (${momentsMs.length} random ones)`, momentsMs),
    opening('the newest moment of it, just before a fold is due', newestMs),
  ];
}

function subject(...args: readonly string[]): Promise<ProcessFigures> {
  return measureProcess(process.execPath, [SUBJECT, ...args]);
}

function memory(how: string, { peakRssBytes }: ProcessFigures, notes: readonly string[]): Comparison {
  return {
    what: `memory, journal of 24 h with ${how}`,
    unit: 'MiB',
    ours: { label: 'peak RSS, all threads', samples: [peakRssBytes / MIB] },
    other: undefined,
    target: { kind: 'at most', limit: MEMORY_LIMIT_MIB },
    notes,
  };
}

/** The slowest counts. */
function opening(what: string, samples: readonly number[]): Comparison {
  return {
    what: `opening ${what}, slowest`,
    unit: 'ms',
    ours: { label: 'from the wish to the tenth read', samples: [Math.max(...samples)] },
    other: undefined,
    target: { kind: 'at most', limit: OPEN_LIMIT_MS },
    remark: `${median(samples).toFixed(0)} ms in the middle`,
  };
}
