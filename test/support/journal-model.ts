// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import type { Clock } from '../../appliance/core/clock.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import type { FileSystem } from '../../appliance/core/file-system.ts';
import { Journal, type JournalOptions } from '../../appliance/volume/journal.ts';
import type { Moment, StretchKind } from '../../appliance/volume/journal-event.ts';
import { layeredDevice } from '../../appliance/volume/logged-device.ts';
import type { Sealing } from '../../appliance/volume/sealing-thread.ts';
import { type SealingTask, SegmentSealer } from '../../appliance/volume/segment-sealer.ts';
import type { WriteLayer } from '../../appliance/volume/write-layer.ts';
import { MAX_RECORD_DATA_BYTES } from '../../appliance/volume/write-log-format.ts';
import { MACHINE, type Step } from './write-log-model.ts';

/** A clock that stands until it is moved. */
export class TestClock implements Clock {
  ms = 1_800_000_000_000;

  nowMs(): number {
    return this.ms;
  }

  elapsedMs(): number {
    return this.ms;
  }
}

export interface JournalSetup extends Omit<JournalOptions, 'machineId'> {
  readonly directory: string;
  readonly fileSystem: FileSystem;
}

export async function openJournal(setup: JournalSetup): Promise<Journal> {
  const { directory, ...options } = setup;
  return await Journal.open(directory, { ...options, machineId: MACHINE });
}

interface ModelStretch {
  readonly kind: StretchKind;
  readonly begin: Moment;
  end: Moment | undefined;
  moments: Moment[];
}

/** What a journal should know: flat arrays, and plain lists of what happened, with their places in the log. */
export class JournalModel {
  readonly sizeBytes: number;
  readonly diskCount: number;
  /** Changes with the sequence of their last record. */
  steps: { readonly step: Step; readonly moment: Moment }[] = [];
  stretches: ModelStretch[] = [];
  folds: number[] = [];
  /** Records whose request is complete: all that a moment can be. */
  whole: Moment[] = [];

  constructor(diskCount: number, sizeBytes: number) {
    this.diskCount = diskCount;
    this.sizeBytes = sizeBytes;
  }

  get newest(): Moment {
    return this.whole.at(-1) ?? { sequence: 0, timeUs: 0 };
  }

  applied(step: Step, moment: Moment): void {
    this.steps.push({ step, moment });
    this.whole.push(moment);
  }

  /** The power failed: what the log does not have never happened. The stretch that was open has ended. */
  cutAfter(lastSequence: number): void {
    const isKept = ({ sequence }: Moment): boolean => sequence <= lastSequence;
    const torn = this.steps.find(({ moment }) => !isKept(moment));
    this.steps = this.steps.filter(({ moment }) => isKept(moment));
    const part = torn === undefined ? undefined : firstRecords(torn.step, lastSequence - torn.moment.sequence);
    // What was written of a request that nobody was told of counts for the state, and no moment ends with it.
    if (part !== undefined) this.steps.push({ step: part, moment: { sequence: lastSequence, timeUs: 0 } });
    this.whole = this.whole.filter(isKept);
    this.folds = this.folds.filter((sequence) => sequence <= lastSequence);
    this.stretches = this.stretches.filter(({ begin }) => isKept(begin));
    for (const stretch of this.stretches) {
      stretch.moments = stretch.moments.filter(isKept);
      if (stretch.end !== undefined && !isKept(stretch.end)) stretch.end = undefined;
    }
  }

  endOpenStretch(end: Moment): void {
    const last = this.stretches.at(-1);
    if (last !== undefined) last.end ??= end;
  }

  /** The disks after everything up to a sequence. */
  stateAt(sequence: number): Buffer[] {
    const disks = Array.from({ length: this.diskCount }, () => Buffer.alloc(this.sizeBytes));
    for (const { step, moment } of this.steps) {
      if (moment.sequence > sequence) break;
      const disk = disks[step.disk];
      assert.ok(disk !== undefined);
      if (step.kind === 'write') step.data.copy(disk, step.offset);
      else disk.fill(0, step.offset, step.offset + step.length);
    }
    return disks;
  }

  /** The moment that should be meant, or undefined when none may be offered. */
  meant(key: 'sequence' | 'timeUs', wanted: number, now: Moment): Moment | undefined {
    for (const stretch of this.stretches.toReversed()) {
      const isWrites = stretch.kind === 'writes';
      const first = isWrites ? stretch.begin : stretch.moments[0];
      const end = stretch.end === undefined ? now : isWrites ? stretch.end : stretch.moments.at(-1);
      if (first === undefined || end === undefined || wanted < first[key] || wanted > end[key]) continue;
      const offered =
        stretch.kind === 'interval'
          ? stretch.moments
          : this.whole.filter(({ sequence }) => sequence >= first.sequence && sequence <= end.sequence);
      return offered.findLast((moment) => moment[key] <= wanted) ?? assert.fail('a stretch has its first moment');
    }
    return undefined;
  }
}

/** A write without its last `-missing` records; undefined when nothing is left. */
function firstRecords(step: Step, missing: number): Step | undefined {
  if (step.kind === 'zero') return undefined;
  const ends: number[] = [];
  for (let at = step.offset; at < step.offset + step.data.length; ) {
    at = Math.min(step.offset + step.data.length, (Math.floor(at / MAX_RECORD_DATA_BYTES) + 1) * MAX_RECORD_DATA_BYTES);
    ends.push(at);
  }
  const end = ends[ends.length + missing - 1];
  return end === undefined ? undefined : { ...step, data: step.data.subarray(0, end - step.offset) };
}

