// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { Collection, type CollectionOptions } from '../../appliance/config/collection.ts';
import { encodeCollection } from '../../appliance/config/collection-file.ts';
import { makeDirectoryDurably, removeStaleTemporaries } from '../../appliance/core/durable-file.ts';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { everyStep, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';

const test = suite('collection');

interface Note {
  readonly text: string;
  readonly tags?: readonly string[];
}

test('what was put is there for the next process, with its revision', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  assert.deepEqual(notes.list(), []);
  const first = await notes.create('a', { text: 'first', tags: ['x'] });
  await notes.put('b', { text: 'other' });
  const second = await notes.put('a', { text: 'second' }, { expect: first.revision });
  assert.deepEqual((await open({ directory })).list(), notes.list());
  assert.deepEqual(notes.list(), [second, { id: 'b', revision: 2, value: { text: 'other' } }]);
  assert.deepEqual(await readdir(directory), ['notes.json']);
});

test('a change that rests on something else than what is there is refused', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  const { revision } = await notes.create('a', { text: 'first' });
  await rejects(notes.create('a', { text: 'again' }), 'CONFLICT');
  await notes.put('a', { text: 'second' }, { expect: revision });
  await rejects(notes.put('a', { text: 'lost' }, { expect: revision }), 'CONFLICT');
  await rejects(
    notes.update('a', () => ({ text: 'lost' }), { expect: revision }),
    'CONFLICT',
  );
  await rejects(notes.delete('a', { expect: revision }), 'CONFLICT');
  await rejects(notes.put('b', { text: 'gone' }, { expect: 7 }), 'CONFLICT');
  await rejects(notes.delete('b'), 'NOT_FOUND');
  await rejects(
    notes.update('b', (note) => note),
    'NOT_FOUND',
  );
  assert.throws(
    () => notes.get('b'),
    (error) => hasCode(error, 'NOT_FOUND'),
  );
  assert.equal((await open({ directory })).get('a').value.text, 'second');
});

test('the revision changes together with what can be read', async (t) => {
  const notes = await open({ directory: await t.tempDir() });
  await notes.create('a', { text: 'first' });
  const before = notes.revision;
  const change = notes.put('a', { text: 'second' });
  const seen = new Set<string>();
  const look = (): void => void seen.add(`${notes.revision}: ${notes.get('a').value.text}`);
  const watch = (async () => {
    while (notes.revision === before) {
      look();
      await nextTurn();
    }
  })();
  const { revision } = await change;
  await watch;
  look();
  assert.deepEqual([...seen], [`${before}: first`, `${revision}: second`]);
});

test('a document that was deleted and made again has a revision that it never had', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  const first = await notes.create('a', { text: 'same' });
  await notes.delete('a');
  const again = await (await open({ directory })).create('a', { text: 'same' });
  assert.ok(again.revision > first.revision + 1);
});

test('changes that arrive together are done in their order, and each sees the one before', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  await notes.create('a', { text: '' });
  const letters = 'abcdefghij'.split('');
  await Promise.all(letters.map((letter) => notes.update('a', ({ text }) => ({ text: text + letter }))));
  assert.equal((await open({ directory })).get('a').value.text, 'abcdefghij');
});

test('one bad change among others fails alone', async (t) => {
  const notes = await open({ directory: await t.tempDir() });
  const results = await Promise.allSettled([
    notes.create('a', { text: 'x' }),
    notes.create('a', { text: 'y' }),
    notes.create('b', { text: 'z' }),
  ]);
  assert.deepEqual(
    results.map((result) => result.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
  assert.deepEqual(
    notes.list().map((entry) => entry.value.text),
    ['x', 'z'],
  );
});

test('listeners hear of durable changes only, and of each document that changed', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  const heard: string[] = [];
  const stop = notes.onChange(({ id, entry }) => heard.push(`${id}=${entry?.value.text ?? 'gone'}`));
  await notes.create('a', { text: '1' });
  await rejects(notes.create('a', { text: '2' }), 'CONFLICT');
  await notes.create('b', { text: '1' });
  await notes.replaceAll(
    new Map([
      ['b', { text: '1' }],
      ['c', { text: '1' }],
    ]),
  );
  stop();
  await notes.delete('c');
  assert.deepEqual(heard, ['a=1', 'b=1', 'a=gone', 'c=1']);
});

test('what is in memory cannot be changed by who reads it or by who gave it', async (t) => {
  const notes = await open({ directory: await t.tempDir() });
  const mine = { text: 'mine', tags: ['x'] };
  const entry = await notes.create('a', mine);
  mine.tags.push('y');
  assert.deepEqual(notes.get('a').value.tags, ['x']);
  assert.throws(() => (entry.value.tags as string[]).push('z'), TypeError);
});

test('counts, lengths and ids have limits', async (t) => {
  const notes = await open({ directory: await t.tempDir(), maxRecords: 2, maxBytes: 2000 });
  await rejects(notes.create('', { text: 'x' }), 'BAD_ARGUMENT');
  await rejects(notes.create('a\n', { text: 'x' }), 'BAD_ARGUMENT');
  await rejects(notes.create('a'.repeat(201), { text: 'x' }), 'BAD_ARGUMENT');
  await rejects(notes.create('a', { text: 'x'.repeat(300_000) }), 'LIMIT_REACHED');
  await rejects(notes.create('a', { text: 'x'.repeat(3000) }), 'LIMIT_REACHED');
  await rejects(notes.create('a', { text: 7 } as unknown as Note), 'BAD_ARGUMENT');
  await notes.create('__proto__', { text: 'x' });
  await notes.create('b', { text: 'x' });
  await rejects(notes.create('c', { text: 'x' }), 'LIMIT_REACHED');
  await notes.put('b', { text: 'y' });
  assert.deepEqual(
    notes.list().map(({ id }) => id),
    ['__proto__', 'b'],
  );
});

test('each changed byte of the file is found, and nothing of it is used', async (t) => {
  const directory = await t.tempDir();
  const notes = await open({ directory });
  await notes.create('a', { text: 'first' });
  const path = join(directory, 'notes.json');
  const good = await readFile(path);
  for (let at = 0; at < good.length; at++) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] ?? 0) ^ 1;
    await writeFile(path, bad);
    await rejects(open({ directory }), 'CONFIG_DAMAGED', 'CONFIG_FORMAT');
  }
  await writeFile(path, good.subarray(0, good.length - 3));
  await rejects(open({ directory }), 'CONFIG_DAMAGED');
});

