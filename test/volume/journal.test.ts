// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { parseMachineId } from '../../appliance/core/ids.ts';
import { Journal } from '../../appliance/volume/journal.ts';
import { MAX_TABLE_BYTES } from '../../appliance/volume/journal-content.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import { loggedDevice } from '../../appliance/volume/logged-device.ts';
import { RawPart } from '../../appliance/volume/raw-part.ts';
import { readRange } from '../block/conformance.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import {
  checkMoments,
  InlineSealing,
  JournalModel,
  openJournal,
  randomEvent,
  readLayer,
  TestClock,
} from '../support/journal-model.ts';
import { suite } from '../support/suite.ts';
import { DiskModel, KEY, randomStep } from '../support/write-log-model.ts';

const test = suite('journal', { timeoutMs: 60_000 });

const SIZE = 150_000;
const MS = 1000;

function setupOf(key: Buffer | null = null): {
  directory: string;
  fileSystem: CrashingFileSystem;
  key: Buffer | null;
  clock: TestClock;
} {
  return { directory: '/journal', fileSystem: new CrashingFileSystem(), key, clock: new TestClock() };
}

const x = (disk: number, offset: number): { disk: number; offset: number; data: Buffer } => ({
  disk,
  offset,
  data: Buffer.alloc(100, 1),
});

test('a stretch of writes offers every state, and what lies between stretches is a gap with its neighbours', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  const start = setup.clock.ms * MS;
  await journal.append(x(0, 0));
  await assert.rejects(journal.resolve('newest'), (error) => hasCode(error, 'MOMENT_NOT_FOUND'));
  setup.clock.ms += 10;
  assert.deepEqual(await journal.beginStretch('writes'), { sequence: 2, timeUs: start + 10 * MS });
  setup.clock.ms += 10;
  await journal.append(x(0, 100));
  setup.clock.ms += 10;
  await journal.append(x(1, 100));
  setup.clock.ms += 10;
  await journal.endStretch('the cable was cut');
  setup.clock.ms += 10;
  await journal.append(x(1, 0));
  setup.clock.ms += 10;
  await journal.beginStretch('writes');
  setup.clock.ms += 10;
  assert.deepEqual(await journal.resolve({ timeUs: start + 25 * MS }), { sequence: 3, timeUs: start + 20 * MS });
  assert.deepEqual(await journal.resolve({ sequence: 4 }), { sequence: 4, timeUs: start + 30 * MS });
  assert.deepEqual(await journal.resolve({ timeUs: start + 69 * MS }), { sequence: 7, timeUs: start + 60 * MS });
  for (const wish of [{ timeUs: start + 55 * MS }, { sequence: 6 }]) {
    await assert.rejects(journal.resolve(wish), (error) => {
      assert.ok(hasCode(error, 'MOMENT_IN_GAP'));
      assert.deepEqual(error.details['before'], { sequence: 5, timeUs: start + 40 * MS });
      assert.deepEqual(error.details['after'], { sequence: 7, timeUs: start + 60 * MS });
      return true;
    });
  }
  for (const wish of [
    { timeUs: start },
    { timeUs: start + 71 * MS },
    { sequence: 1 },
    { sequence: 8 },
    { bookmark: 'x' },
  ]) {
    await assert.rejects(journal.resolve(wish), (error) => hasCode(error, 'MOMENT_NOT_FOUND'), JSON.stringify(wish));
  }
  const timeline = await journal.timeline({ buckets: 7 });
  assert.deepEqual(
    timeline.stretches.map(({ begin, end, isOpen, endReason }) => [begin.sequence, end.sequence, isOpen, endReason]),
    [
      [2, 5, false, 'the cable was cut'],
      [7, 7, true, undefined],
    ],
  );
  assert.deepEqual(
    timeline.gaps.map(({ begin, end, reason }) => [begin.sequence, end?.sequence, reason]),
    [[5, 7, 'the cable was cut']],
  );
  assert.deepEqual(
    timeline.buckets.map(({ writes, bytes }) => [writes, bytes]),
    [
      [1, 100],
      [0, 0],
      [1, 100],
      [1, 100],
      [0, 0],
      [1, 100],
      [0, 0],
    ],
  );
});

