// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { hasCode } from '../../appliance/core/errors.ts';
import { BlockCache } from '../../appliance/volume/block-cache.ts';
import type { Journal } from '../../appliance/volume/journal.ts';
import { SealedPart, sealedName } from '../../appliance/volume/sealed-part.ts';
import { SealingThread } from '../../appliance/volume/sealing-thread.ts';
import { SEGMENT_HEADER_BYTES } from '../../appliance/volume/write-log-format.ts';
import { segmentName } from '../../appliance/volume/write-log-segment.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import { hexExample } from '../support/hex-example.ts';
import {
  checkMoments,
  InlineSealing,
  JournalModel,
  openJournal,
  randomEvent,
  TestClock,
} from '../support/journal-model.ts';
import { suite } from '../support/suite.ts';
import { DiskModel, KEY, randomStep } from '../support/write-log-model.ts';

const test = suite('sealed segments', { timeoutMs: 60_000 });

const PAGE = new URL('../../docs/formats/journal.md', import.meta.url);
const SIZE = 60_000;
const FIRST = `/journal/${sealedName(1)}`;

test("the page's example decodes to what it says", async () => {
  const bytes = hexExample(await readFile(PAGE, 'utf8'), 'Example');
  const fileSystem = new CrashingFileSystem();
  await fileSystem.makeDirectory('/journal');
  const file = await fileSystem.open(FIRST, 'create');
  await file.write(bytes, 0);
  const part = await SealedPart.open({ fileSystem, path: FIRST, key: null, cache: new BlockCache(1_000_000) });
  const timeUs = 1_800_000_000_000_000;
  assert.equal(part.number, 1);
  assert.deepEqual(part.summary, {
    firstSequence: 1,
    lastSequence: 3,
    firstTimeUs: timeUs,
    lastTimeUs: timeUs,
    lastWhole: { sequence: 3, timeUs },
    stretch: null,
    events: [[1, timeUs, '{"event":"stretch-begins","kind":"writes"}']],
    rates: [180_000_000, 2, 12],
    dataBlocks: [128, 0],
    tableBlocks: [176],
  });
  const table = await part.table();
  assert.deepEqual(table.writeOf(2), { sequence: 2, timeUs, disk: 0, offset: 4096, length: 12, kind: 'write' });
  assert.deepEqual(table.writeOf(3), { sequence: 3, timeUs, disk: 1, offset: 2 ** 40, length: 65_536, kind: 'zero' });
  assert.equal((await part.fetch(table.positionOf(2), 12)).toString(), 'Hello, disk!');
});

test('a thread seals what the same code seals at once', async (t) => {
  const fileSystem = new CrashingFileSystem();
  const journal = await sealedJournal(fileSystem, { isThread: true });
  t.use(journal.journal);
  const names = (await fileSystem.readDirectory('/journal')).map(({ name }) => name);
  assert.ok(names.includes(sealedName(1)) && !names.includes(segmentName(1)), names.join(' '));
  const { model, random, clock } = journal;
  assert.ok((await checkMoments(journal.journal, model, { random, clock, count: 30 })) > 5);
});

test('what a thread refuses, or its death, is an error with a code', async () => {
  await using thread = new SealingThread();
  const task = {
    key: null,
    header: {
      version: 2 as const,
      isEncrypted: false,
      logId: Buffer.alloc(16),
      machineId: Buffer.alloc(16),
      salt: Buffer.alloc(16),
      number: 1,
      baseSequence: 1,
      createdUs: 0,
      keyCheck: Buffer.alloc(8),
    },
    salt: Buffer.alloc(16),
    before: { lastWhole: { sequence: 0, timeUs: 0 }, stretch: null },
  };
  assert.equal(Buffer.concat(await thread.begin(task)).length, SEGMENT_HEADER_BYTES);
  await thread.feed(Buffer.alloc(1000, 7).buffer.slice(0, 1000));
  await assert.rejects(thread.finish(), (error) => hasCode(error, 'WRITE_LOG_CORRUPT'));
  const asked = thread.begin(task);
  await thread[Symbol.asyncDispose]();
  await assert.rejects(asked, (error) => hasCode(error, 'INTERNAL'));
});

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';

  test(`${how}: any flipped bit of a sealed segment is an error or changes nothing, never wrong data`, async () => {
    const fileSystem = new CrashingFileSystem();
    const { journal, model, clock } = await sealedJournal(fileSystem, { key });
    await journal.close();
    const whole = fileSystem.contentOf(FIRST);
    const outcomes = { refused: 0, harmless: 0 };
    for (let at = 0; at < whole.length; at += at < 300 || at > whole.length - 300 ? 3 : 97) {
      const copy = fileSystem.survivingProcess();
      const file = await copy.open(FIRST, 'update');
      await file.write(Buffer.from([(whole[at] ?? 0) ^ (1 << (at % 8))]), at);
      try {
        const again = await openJournal({ directory: '/journal', fileSystem: copy, key, clock });
        // All of the first segment is read, whichever moment it is.
        await checkMoments(again, model, { random: randomSource(at), clock, count: 4 });
        await using view = await again.openView(0, again.lastSequence);
        for (const disk of view.disks) {
          for (const slice of view.slices({ disk, offset: 0, length: SIZE })) {
            if (slice.value !== undefined && slice.value > 0) {
              await view.read(slice.value, slice.valueOffset, Buffer.alloc(slice.length));
            }
          }
        }
        outcomes.harmless += 1;
      } catch (error) {
        assert.ok(hasCode(error, 'WRITE_LOG_CORRUPT', 'REPOSITORY_FORMAT'), `byte ${at}: ${String(error)}`);
        outcomes.refused += 1;
      }
    }
    // Padding between blocks holds nothing.
    assert.ok(outcomes.refused > 100 && outcomes.harmless < outcomes.refused / 5, JSON.stringify(outcomes));
  });
}

