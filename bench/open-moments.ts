// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { memoryDevice } from '../appliance/block/memory-device.ts';
import { type Clock, systemClock } from '../appliance/core/clock.ts';
import { parseMachineId } from '../appliance/core/ids.ts';
import { DEFAULT_SESSION_SETTINGS } from '../appliance/protect/continuous/session-settings.ts';
import { Journal } from '../appliance/volume/journal.ts';
import type { Fold } from '../appliance/volume/journal-event.ts';
import { layeredDevice } from '../appliance/volume/logged-device.ts';
import { median } from './statistics.ts';

/*
 * How long it takes to open any moment of a journal of 24 hours, from the wish (a time) to the first 4 KiB:
 *
 *   sh scripts/run bench/open-moments.ts [--writes N] [--folds N] [--moments N] [--directory DIR]
 *
 * The journal is encrypted; its writes are spread evenly over the day and at random over a disk, and it is folded every ten
 * minutes as a session does, so that all but its end is sealed. The last row is the worst case: as many records above a
 * recovery point as a session lets come together before it folds early.
 */

const DAY_MS = 86_400_000;
const BEGAN_MS = Date.UTC(2026, 10, 20);
const MACHINE = parseMachineId('5c1e5c1e-0000-4000-8000-00000000ffff');
const DISK_BYTES: number = 64 * 2 ** 30;
const WRITE_BYTES = 512;
const READ_BYTES = 4096;
/** Appends in flight. */
const DEPTH = 512;

class DayClock implements Clock {
  ms = BEGAN_MS;

  nowMs(): number {
    return this.ms;
  }

  elapsedMs(): number {
    return systemClock.elapsedMs();
  }
}

interface Subject {
  readonly journal: Journal;
  readonly clock: DayClock;
}

/** Appends writes at random places over a span of time. */
async function write({ journal, clock }: Subject, count: number, spanMs: number): Promise<void> {
  const data = randomBytes(WRITE_BYTES * 64);
  for (let done = 0; done < count; ) {
    const batch = Math.min(DEPTH, count - done);
    clock.ms += (spanMs * batch) / count;
    await Promise.all(
      Array.from({ length: batch }, (_, index) => {
        const offset =
          Math.floor(((Math.imul(done + index, 2_654_435_761) >>> 0) / 2 ** 32) * (DISK_BYTES / 4096)) * 4096;
        const at = ((done + index) % 64) * WRITE_BYTES;
        return journal.append({ disk: 0, offset, data: data.subarray(at, at + WRITE_BYTES) });
      }),
    );
    done += batch;
  }
}

/** Processor time is that of the whole process: on a loaded machine it says more than the clock. */
interface Opening {
  readonly ms: number;
  readonly cpuMs: number;
  readonly records: number;
}

/** From the wish to the first read, in milliseconds, with the number of records that the view is made of. */
async function open({ journal }: Subject, timeUs: number, bases: readonly Fold[]): Promise<Opening> {
  const startedMs = systemClock.elapsedMs();
  const startedCpu = process.cpuUsage();
  const moment = await journal.resolve({ timeUs });
  const after = bases.findLast(({ sequence }) => sequence <= moment.sequence)?.sequence ?? 0;
  await using view = await journal.openView(after, moment.sequence);
  await using device = layeredDevice({ base: memoryDevice({ sizeBytes: DISK_BYTES }), layer: view, disk: 0 });
  await device.read(0, Buffer.alloc(READ_BYTES));
  const { user, system } = process.cpuUsage(startedCpu);
  const ms = systemClock.elapsedMs() - startedMs;
  return { ms, cpuMs: (user + system) / 1000, records: moment.sequence - after };
}

function row(what: string, samples: readonly Opening[]): string {
  const ms = samples.map((sample) => sample.ms);
  const records = Math.max(...samples.map((sample) => sample.records));
  const [half, most] = [median(ms), Math.max(...ms)].map((value) => value.toFixed(0));
  return `${what}: p50 ${half} ms, highest ${most} ms, processor p50 ${median(samples.map(({ cpuMs }) => cpuMs)).toFixed(0)} ms (${samples.length} moments, up to ${records.toLocaleString('en-US')} records)\n`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      writes: { type: 'string', default: '2000000' },
      folds: { type: 'string', default: '144' },
      moments: { type: 'string', default: '60' },
      directory: { type: 'string', default: tmpdir() },
    },
  });
  const [writes, folds, moments] = [Number(values.writes), Number(values.folds), Number(values.moments)];
  const directory = await mkdtemp(join(values.directory, 'open-moments-'));
  await using _ = { [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) };
  const clock = new DayClock();
  const options = { key: randomBytes(32), machineId: MACHINE, clock, segmentBytes: 32 * 2 ** 20 };
  const journal = await Journal.open(join(directory, 'journal'), options);
  const subject = { journal, clock };
  const beganMs = systemClock.elapsedMs();
  await journal.beginStretch('writes');
  for (let fold = 0; fold < folds; fold++) {
    await write(subject, Math.floor(writes / folds), DAY_MS / folds);
    await journal.folded({ pointId: String(fold), sequence: journal.lastSequence });
  }
  await journal.maintain();
  const tookS = (systemClock.elapsedMs() - beganMs) / 1000;
  process.stdout.write(
    `${journal.lastSequence.toLocaleString('en-US')} records in ${tookS.toFixed(0)} s, ${(journal.sizeBytes / 2 ** 20).toFixed(0)} MiB\n`,
  );
  const spread = (index: number): number => (BEGAN_MS + ((index + 0.5) / moments) * DAY_MS) * 1000;
  const samples: Opening[] = [];
  for (let index = 0; index < moments; index++)
    samples.push(await open(subject, spread((index * 37) % moments), journal.folds));
  process.stdout.write(row('any moment of 24 h', samples));
  await write(subject, DEFAULT_SESSION_SETTINGS.foldRecords, DAY_MS / folds);
  const worst: Opening[] = [];
  for (let index = 0; index < 3; index++) worst.push(await open(subject, journal.newest.timeUs, journal.folds));
  process.stdout.write(row('the newest, just before a fold', worst));
  const { rss } = process.memoryUsage();
  process.stdout.write(`${(rss / 2 ** 20).toFixed(0)} MiB of memory at the end\n`);
  await journal.close();
}

await main();