test('a version from the future, another collection and a value that is none are refused', async (t) => {
  const directory = await t.tempDir();
  const path = join(directory, 'notes.json');
  const stored = encodeCollection({
    name: 'notes',
    revision: 1,
    records: [{ id: 'a', revision: 1, value: { text: 'x' } }],
  });
  await writeFile(path, stored.toString().replace('"version": 1', '"version": 2'));
  await rejects(open({ directory }), 'CONFIG_FORMAT');
  await writeFile(path, encodeCollection({ name: 'users', revision: 0, records: [] }));
  await rejects(open({ directory }), 'CONFIG_DAMAGED');
  await writeFile(
    path,
    encodeCollection({ name: 'notes', revision: 1, records: [{ id: 'a', revision: 1, value: 7 }] }),
  );
  await rejects(open({ directory }), 'CONFIG_DAMAGED');
  await writeFile(path, stored);
  assert.equal((await open({ directory })).get('a').value.text, 'x');
});

test('a failure of any step leaves memory as it was, and the next change makes the file agree', async () => {
  const steps = await everyStep(
    (at) => ({ kind: 'error', at, code: at % 2 === 0 ? 'ENOSPC' : 'EIO' }),
    async (plan) => {
      const disk = await prepared();
      const notes = await open({ directory: '/d', fileSystem: new FaultyFileSystem(disk, plan) });
      const outcome = await outcomeOf(notes.put('a', { text: 'new' }));
      assert.equal(notes.get('a').value.text, outcome === 'done' ? 'new' : 'old');
      // The planned failure may be that of this one.
      if ((await outcomeOf(notes.put('b', { text: 'later' }))) === 'failed') await notes.put('b', { text: 'later' });
      assert.deepEqual((await open({ directory: '/d', fileSystem: disk })).list(), notes.list());
    },
  );
  assert.ok(steps >= 5, `${steps} steps`);
});

test('a power failure at any step leaves the old documents or the new ones, and the new ones once settled', async () => {
  await everyStep(
    (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
    async (plan) => {
      const disk = await prepared();
      const notes = await open({ directory: '/d', fileSystem: new FaultyFileSystem(disk, plan) });
      const outcome = await outcomeOf(notes.put('a', { text: 'new' }));
      for (let seed = 1; seed <= 30; seed++) {
        const survivor = disk.crash(seed);
        const text = (await open({ directory: '/d', fileSystem: survivor })).get('a').value.text;
        assert.ok(text === 'new' || (text === 'old' && outcome === 'failed'), text);
        await removeStaleTemporaries('/d', survivor);
        assert.equal((await survivor.readDirectory('/d')).length, 1);
      }
    },
  );
});

test('any sequence of changes gives what a map gives, before and after opening anew', async () => {
  const change = fc.record({
    kind: fc.constantFrom('put', 'delete', 'reopen'),
    id: fc.constantFrom('a', 'b', 'c', '__proto__'),
    text: fc.string(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 12 }), async (changes) => {
      const disk = new CrashingFileSystem();
      await makeDirectoryDurably('/d', disk);
      const model = new Map<string, Note>();
      let notes = await open({ directory: '/d', fileSystem: disk });
      for (const { kind, id, text } of changes) {
        if (kind === 'put') model.set(id, (await notes.put(id, { text })).value);
        else if (kind === 'reopen') notes = await open({ directory: '/d', fileSystem: disk });
        else if (model.delete(id)) await notes.delete(id);
      }
      assert.deepEqual(new Map(notes.list().map(({ id, value }) => [id, value])), model);
    }),
    { numRuns: 50 },
  );
});

function open(options: Omit<CollectionOptions<Note>, 'name' | 'check'>): Promise<Collection<Note>> {
  return Collection.open<Note>({ ...options, name: 'notes', check: checkNote });
}

function checkNote(value: unknown): Note {
  if (typeof value === 'object' && value !== null && 'text' in value && typeof value.text === 'string') {
    return value as Note;
  }
  throw new ApplianceError('BAD_ARGUMENT', 'a note has a text');
}

async function prepared(): Promise<CrashingFileSystem> {
  const disk = new CrashingFileSystem();
  await makeDirectoryDurably('/d', disk);
  await (await open({ directory: '/d', fileSystem: disk })).create('a', { text: 'old' });
  return disk;
}

async function outcomeOf(work: Promise<unknown>): Promise<'done' | 'failed'> {
  try {
    await work;
    return 'done';
  } catch (error) {
    assert.ok(hasCode(error, 'IO_FAILED', 'NO_SPACE'), String(error));
    return 'failed';
  }
}

async function rejects(work: Promise<unknown>, ...codes: readonly ErrorCode[]): Promise<void> {
  await assert.rejects(work, (error) => hasCode(error, ...codes));
}
