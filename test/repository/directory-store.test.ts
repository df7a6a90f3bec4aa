// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { InvariantViolation } from '../../appliance/core/invariant.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { FaultPlan, FaultyFileSystem } from '../support/faulty-file-system.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { objectStoreConformance } from './object-store-conformance.ts';

objectStoreConformance('directory', {
  make: async (t) => DirectoryStore.open(join(await t.tempDir(), 'store')),
  reopen: async (store) => {
    assert.ok(store instanceof DirectoryStore);
    return DirectoryStore.openExisting(store.root);
  },
});

const test = suite('directory store');

test('a directory that is not there is refused, not made', async (t) => {
  const root = join(await t.tempDir(), 'unmounted');
  await rejectsWith(DirectoryStore.openExisting(root), 'REPOSITORY_NOT_FOUND');
});

test('files that a crash left beside objects are neither listed nor kept', async (t) => {
  const root = await t.tempDir();
  const store = await DirectoryStore.open(root);
  await store.put('points/m/a.json', Buffer.from('x'));
  await writeFile(join(root, 'points', 'm', '.temporary-0011223344556677'), 'half');
  await writeFile(join(root, '.temporary-8899aabbccddeeff'), 'half');
  assert.deepEqual(await store.list('points/'), [{ key: 'points/m/a.json', sizeBytes: 1 }]);
  assert.equal(await store.removeStaged(), 2);
  assert.deepEqual(await readdir(join(root, 'points', 'm')), ['a.json']);
});

test('a listing that cannot read one folder fails as a whole', async (t) => {
  const root = await t.tempDir();
  const store = await DirectoryStore.open(root);
  await store.put('packs/aa/one', Buffer.from('x'));
  for (let at = 1; ; at++) {
    const plan = new FaultPlan({ kind: 'error', at, code: 'EIO' });
    const faulty = new FaultyFileSystem(realFileSystem, plan, { countsReads: true });
    const broken = await DirectoryStore.openExisting(root, faulty).catch(() => undefined);
    if (broken === undefined) continue;
    if (plan.wasHit) continue;
    const listing = broken.list('packs/');
    await listing.catch(() => undefined);
    if (!plan.wasHit) break;
    await rejectsWith(listing, 'IO_FAILED');
  }
});

test('keys that could lead out of the store are a defect of the caller', async (t) => {
  const store = await DirectoryStore.open(await t.tempDir());
  for (const key of ['../a', '/a', 'a//b', 'a/../b', '.hidden', 'a/.temporary-0011223344556677', '', 'a b']) {
    await assert.rejects(store.get(key), InvariantViolation, key);
  }
});

test('a store without permission to write says so, and loses nothing', async (t) => {
  if (process.getuid?.() === 0) return;
  const root = await t.tempDir();
  const store = await DirectoryStore.open(root);
  await mkdir(join(root, 'points'), { mode: 0o500 });
  await rejectsWith(store.put('points/m/a.json', Buffer.from('x')), 'IO_FAILED');
  await chmod(join(root, 'points'), 0o700);
});
