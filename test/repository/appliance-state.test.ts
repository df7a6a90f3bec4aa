// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { newestState } from '../../appliance/app/self-backup.ts';
import { APPLIANCE_FOLDER, ApplianceStates } from '../../appliance/repository/appliance-state.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { deriveKeys } from '../../appliance/repository/keys.ts';
import { CrashingFileSystem } from '../support/crashing-file-system.ts';
import { everyStep, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('appliance states');

const KEYS = deriveKeys(Buffer.alloc(32, 3), 'a'.repeat(32), true);
const CREATED = '2026-11-22T00:00:00.000Z';

test('a state comes back as it was put, the newest first, whatever its date', async (t) => {
  const states = new ApplianceStates(await DirectoryStore.open(await t.tempDir()), KEYS);
  assert.equal(await newestState(states), undefined);
  await states.put({ createdAt: CREATED, anchor: null, content: { text: 'first' } });
  await states.put({ createdAt: '2020-01-01T00:00:00.000Z', anchor: { sequence: 3 }, content: { text: 'second' } });
  const newest = await newestState(states);
  assert.deepEqual([newest?.content, newest?.anchor, newest?.sequence], [{ text: 'second' }, { sequence: 3 }, 2]);
});

test('nothing of the content can be read without the key, and another key opens nothing', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const states = new ApplianceStates(store, KEYS);
  const key = await states.put({ createdAt: CREATED, anchor: null, content: { password: 'geheim' } });
  assert.ok(!(await store.get(key)).toString().includes('geheim'));
  const stranger = new ApplianceStates(store, deriveKeys(Buffer.alloc(32, 4), 'a'.repeat(32), true));
  assert.deepEqual((await stranger.list()).states, []);
  assert.equal((await stranger.list()).damaged.length, 1);
});

test('each changed byte is found, and an older whole state is used instead', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const states = new ApplianceStates(store, KEYS);
  await states.put({ createdAt: CREATED, anchor: null, content: 'old' });
  const key = await states.put({ createdAt: CREATED, anchor: null, content: 'new' });
  const good = await store.get(key);
  for (let at = 0; at < good.length; at += 5) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] ?? 0) ^ 1;
    await store.replace(key, bad);
    assert.deepEqual(
      (await states.check()).map((found) => found.key),
      [key],
    );
    assert.equal((await newestState(states))?.content, 'old');
  }
  await store.replace(key, good);
  assert.deepEqual(await states.check(), []);
});

test('a state that takes the name of another one is refused', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const states = new ApplianceStates(store, KEYS);
  const key = await states.put({ createdAt: CREATED, anchor: null, content: 'old' });
  await store.put(`${APPLIANCE_FOLDER}0000000009-00000000.json`, await store.get(key));
  assert.equal((await states.check()).length, 1);
});

test('only so many are kept, and damaged ones go when there are enough whole ones', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  const states = new ApplianceStates(store, KEYS);
  const keys: string[] = [];
  for (let count = 0; count < 5; count++) {
    keys.push(await states.put({ createdAt: CREATED, anchor: null, content: count }));
  }
  await store.replace(keys[4] ?? '', Buffer.from('{}'));
  await states.prune(9);
  assert.equal((await store.list(APPLIANCE_FOLDER)).length, 5);
  await states.prune(2);
  assert.deepEqual(
    (await store.list(APPLIANCE_FOLDER)).map(({ key }) => key),
    keys.slice(2, 4),
  );
  await rejectsWith(
    states.put({ createdAt: CREATED, anchor: null, content: 'x'.repeat(65 * 2 ** 20) }),
    'LIMIT_REACHED',
  );
});

test('a power failure at any step leaves the old states, or the new one as well', async () => {
  await everyStep(
    (at) => ({ kind: 'crash', at, partial: at % 2 === 0 }),
    async (plan) => {
      const disk = new CrashingFileSystem();
      await disk.makeDirectory('/r');
      await disk.syncDirectory('/');
      await new ApplianceStates(await DirectoryStore.open('/r', disk), KEYS).put({
        createdAt: CREATED,
        anchor: null,
        content: 'old',
      });
      const broken = new ApplianceStates(
        await DirectoryStore.open('/r', new FaultyFileSystem(disk, plan)).catch(() => DirectoryStore.open('/r', disk)),
        KEYS,
      );
      const isKept = await broken.put({ createdAt: CREATED, anchor: null, content: 'new' }).then(
        () => true,
        () => false,
      );
      for (let seed = 1; seed <= 10; seed++) {
        const survivor = new ApplianceStates(await DirectoryStore.open('/r', disk.crash(seed)), KEYS);
        const content = (await newestState(survivor))?.content;
        assert.ok(content === 'new' || (content === 'old' && (!isKept || !plan.wasHit)), String(content));
        assert.deepEqual(await survivor.check(), []);
      }
    },
  );
});
