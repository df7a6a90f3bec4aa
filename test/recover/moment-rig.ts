// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import type { RecoverParts } from '../../appliance/recover/context.ts';
import type { JournalSource } from '../../appliance/recover/state-disks.ts';
import type { PointJournal, RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import type { JournalMoment, RecoverableState } from '../../appliance/volume/recoverable-state.ts';
import { TestClock } from '../support/journal-model.ts';
import type { TestContext } from '../support/test-scope.ts';
import { makeRig, noise, type Rig } from './fixture.ts';

export const MACHINE_ID = '5c1e5c1e-0000-4000-8000-00000000beef';
/** Sizes of the disks; neither is a whole number of chunks. */
const SIZES: Readonly<Record<string, number>> = { vda: 1024 * 1024 + 700, vdb: 300 * 1024 };
/** Numbers under which the log knows them: not those in the point. */
const LOG_DISKS: Readonly<Record<string, number>> = { vda: 4, vdb: 1 };
const STEP_MS = 250;

interface Step {
  readonly moment: Moment;
  readonly disk: string;
  readonly offset: number;
  /** Null: zeroes. */
  readonly data: Buffer | null;
  readonly length: number;
}

/** A machine with a journal: two disks, points beneath, and a model of every moment. */
export interface MomentRig extends Rig {
  readonly parts: RecoverParts;
  readonly journal: Journal;
  readonly clock: TestClock;
  readonly base: RecoveryPoint;
  readonly history: JournalHistoryModel;
}

/** What was written, and how the disks read at any sequence. */
export class JournalHistoryModel {
  readonly steps: Step[] = [];
  readonly #base: ReadonlyMap<string, Buffer>;
  readonly #random: () => number;

  constructor(base: ReadonlyMap<string, Buffer>, random: () => number) {
    this.#base = base;
    this.#random = random;
  }

  /** The bytes of a disk after the record `sequence`. */
  at(disk: string, sequence: number): Buffer {
    const bytes = Buffer.from(this.#base.get(disk) ?? Buffer.alloc(0));
    for (const step of this.steps) {
      if (step.disk !== disk || step.moment.sequence > sequence) continue;
      if (step.data === null) bytes.fill(0, step.offset, step.offset + step.length);
      else step.data.copy(bytes, step.offset);
    }
    return bytes;
  }

  /** Writes, zeroes and trims at random, each some time after the one before. */
  async run(journal: Journal, clock: TestClock, count: number): Promise<Moment[]> {
    const moments: Moment[] = [];
    for (let done = 0; done < count; done++) {
      clock.ms += STEP_MS;
      const name = this.#random() < 0.7 ? 'vda' : 'vdb';
      const size = SIZES[name] ?? 0;
      // Some are longer than a record holds.
      const most = this.#random() < 0.1 ? 150_000 : 9_000;
      const offset = Math.floor(this.#random() * size);
      const length = 1 + Math.floor(this.#random() * Math.min(most, size - offset - 1));
      const isZero = this.#random() < 0.2;
      const data = isZero ? null : noise(length, this.steps.length + 17);
      const place = { disk: LOG_DISKS[name] ?? 0, offset };
      const moment =
        data === null
          ? await journal.appendZero({ ...place, length }, this.#random() < 0.5 ? 'zero' : 'trim')
          : await journal.append({ ...place, data });
      this.steps.push({ moment, disk: name, offset, data, length });
      moments.push(moment);
    }
    return moments;
  }
}

export async function makeMomentRig(t: TestContext, seed: number): Promise<MomentRig> {
  const rig = await makeRig(t);
  const clock = new TestClock();
  const { repository } = rig.fixture;
  const contents = new Map(Object.entries(SIZES).map(([name, size], index) => [name, noise(size, index + 1)]));
  const base = await addPoint(rig, contents, { place: { sequence: 0, timeUs: clock.ms * 1000 }, logId: undefined });
  const { id: machineId } = base.machine;
  // Small segments, so that what is folded is sealed.
  const options = { key: repository.keys.logRoot, clock, machineId, segmentBytes: 256 * 1024 };
  const journal = t.use(await Journal.open(join(rig.directory, 'journal'), options));
  const journals: JournalSource = {
    openLayer: async ({ logId, after, upTo }) => {
      if (logId !== journal.logId) throw new ApplianceError('MOMENT_NOT_FOUND', 'another log');
      return journal.openView(after, upTo);
    },
  };
  const parts: RecoverParts = { ...rig.parts, journals, clock };
  const place = await journal.markMoment();
  const listed = await addPoint(rig, contents, {
    place,
    logId: journal.logId,
    parent: base,
  });
  await journal.folded({ pointId: listed.id, sequence: place.sequence });
  return {
    ...rig,
    parts,
    journal,
    clock,
    base: listed,
    history: new JournalHistoryModel(contents, random(seed)),
  };
}

/** A recovery point of the state after a record, and the journal knows of it. */
export async function addFold(rig: MomentRig, parent: RecoveryPoint, at: Moment): Promise<RecoveryPoint> {
  const contents = new Map(Object.keys(SIZES).map((name) => [name, rig.history.at(name, at.sequence)]));
  const point = await addPoint(rig, contents, { place: at, logId: rig.journal.logId, parent });
  await rig.journal.folded({ pointId: point.id, sequence: at.sequence });
  return point;
}

async function addPoint(
  { fixture }: Rig,
  contents: ReadonlyMap<string, Buffer>,
  made: { readonly place: Moment; readonly logId: string | undefined; readonly parent?: RecoveryPoint },
): Promise<RecoveryPoint> {
  const { place, logId, parent } = made;
  const journal: PointJournal | undefined = logId === undefined ? undefined : { logId, ...place, disks: LOG_DISKS };
  const disks = Object.fromEntries(
    await Promise.all(
      [...contents].map(async ([name, bytes]) => {
        const device = memoryDevice({ sizeBytes: bytes.length });
        await device.write(0, bytes);
        return [name, device] as const;
      }),
    ),
  );
  return fixture.addPoint({
    machine: { id: MACHINE_ID, name: 'web' },
    disks,
    takenAtMs: Math.floor(place.timeUs / 1000),
    attachments: { 'domain.xml': Buffer.from('<domain/>') },
    ...(parent === undefined ? {} : { parent }),
    ...(journal === undefined ? {} : { journal }),
  });
}

export function momentOf({ journal }: MomentRig, moment: Moment): JournalMoment {
  return { logId: journal.logId, ...moment, consistency: 'crash-consistent', bookmark: null };
}

export function stateAt(rig: MomentRig, point: RecoveryPoint, moment: Moment): RecoverableState {
  return { point, moment: momentOf(rig, moment) };
}

/** Numbers between 0 and 1 that look random and are the same for the same seed. */
export function random(seed: number): () => number {
  let at = 0;
  const words = noise(4 * 100_000, seed);
  return () => {
    at = (at + 4) % words.length;
    return words.readUInt32LE(at) / 2 ** 32;
  };
}

export function pick<T>(list: readonly T[], next: () => number): T {
  const found = list[Math.floor(next() * list.length)];
  if (found === undefined) throw new Error('the list is not empty');
  return found;
}
