// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { hasCode, toError } from '../../appliance/core/errors.ts';
import type { Journal } from '../../appliance/volume/journal.ts';
import { MAX_TABLE_BYTES } from '../../appliance/volume/journal-content.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import type { WriteLayer } from '../../appliance/volume/write-layer.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import { everyStep, FaultPlan, FaultyFileSystem, isCrash } from '../support/faulty-file-system.ts';
import {
  InlineSealing,
  JournalModel,
  type JournalSetup,
  openJournal,
  readLayer,
  TestClock,
} from '../support/journal-model.ts';
import { suite } from '../support/suite.ts';
import { DiskModel, KEY, randomStep, type Step } from '../support/write-log-model.ts';

const test = suite('journal, crashes', { timeoutMs: 90_000 });

const SIZE = 30_000;
const POINT = '0123456789abcdef';

interface Story {
  readonly model: JournalModel;
  readonly clock: TestClock;
  /** Settled records, and whether they lie in a stretch. */
  readonly settled: { readonly sequence: number; readonly isOffered: boolean }[];
  /** The change that was under way: after a crash it may be there or not. */
  pending: Step | undefined;
  durableSequence: number;
  failure: Error | undefined;
}

test('the story of these tests seals segments and releases the first ones', async () => {
  const disk = new CrashingFileSystem();
  const { failure, clock } = await tell(new FaultyFileSystem(disk, new FaultPlan()), KEY);
  assert.equal(failure, undefined);
  const names = (await disk.readDirectory('/journal')).map(({ name }) => name);
  assert.ok(names.filter((name) => name.endsWith('.sealed')).length > 0, names.join(' '));
  assert.equal(names.includes('segment-0000000001.sealed') || names.includes('segment-0000000001.log'), false);
  const journal = await openJournal(setupOf(disk, KEY, clock));
  assert.ok(journal.oldestBase > 0);
  await journal.close();
});

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';

  test(`${how}: the process dies, or the power fails, at any step of writing, folding, sealing and releasing`, async () => {
    const steps = await everyStep(
      (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
      async (plan) => {
        const disk = new CrashingFileSystem();
        const story = await tell(new FaultyFileSystem(disk, plan), key);
        assert.ok(story.failure === undefined || isCrash(story.failure), String(story.failure));
        await check(story, disk.survivingProcess(), lastSettled(story), key);
        for (const seed of [1, 2]) {
          await check(story, disk.crash(seed * 1000 + plan.operations), story.durableSequence, key);
        }
      },
    );
    assert.ok(steps > 100, `${steps} steps`);
  });

  for (const code of ['ENOSPC', 'EIO'] as const) {
    test(`${how}: ${code} at any step loses nothing that settled, and offers no state that never was`, async () => {
      await everyStep(
        (at) => ({ kind: 'error', at, code }),
        async (plan) => {
          const disk = new CrashingFileSystem();
          const story = await tell(new FaultyFileSystem(disk, plan), key);
          await check(story, disk.survivingProcess(), lastSettled(story), key);
          await check(story, disk.crash(plan.operations), story.durableSequence, key);
        },
      );
    });
  }
}

/** Stretches with gaps, folds, sealing, and parts that leave the window; ends at the first error. */
async function tell(fileSystem: FaultyFileSystem, key: Buffer | null): Promise<Story> {
  const clock = new TestClock();
  const model = new JournalModel(3, SIZE);
  const story: Story = { model, clock, settled: [], pending: undefined, durableSequence: 0, failure: undefined };
  const random = randomSource(5);
  const steps = new DiskModel(3, SIZE);
  let journal: Journal | undefined;
  try {
    journal = await openJournal(setupOf(fileSystem, key, clock));
    for (const length of [8, 8, 4]) {
      await appendSome(journal, 2, false);
      await settle(journal.beginStretch('writes'), true);
      await appendSome(journal, length, true);
      const { sequence } = journal.newest;
      await journal.folded({ pointId: POINT, sequence });
      model.folds.push(sequence);
      await journal.maintain();
      await appendSome(journal, 2, true);
      await settle(journal.endStretch('because'), true);
      clock.ms += 4_000;
    }
    await journal.maintain();
    await journal.close();
    story.durableSequence = lastSettled(story);
  } catch (error) {
    story.failure = toError(error);
    // The first error is what counts.
    await journal?.close().catch(() => undefined);
  }
  return story;

  async function settle(done: Promise<Moment>, isOffered: boolean): Promise<Moment> {
    const moment = await done;
    story.settled.push({ sequence: moment.sequence, isOffered });
    story.durableSequence = journal?.durableSequence ?? 0;
    return moment;
  }

  async function appendSome(to: Journal, count: number, isOffered: boolean): Promise<void> {
    for (let change = 0; change < count; change++) {
      clock.ms += 100;
      const step = randomStep(random, steps, 3_000);
      story.pending = step;
      const moment = await settle(step.kind === 'write' ? to.append(step) : to.appendZero(step), isOffered);
      story.pending = undefined;
      model.steps.push({ step, moment });
    }
  }
}