/** Reads all disks of a layer over the model's state at `after`. */
export async function readLayer(model: JournalModel, layer: WriteLayer, after: number): Promise<Buffer[]> {
  const disks: Buffer[] = [];
  for (const [disk, content] of model.stateAt(after).entries()) {
    await using base = memoryDevice({ sizeBytes: model.sizeBytes });
    await base.write(0, content);
    const device = layeredDevice({ base, layer, disk });
    const read = Buffer.alloc(model.sizeBytes, 0xcc);
    await device.read(0, read);
    disks.push(read);
  }
  return disks;
}

/** Compares random wishes, by time and by sequence, with the model: the answer, and every byte of what it opens. */
export async function checkMoments(
  journal: Journal,
  model: JournalModel,
  how: { readonly random: () => number; readonly clock: TestClock; readonly count: number },
): Promise<number> {
  const { random, count } = how;
  const oldest = journal.oldestBase;
  const now = { sequence: model.newest.sequence, timeUs: Math.max(how.clock.ms * 1000, model.newest.timeUs) };
  const firstUs = model.whole[0]?.timeUs ?? now.timeUs;
  let opened = 0;
  for (let round = 0; round < count; round++) {
    const isTime = random() < 0.5;
    const span = isTime ? now.timeUs - firstUs : now.sequence;
    const wanted = (isTime ? firstUs : 0) + Math.floor(random() * (span + 2)) - 1;
    const expected = model.meant(isTime ? 'timeUs' : 'sequence', wanted, now);
    let found: Moment | undefined;
    try {
      found = await journal.resolve(isTime ? { timeUs: wanted } : { sequence: wanted });
    } catch (error) {
      assert.ok(hasCode(error, 'MOMENT_IN_GAP', 'MOMENT_NOT_FOUND'), String(error));
    }
    if (expected !== undefined && expected.sequence < oldest) continue;
    assert.deepEqual(found, expected, `${isTime ? 'time' : 'sequence'} ${wanted}`);
    if (found === undefined) continue;
    const bases = [...(oldest === 0 ? [0] : []), ...model.folds].filter(
      (fold) => fold >= oldest && fold <= (found?.sequence ?? 0),
    );
    const after = bases[Math.floor(random() * bases.length)] ?? oldest;
    await using view = await journal.openView(after, found.sequence);
    const disks = await readLayer(model, view, after);
    for (const [disk, content] of model.stateAt(found.sequence).entries()) {
      assert.ok(disks[disk]?.equals(content), `disk ${disk} at ${found.sequence} over ${after}`);
    }
    opened += 1;
  }
  return opened;
}

/** One more or less random thing that happens to a journal; the model keeps up. */
export async function randomEvent(
  journal: Journal,
  model: JournalModel,
  how: { readonly random: () => number; readonly clock: TestClock; readonly nextStep: () => Step },
): Promise<void> {
  const { random, clock } = how;
  clock.ms += Math.floor(random() * 3) * Math.floor(random() * 400);
  const chance = random();
  const open = journal.openStretch;
  if (chance < 0.06) {
    if (open === undefined) {
      const kind = random() < 0.7 ? 'writes' : 'interval';
      const begin = await journal.beginStretch(kind);
      model.stretches.push({ kind, begin, end: undefined, moments: [] });
      model.whole.push(begin);
    } else {
      const end = await journal.endStretch('because');
      model.whole.push(end);
      model.endOpenStretch(end);
    }
  } else if (chance < 0.16 && open !== undefined) {
    const isBookmark = random() < 0.3;
    const moment = isBookmark ? await journal.bookmark('b', 'crash-consistent') : await journal.markMoment();
    if (open.kind === 'interval') model.stretches.at(-1)?.moments.push(moment);
    model.whole.push(moment);
  } else if (chance < 0.2 && open !== undefined) {
    const moment = await journal.resolve('newest').catch(() => undefined);
    if (moment !== undefined && moment.sequence >= journal.foldedSequence) {
      await journal.folded({ pointId: '0123456789abcdef', sequence: moment.sequence });
      model.folds.push(moment.sequence);
      model.whole.push({ sequence: journal.lastSequence, timeUs: journal.newest.timeUs });
      await journal.maintain();
    }
  } else if (chance < 0.25) await journal.flush();
  else {
    const step = how.nextStep();
    const moment = step.kind === 'write' ? await journal.append(step) : await journal.appendZero(step);
    model.applied(step, moment);
  }
}

/** Seals at once, in this thread. */
export class InlineSealing implements Sealing {
  private sealer: SegmentSealer | undefined;

  async begin(task: SealingTask): Promise<Buffer[]> {
    this.sealer = new SegmentSealer(task);
    return [this.sealer.begin()];
  }

  async feed(bytes: ArrayBuffer): Promise<Buffer[]> {
    assert.ok(this.sealer !== undefined);
    return this.sealer.feed(Buffer.from(bytes));
  }

  async finish(): Promise<Buffer[]> {
    assert.ok(this.sealer !== undefined);
    return this.sealer.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