test('a stretch of intervals offers its marked moments and bookmarks only', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.beginStretch('interval');
  await assert.rejects(journal.resolve('newest'), (error) => hasCode(error, 'MOMENT_NOT_FOUND'));
  await journal.append(x(0, 0));
  const first = await journal.markMoment();
  await journal.append(x(0, 100));
  await journal.append(x(0, 200));
  const second = await journal.bookmark('before the upgrade', 'application-consistent');
  await journal.append(x(0, 300));
  assert.deepEqual(await journal.resolve({ sequence: 4 }), first);
  assert.deepEqual(await journal.resolve({ sequence: 7 }), second);
  assert.deepEqual(await journal.resolve('newest'), second);
  assert.deepEqual(await journal.resolve({ bookmark: 'before the upgrade' }), second);
  await assert.rejects(journal.resolve({ sequence: 2 }), (error) => hasCode(error, 'MOMENT_NOT_FOUND'));
  await journal.endStretch('enough');
  assert.deepEqual(await journal.resolve({ sequence: second.sequence }), second);
  await assert.rejects(journal.resolve({ sequence: 7 }), (error) =>
    hasCode(error, 'MOMENT_IN_GAP', 'MOMENT_NOT_FOUND'),
  );
  await assert.rejects(journal.bookmark('late', 'crash-consistent'), (error) => hasCode(error, 'MOMENT_IN_GAP'));
  const { bookmarks, moments } = await journal.timeline();
  assert.deepEqual(bookmarks, [{ name: 'before the upgrade', moment: second, consistency: 'application-consistent' }]);
  assert.deepEqual(moments, [first, second]);
});

test('a stretch of intervals reaches from its first moment to its last, and is none before the first', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.beginStretch('writes');
  const kept = await journal.append(x(0, 0));
  const end = await journal.endStretch('a write waited 2100 ms for the log');
  setup.clock.ms += 10;
  await journal.beginStretch('interval');
  assert.deepEqual((await journal.timeline()).stretches.length, 1);
  assert.deepEqual(await journal.resolve('newest'), end);
  setup.clock.ms += 10;
  await journal.append(x(0, 100));
  const first = await journal.markMoment();
  setup.clock.ms += 10;
  await journal.append(x(0, 200));
  const { stretches, gaps } = await journal.timeline();
  assert.deepEqual(
    stretches.slice(1).map(({ begin, end: last, isOpen }) => [begin, last, isOpen]),
    [[first, first, true]],
  );
  assert.deepEqual(
    gaps.map((gap) => [gap.begin, gap.end]),
    [[end, first]],
  );
  assert.ok(kept.sequence < end.sequence);
});

test('no moment lies inside of one request', async (t) => {
  const journal = t.use(await openJournal(setupOf()));
  await journal.beginStretch('writes');
  await journal.append({ disk: 0, offset: 0, data: Buffer.alloc(300_000, 1) });
  for (const sequence of [1, 2, 3, 4, 5]) assert.equal((await journal.resolve({ sequence })).sequence, 1);
  assert.equal((await journal.resolve({ sequence: 6 })).sequence, 6);
});