test('a missing sealed segment, or one of another journal, is refused', async () => {
  const fileSystem = new CrashingFileSystem();
  const { journal, clock } = await sealedJournal(fileSystem, {});
  await journal.close();
  const other = new CrashingFileSystem();
  await (await sealedJournal(other, {})).journal.close();
  const damages: ((copy: CrashingFileSystem) => Promise<void>)[] = [
    (copy) => copy.unlink(`/journal/${sealedName(2)}`),
    async (copy) => {
      await copy.unlink(FIRST);
      const file = await copy.open(FIRST, 'create');
      await file.write(other.contentOf(FIRST), 0);
    },
  ];
  for (const [index, damage] of damages.entries()) {
    const copy = fileSystem.survivingProcess();
    await damage(copy);
    const opened = openJournal({ directory: '/journal', fileSystem: copy, key: KEY, clock });
    await assert.rejects(opened, (error) => hasCode(error, 'WRITE_LOG_CORRUPT'), `damage ${index}`);
  }
  const wrong = openJournal({ directory: '/journal', fileSystem, key: Buffer.alloc(32, 1), clock });
  await assert.rejects(wrong, (error) => hasCode(error, 'REPOSITORY_KEY'));
});

test('a view keeps its segments through sealing and the end of the window', async () => {
  const fileSystem = new CrashingFileSystem();
  const clock = new TestClock();
  const startSealing = (): InlineSealing => new InlineSealing();
  const setup = {
    directory: '/journal',
    fileSystem,
    key: KEY,
    clock,
    segmentBytes: 8_000,
    windowMs: 1_000,
    startSealing,
  };
  const journal = await openJournal(setup);
  await journal.beginStretch('writes');
  const data = Buffer.alloc(4_000, 9);
  await journal.append({ disk: 0, offset: 0, data });
  await using early = await journal.openView(0, 2);
  const fold = async (): Promise<void> => {
    await journal.folded({ pointId: '0123456789abcdef', sequence: journal.newest.sequence });
    await journal.maintain();
  };
  for (let change = 0; change < 8; change++)
    await journal.append({ disk: 0, offset: change, data: Buffer.alloc(4_000) });
  await fold();
  await using sealed = await journal.openView(0, 2);
  clock.ms += 60_000;
  for (let change = 0; change < 8; change++)
    await journal.append({ disk: 0, offset: change, data: Buffer.alloc(4_000) });
  await fold();
  clock.ms += 60_000;
  await fold();
  assert.equal(journal.oldestBase, 0, 'what is held stays');
  for (const view of [early, sealed]) {
    const [slice] = view.slices({ disk: 0, offset: 0, length: 4_000 });
    const into = Buffer.alloc(4_000);
    assert.ok(slice?.value !== undefined);
    await view.read(slice.value, 0, into);
    assert.ok(into.equals(data));
  }
  await early.close();
  await sealed.close();
  await fold();
  assert.ok(journal.oldestBase > 0);
  await assert.rejects(journal.openView(0, 2), (error) => hasCode(error, 'MOMENT_NOT_FOUND'));
  await journal.close();
});

interface SealedJournal {
  readonly journal: Journal;
  readonly model: JournalModel;
  readonly random: () => number;
  readonly clock: TestClock;
}

/** A journal with at least two sealed segments. */
async function sealedJournal(
  fileSystem: CrashingFileSystem,
  how: { readonly key?: Buffer | null; readonly isThread?: boolean },
): Promise<SealedJournal> {
  const random = randomSource(3);
  const clock = new TestClock();
  const model = new JournalModel(3, SIZE);
  const steps = new DiskModel(3, SIZE);
  const sealing = how.isThread === true ? {} : { startSealing: (): InlineSealing => new InlineSealing() };
  const key = how.key === undefined ? KEY : how.key;
  const setup = { directory: '/journal', fileSystem, key, clock, segmentBytes: 20_000, windowMs: 1e9, ...sealing };
  const journal = await openJournal(setup);
  const nextStep = (): ReturnType<typeof randomStep> => randomStep(random, steps, 3_000);
  for (let event = 0; event < 150; event++) await randomEvent(journal, model, { random, clock, nextStep });
  await journal.maintain();
  const names = (await fileSystem.readDirectory('/journal')).map(({ name }) => name);
  assert.ok(names.includes(sealedName(2)), names.join(' '));
  return { journal, model, random, clock };
}