/** Nothing settled is missing, what is offered is what should be, and each moment reads what the model says. */
async function check(
  story: Story,
  fileSystem: CrashingFileSystem,
  leastSequence: number,
  key: Buffer | null,
): Promise<void> {
  const clock = new TestClock();
  clock.ms = story.clock.ms + 1;
  const journal = await openJournal(setupOf(fileSystem, key, clock));
  const last = journal.lastSequence;
  assert.ok(last >= leastSequence, `${last} of ${leastSequence}`);
  const model = new JournalModel(3, SIZE);
  model.steps = story.model.steps.filter(({ moment }) => moment.sequence <= last);
  for await (const { sequence, timeUs } of journal.writes({ fromSequence: lastSettled(story) + 1 })) {
    assert.ok(story.pending !== undefined, 'only what was under way can be there beyond what settled');
    model.steps.push({ step: story.pending, moment: { sequence, timeUs } });
  }
  await compare(model, journal, { after: journal.foldedSequence, upTo: last, layer: journal });
  for (const { sequence, isOffered } of story.settled) {
    if (sequence > last || sequence < journal.oldestBase) continue;
    const found = await resolved(journal, sequence);
    assert.equal(found, isOffered ? sequence : undefined, `sequence ${sequence}`);
    if (found === undefined || sequence % 3 !== 0) continue;
    const after = journal.folds.findLast((fold) => fold.sequence <= sequence)?.sequence ?? journal.oldestBase;
    await using view = await journal.openView(after, sequence);
    await compare(model, journal, { after, upTo: sequence, layer: view });
  }
  const begin = await journal.beginStretch('writes');
  assert.equal((await journal.resolve('newest')).sequence, begin.sequence);
  await journal.close();
}

async function compare(
  model: JournalModel,
  journal: Journal,
  what: { readonly after: number; readonly upTo: number; readonly layer: WriteLayer },
): Promise<void> {
  const read = await readLayer(model, what.layer, what.after);
  for (const [disk, content] of model.stateAt(what.upTo).entries()) {
    assert.ok(
      read[disk]?.equals(content),
      `disk ${disk} at ${what.upTo} over ${what.after} of ${journal.lastSequence}`,
    );
  }
}

async function resolved(journal: Journal, sequence: number): Promise<number | undefined> {
  try {
    return (await journal.resolve({ sequence })).sequence;
  } catch (error) {
    assert.ok(hasCode(error, 'MOMENT_IN_GAP', 'MOMENT_NOT_FOUND'), String(error));
    return undefined;
  }
}

function lastSettled(story: Story): number {
  return story.settled.at(-1)?.sequence ?? 0;
}

function setupOf(fileSystem: JournalSetup['fileSystem'], key: Buffer | null, clock: TestClock): JournalSetup {
  const startSealing = (): InlineSealing => new InlineSealing();
  // The encrypted ones read the headers of full segments again, so that each of these reads fails once, too.
  const tableBytes = key === null ? MAX_TABLE_BYTES : 0;
  return {
    directory: '/journal',
    fileSystem,
    key,
    clock,
    segmentBytes: 9_000,
    windowMs: 5_000,
    tableBytes,
    startSealing,
  };
}