test('writes are listed by time, sequence and place', async (t) => {
  const setup = setupOf(KEY);
  const journal = t.use(await openJournal({ ...setup, segmentBytes: 300 }));
  const start = setup.clock.ms * MS;
  for (const offset of [0, 1000, 2000, 50]) {
    await journal.append(x(0, offset));
    setup.clock.ms += 10;
  }
  await journal.appendZero({ disk: 1, offset: 0, length: 10 }, 'trim');
  const sequences = async (query: Parameters<Journal['writes']>[0]): Promise<number[]> =>
    (await all(journal.writes(query))).map(({ sequence }) => sequence);
  assert.deepEqual(await sequences({}), [1, 2, 3, 4, 5]);
  assert.deepEqual(await sequences({ disk: 0, range: { offset: 99, length: 1 } }), [1, 4]);
  assert.deepEqual(await sequences({ fromUs: start + 10 * MS, toUs: start + 20 * MS }), [2, 3]);
  assert.deepEqual(await sequences({ fromUs: start + 11 * MS, toSequence: 4 }), [3, 4]);
  assert.deepEqual((await all(journal.writes({ fromSequence: 5 })))[0], {
    sequence: 5,
    timeUs: start + 40 * MS,
    disk: 1,
    offset: 0,
    length: 10,
    kind: 'trim',
  });
});

test('a fold drops the index and changes the base in one turn', async (t) => {
  const journal = t.use(await openJournal(setupOf()));
  await journal.beginStretch('writes');
  await journal.append(x(0, 0));
  const { sequence } = await journal.appendZero({ disk: 0, offset: 50, length: 100 });
  await journal.append(x(0, 120));
  let slicesAtSwitch = -1;
  await journal.folded({ pointId: '00112233445566aa', sequence }, () => {
    slicesAtSwitch = journal.slices({ disk: 0, offset: 0, length: 1000 }).length;
  });
  assert.equal(slicesAtSwitch, 3);
  assert.equal(journal.foldedSequence, sequence);
  const base = memoryDevice({ sizeBytes: 1000 });
  await base.write(0, Buffer.alloc(1000, 7));
  const device = loggedDevice({ base, log: journal, disk: 0 });
  const expected = Buffer.alloc(1000, 7).fill(1, 120, 220);
  assert.ok((await readRange(device, { offset: 0, length: 1000 })).equals(expected));
});

test('what a killed process had folded and not sealed is sealed by the next one, though it writes nothing', async (t) => {
  const fileSystem = new CrashingFileSystem();
  const setup = { ...setupOf(), segmentBytes: 60_000, startSealing: () => new InlineSealing() };
  const journal = await openJournal({ ...setup, fileSystem });
  await journal.beginStretch('writes');
  for (let write = 0; write < 40; write++) await journal.append({ disk: 0, offset: 0, data: Buffer.alloc(6_000) });
  let survivor = fileSystem;
  await journal.folded({ pointId: '00112233445566aa', sequence: journal.newest.sequence }, () => {
    survivor = fileSystem.survivingProcess();
  });
  const next = t.use(await openJournal({ ...setup, fileSystem: survivor }));
  await next.maintain();
  const names = (await survivor.readDirectory('/journal')).map(({ name }) => name);
  assert.ok(names.filter((name) => name.endsWith('.sealed')).length > 2, names.join(' '));
});

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';

  test(`${how}: random moments of a journal with folds, sealing, expiry and crashes read what a model says`, async () => {
    const seen = { moments: 0, sealed: 0, expired: 0 };
    for (let seed = 1; seed <= 12; seed++) {
      const random = randomSource(seed);
      const clock = new TestClock();
      const model = new JournalModel(3, SIZE);
      const steps = new DiskModel(3, SIZE);
      const nextStep = (): ReturnType<typeof randomStep> => randomStep(random, steps, random() < 0.1 ? 140_000 : 6_000);
      const startSealing = (): InlineSealing => new InlineSealing();
      // Half of the journals keep everything, the others the last seconds.
      const windowMs = seed % 2 === 0 ? 8_000 : 1e9;
      // A third of them has nothing but the headers of the open segment in memory.
      const tableBytes = seed % 3 === 0 ? 0 : MAX_TABLE_BYTES;
      const setup = { directory: '/journal', key, clock, segmentBytes: 60_000, windowMs, tableBytes, startSealing };
      let fileSystem = new CrashingFileSystem();
      let journal = await openJournal({ ...setup, fileSystem });
      for (let event = 0; event < 200; event++) {
        await randomEvent(journal, model, { random, clock, nextStep });
        if (random() > 0.04) continue;
        const { durableSequence } = journal;
        const isPower = random() < 0.5;
        fileSystem = isPower ? fileSystem.crash(seed * 1000 + event) : fileSystem.survivingProcess();
        journal = await openJournal({ ...setup, fileSystem });
        const least = isPower ? durableSequence : model.newest.sequence;
        assert.ok(journal.lastSequence >= least, `${journal.lastSequence} of ${least}`);
        model.cutAfter(journal.lastSequence);
        model.endOpenStretch(journal.newest);
        const newest = await readLayer(model, journal, journal.foldedSequence);
        for (const [disk, content] of model.stateAt(journal.lastSequence).entries()) {
          assert.ok(newest[disk]?.equals(content), `disk ${disk} after a crash`);
        }
      }
      seen.moments += await checkMoments(journal, model, { random, clock, count: 200 });
      seen.sealed += (await fileSystem.readDirectory('/journal')).filter(({ name }) => name.endsWith('.sealed')).length;
      if (journal.oldestBase > 0) seen.expired += 1;
      await journal.close();
    }
    assert.ok(seen.moments >= 500 && seen.sealed > 50 && seen.expired > 1, JSON.stringify(seen));
  });
}

