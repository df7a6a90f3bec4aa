// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import { hasCode } from '../../appliance/core/errors.ts';
import type { ObjectStore } from '../../appliance/repository/object-store.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

/** What every object store must do. `make` gives a fresh, empty one; `reopen` the same again, as after a restart. */
export interface StoreMaker {
  readonly make: (t: TestContext) => Promise<ObjectStore>;
  readonly reopen: (store: ObjectStore) => Promise<ObjectStore>;
}

/** Registers the tests of the port for one implementation. */
export function objectStoreConformance(name: string, { make, reopen }: StoreMaker): void {
  const test = suite(`object store: ${name}`);

  test('an object that was put is read whole and in parts', async (t) => {
    const store = await make(t);
    await store.put('points/a/b.json', Buffer.from('hello, object'));
    assert.deepEqual(await store.get('points/a/b.json'), Buffer.from('hello, object'));
    assert.deepEqual(await store.getRange('points/a/b.json', 7, 6), Buffer.from('object'));
    assert.deepEqual(await store.getRange('points/a/b.json', 13, 0), Buffer.alloc(0));
  });

  test('an empty object exists', async (t) => {
    const store = await make(t);
    await store.put('a/empty', Buffer.alloc(0));
    assert.deepEqual(await store.get('a/empty'), Buffer.alloc(0));
    assert.deepEqual(await store.list('a/'), [{ key: 'a/empty', sizeBytes: 0 }]);
  });

  test('a second put is refused and changes nothing; replace changes all', async (t) => {
    const store = await make(t);
    await store.put('a/b', Buffer.from('first'));
    await rejectsWith(store.put('a/b', Buffer.from('second')), 'OBJECT_EXISTS');
    assert.deepEqual(await store.get('a/b'), Buffer.from('first'));
    await store.replace('a/b', Buffer.from('third'));
    assert.deepEqual(await store.get('a/b'), Buffer.from('third'));
  });

  test('of many puts of one key at the same time exactly one succeeds', async (t) => {
    const store = await make(t);
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, n) => store.put('a/b', Buffer.from(`writer ${n}`))),
    );
    const winners = results.flatMap((result, n) => (result.status === 'fulfilled' ? [n] : []));
    assert.equal(winners.length, 1);
    for (const result of results) {
      if (result.status === 'rejected') assert.ok(hasCode(result.reason, 'OBJECT_EXISTS'), String(result.reason));
    }
    assert.deepEqual(await store.get('a/b'), Buffer.from(`writer ${winners[0]}`));
  });

  test('what is not there, and what is too short, is told apart', async (t) => {
    const store = await make(t);
    await rejectsWith(store.get('a/b'), 'OBJECT_NOT_FOUND');
    await rejectsWith(store.getRange('a/b', 0, 1), 'OBJECT_NOT_FOUND');
    await store.put('a/b', Buffer.from('12345'));
    await rejectsWith(store.getRange('a/b', 3, 3), 'REPOSITORY_CORRUPT');
  });

  test('a staged file becomes an object by adoption, once', async (t) => {
    const store = await make(t);
    for (const content of ['one', 'two']) await writeFile(store.stagingPath(content), content);
    await store.adopt(store.stagingPath('one'), 'packs/aa/one');
    assert.deepEqual(await store.get('packs/aa/one'), Buffer.from('one'));
    await rejectsWith(store.adopt(store.stagingPath('two'), 'packs/aa/one'), 'OBJECT_EXISTS');
    assert.deepEqual(await store.get('packs/aa/one'), Buffer.from('one'));
  });

  test('a staged file is no object, and goes when staged files are removed', async (t) => {
    const store = await make(t);
    await writeFile(store.stagingPath('pack'), 'unfinished');
    await store.put('a/b', Buffer.from('object'));
    assert.deepEqual(await store.list('packs/'), []);
    assert.equal(await store.removeStaged(), 1);
    assert.equal(await store.removeStaged(), 0);
    assert.deepEqual(await store.get('a/b'), Buffer.from('object'));
  });

  test('deleting is final, and deleting what is not there is no error', async (t) => {
    const store = await make(t);
    await store.put('a/b', Buffer.from('x'));
    await store.delete('a/b');
    await store.delete('a/b');
    await store.delete('never/was');
    await rejectsWith(store.get('a/b'), 'OBJECT_NOT_FOUND');
    await store.put('a/b', Buffer.from('again'));
    assert.deepEqual(await store.get('a/b'), Buffer.from('again'));
  });

  test('objects are still there after a restart', async (t) => {
    const store = await make(t);
    await store.put('a/b', Buffer.from('x'));
    assert.deepEqual(await (await reopen(store)).list('a/'), [{ key: 'a/b', sizeBytes: 1 }]);
  });

  test('it lists what a map of keys would, under any puts and deletes', async (t) => {
    const store = await make(t);
    const model = new Map<string, number>();
    const key = fc.tuple(fc.constantFrom('packs/aa', 'packs/ab', 'points/m', 'deleted'), fc.nat(6));
    const step = fc.record({ key, isDelete: fc.boolean(), length: fc.nat(100) });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        for (const {
          key: [folder, n],
          isDelete,
          length,
        } of steps) {
          const name = `${folder}/object-${n}`;
          if (isDelete) {
            await store.delete(name);
            model.delete(name);
          } else if (!model.has(name)) {
            await store.put(name, Buffer.alloc(length));
            model.set(name, length);
          }
        }
        for (const prefix of ['packs/', 'packs/aa/', 'points/', 'deleted/', 'nothing/']) {
          const listed = (await store.list(prefix)).map((one) => [one.key, one.sizeBytes] as const);
          const expected = [...model].filter(([name]) => name.startsWith(prefix));
          assert.deepEqual(new Map(listed), new Map(expected));
          assert.equal(listed.length, expected.length);
        }
      }),
      { numRuns: 25 },
    );
  });
}
