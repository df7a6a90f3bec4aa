// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { type Clock, systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../appliance/protect/continuous/session-settings.ts';
import { Journal, type MomentWish } from '../../appliance/volume/journal.ts';
import { layeredDevice } from '../../appliance/volume/logged-device.ts';
import { Seeded } from '../statistics.ts';
import { JOURNAL_OPTIONS } from './journal-server.ts';

/*
 * A journal of 24 hours, as processes whose memory is that of a journal at work and nothing else:
 *
 *   node bench/continuous/day-journal.ts fill DIRECTORY WRITES           prints FillAnswer
 *   node bench/continuous/day-journal.ts open DIRECTORY MOMENTS SEED     prints OpenAnswer
 *
 * Writes of 512 bytes are spread evenly over the day and at random over a disk, with a fold each ten minutes; at the end come as
 * many as a session lets come together before it folds early.
 */

export interface FillAnswer {
  readonly seconds: number;
  readonly records: number;
  readonly journalBytes: number;
}

export interface OpenAnswer {
  /** Opening the journal itself, as the service does when it starts. */
  readonly openMs: number;
  /** From the wish for a random time of the day to the tenth read. */
  readonly momentsMs: readonly number[];
  /** The same for the newest moment, before the fold that is due. */
  readonly newestMs: readonly number[];
}

const DAY_MS = 86_400_000;
const BEGAN_MS: number = Date.UTC(2026, 0, 1);
const DISK_BYTES: number = 64 * 2 ** 30;
const BLOCK_BYTES = 4096;
const WRITE_BYTES = 512;
const FOLDS: number = DAY_MS / DEFAULT_SESSION_SETTINGS.foldMs;
/** Appends in flight. */
const DEPTH = 512;
const READS = 10;
const NEWEST_OPENINGS = 3;

class DayClock implements Clock {
  ms = BEGAN_MS;

  nowMs(): number {
    return this.ms;
  }

  elapsedMs(): number {
    return systemClock.elapsedMs();
  }
}

async function fill(directory: string, writes: number): Promise<FillAnswer> {
  const clock = new DayClock();
  const startedMs = systemClock.elapsedMs();
  const journal = await Journal.open(directory, { ...JOURNAL_OPTIONS, clock });
  const random = new Seeded(7);
  const data = randomBytes(WRITE_BYTES * 64);
  const write = async (count: number, spanMs: number): Promise<void> => {
    for (let done = 0; done < count; ) {
      const batch = Math.min(DEPTH, count - done);
      clock.ms += (spanMs * batch) / count;
      const appended = Array.from({ length: batch }, (_, n) => {
        const at = (n % 64) * WRITE_BYTES;
        const offset = random.below(DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
        return journal.append({ disk: 0, offset, data: data.subarray(at, at + WRITE_BYTES) });
      });
      await Promise.all(appended);
      done += batch;
    }
  };
  await journal.beginStretch('writes');
  for (let fold = 0; fold < FOLDS; fold++) {
    await write(Math.round(writes / FOLDS), DAY_MS / FOLDS);
    await journal.folded({ pointId: fold.toString(16).padStart(16, '0'), sequence: journal.lastSequence });
  }
  await write(Math.min(writes, DEFAULT_SESSION_SETTINGS.foldRecords), 1000);
  await journal.maintain();
  const { lastSequence: records, sizeBytes: journalBytes } = journal;
  await journal.close();
  return { seconds: (systemClock.elapsedMs() - startedMs) / 1000, records, journalBytes };
}

async function open(directory: string, moments: number, seed: number): Promise<OpenAnswer> {
  const clock = new DayClock();
  clock.ms = BEGAN_MS + DAY_MS + 1000;
  const startedMs = systemClock.elapsedMs();
  await using journal = await Journal.open(directory, { ...JOURNAL_OPTIONS, clock });
  const openMs = systemClock.elapsedMs() - startedMs;
  const random = new Seeded(seed);
  const momentsMs: number[] = [];
  for (let n = 0; n < moments; n++) {
    momentsMs.push(await openMoment(journal, { timeUs: (BEGAN_MS + random.below(DAY_MS)) * 1000 }, random));
  }
  const newestMs: number[] = [];
  for (let n = 0; n < NEWEST_OPENINGS; n++) newestMs.push(await openMoment(journal, 'newest', random));
  return { openMs, momentsMs, newestMs };
}

async function openMoment(journal: Journal, wish: MomentWish, random: Seeded): Promise<number> {
  const beganMs = systemClock.elapsedMs();
  const moment = await journal.resolve(wish);
  const after = journal.folds.findLast(({ sequence }) => sequence <= moment.sequence)?.sequence ?? 0;
  await using view = await journal.openView(after, moment.sequence);
  await using base = memoryDevice({ sizeBytes: 0 });
  const device = layeredDevice({ base, layer: view, disk: 0, sizeBytes: DISK_BYTES });
  const into = Buffer.alloc(BLOCK_BYTES);
  for (let read = 0; read < READS; read++) {
    await device.read(random.below(DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES, into);
  }
  return systemClock.elapsedMs() - beganMs;
}

if (import.meta.main) {
  const [operation, directory = '', count = '', seed = '1'] = process.argv.slice(2);
  if (operation !== 'fill' && operation !== 'open') {
    throw new ApplianceError('BAD_ARGUMENT', `there is no operation ${operation}`);
  }
  const answer =
    operation === 'fill' ? await fill(directory, Number(count)) : await open(directory, Number(count), Number(seed));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