test('headers of segments that wait to be sealed take no more memory than they may, and are read again', async (t) => {
  const setup = { ...setupOf(KEY), segmentBytes: 20_000, tableBytes: 20_000 };
  const journal = t.use(await openJournal(setup));
  const moments: Moment[] = [];
  await journal.beginStretch('writes');
  for (let write = 0; write < 2000; write++) moments.push(await journal.append(x(write % 3, write % 900)));
  const check = async (opened: Journal): Promise<void> => {
    const { all: parts } = opened['parts'];
    const bytes = parts.map((part) => (part instanceof RawPart ? part.tableBytes : 0));
    assert.ok(parts.length > 5 && bytes.slice(0, -1).reduce((sum, each) => sum + each) <= 20_000, bytes.join(' '));
    assert.deepEqual(
      (await all(opened.writes())).map(({ sequence, timeUs, disk, offset }) => ({ sequence, timeUs, disk, offset })),
      moments.map((moment, write) => ({ ...moment, disk: write % 3, offset: write % 900 })),
    );
    const early = moments[100];
    assert.ok(early !== undefined);
    await using view = await opened.openView(0, early.sequence);
    assert.deepEqual(view.slices({ disk: 1, offset: 100, length: 1 }).length, 1);
  };
  await check(journal);
  await journal.folded({ pointId: '00112233445566aa', sequence: moments[1500]?.sequence ?? 0 });
  assert.equal(journal['log'].indexedRanges, 499);
  await journal.close();
  const again = t.use(await openJournal(setup));
  await again.maintain();
  assert.equal(again['log'].indexedRanges, 499);
  assert.equal((await all(again.writes())).length, 2000);
});

test('a journal of another machine is refused', async () => {
  const setup = setupOf();
  const journal = await openJournal(setup);
  await journal.append(x(0, 0));
  await journal.close();
  const machineId = parseMachineId('ffffffff-7d3e-4f10-8a55-1c2d3e4f5a6b');
  await assert.rejects(Journal.open('/journal', { ...setup, machineId }), (error) => hasCode(error, 'BAD_ARGUMENT'));
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

test('a stretch goes on over a restart in which nothing was missed', async (t) => {
  const setup = setupOf(KEY);
  const first = await openJournal(setup);
  const begin = await first.beginStretch('writes');
  await first.append(x(0, 0));
  await first.close();
  const again = t.use(await openJournal({ ...setup, goesOn: true }));
  assert.deepEqual(again.openStretch?.begin, begin);
  const later = await again.append(x(0, 100));
  assert.equal((await again.resolve({ sequence: later.sequence })).sequence, later.sequence);
  await again.bookmark('after the restart', 'crash-consistent');
  await again.endStretch('the machine was shut off');
  const { stretches } = await again.timeline({ buckets: 0 });
  assert.deepEqual(
    stretches.map(({ begin: from, isOpen, endReason }) => [from, isOpen, endReason]),
    [[begin, false, 'the machine was shut off']],
  );
});

test('a stretch that is ended back in time offers nothing after that, also when it is opened again', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.beginStretch('writes');
  setup.clock.ms += 10;
  await journal.append(x(0, 0));
  const at = journal.newest;
  setup.clock.ms += 10;
  await journal.append(x(1, 0));
  await journal.bookmark('too late', 'crash-consistent');
  await journal.endStretch('somebody else ended the mirror', at);
  const check = async (opened: Journal): Promise<void> => {
    assert.deepEqual(await opened.resolve('newest'), at);
    await assert.rejects(opened.resolve({ sequence: at.sequence + 1 }), (error) => hasCode(error, 'MOMENT_IN_GAP'));
    await assert.rejects(opened.resolve({ bookmark: 'too late' }), (error) => hasCode(error, 'MOMENT_NOT_FOUND'));
    const { stretches, gaps } = await opened.timeline();
    assert.deepEqual([stretches[0]?.end, gaps[0]?.begin], [at, at]);
  };
  await check(journal);
  await journal.close();
  await check(t.use(await openJournal(setup)));
});

test('a bookmark for which the guest was frozen stays when its stretch is ended back in time', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.beginStretch('writes');
  setup.clock.ms += 10;
  const at = await journal.append(x(0, 0));
  const bookmark = await journal.bookmark('before the upgrade', 'file-system-consistent');
  setup.clock.ms += 10;
  await journal.append(x(1, 0));
  assert.deepEqual(await journal.endStretch('somebody else ended the mirror', at), bookmark);
  assert.deepEqual(await journal.resolve({ bookmark: 'before the upgrade' }), bookmark);
  assert.deepEqual(await journal.resolve('newest'), bookmark);
});

test('a stretch is not ended before it began, nor before a recovery point that was folded from it', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.append(x(0, 0));
  const before = journal.newest;
  const begin = await journal.beginStretch('writes');
  await journal.endStretch('somebody else ended the mirror', before);
  assert.deepEqual((await journal.timeline()).stretches[0]?.end, begin);
  await journal.beginStretch('writes');
  setup.clock.ms += 10;
  const { sequence } = await journal.append(x(0, 0));
  await journal.folded({ pointId: 'point', sequence });
  await journal.endStretch('somebody else ended the mirror', before);
  assert.equal((await journal.timeline()).stretches[1]?.end.sequence, sequence);
});

test('a moment of an interval has the time at which the machine was so, and times go forward', async (t) => {
  const setup = setupOf();
  const journal = t.use(await openJournal(setup));
  await journal.beginStretch('writes');
  setup.clock.ms += 10;
  const { timeUs: endUs } = await journal.endStretch('the cable was cut');
  setup.clock.ms += 100;
  await journal.append(x(0, 0));
  await journal.beginStretch('interval');
  const first = await journal.markMoment(endUs + 50 * MS);
  const early = await journal.markMoment(endUs - 1);
  const late = await journal.markMoment(endUs + 1_000_000 * MS);
  assert.deepEqual([first.timeUs, early.timeUs, late.timeUs], [endUs + 50 * MS, endUs + 50 * MS, setup.clock.ms * MS]);
  assert.deepEqual(await journal.resolve({ timeUs: endUs + 60 * MS }), early);
  await assert.rejects(journal.resolve({ timeUs: endUs + 49 * MS }), (error) => hasCode(error, 'MOMENT_IN_GAP'));
  const moments = [first, early, late];
  assert.deepEqual((await journal.timeline()).moments, moments);
  await journal.close();
  const again = t.use(await openJournal(setup));
  assert.deepEqual((await again.timeline()).moments, moments);
});
