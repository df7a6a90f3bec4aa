// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { RuntimeLease, removeAbandonedRuntimes } from '../../appliance/app/runtime-lease.ts';
import { StateDirectory } from '../../appliance/app/state-directory.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('runtime directories');

/** A state directory whose runtime directory lies beside others: its path is too long for sockets, also when root is not asked. */
async function longState(t: TestContext, name: string): Promise<StateDirectory> {
  const path = join(await t.tempDir(), name.padEnd(80, '-'));
  await mkdir(path);
  const state = new StateDirectory(path);
  t.use({ close: () => rm(state.runtimePath, { recursive: true, force: true }) });
  return state;
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** As a killed process leaves it: with its note and its lock file, which nobody locks. */
async function abandon(state: StateDirectory): Promise<void> {
  const { path } = await RuntimeLease.take(state).then(async (lease) => {
    const note = await readFile(join(lease.path, 'state'));
    await lease[Symbol.asyncDispose]();
    await mkdir(lease.path);
    await writeFile(join(lease.path, 'state'), note);
    await writeFile(join(lease.path, 'lock'), '1\n');
    return lease;
  });
  await mkdir(join(path, '0123456789ab'));
}

test('goes with its release, unless something else is in it', async (t) => {
  const state = await longState(t, 'a');
  const lease = await RuntimeLease.take(state);
  assert.deepEqual((await readdir(lease.path)).sort(), ['lock', 'state']);
  await lease[Symbol.asyncDispose]();
  assert.equal(await isThere(lease.path), false);
  const again = await RuntimeLease.take(state);
  await mkdir(join(again.path, 'left'));
  await again[Symbol.asyncDispose]();
  assert.deepEqual(await readdir(again.path), ['left']);
});

test('what a killed process left half-written in it is removed by the next that takes it', async (t) => {
  const state = await longState(t, 'a');
  await mkdir(state.runtimePath);
  await writeFile(join(state.runtimePath, '.temporary-0123456789abcdef'), 'half a no');
  const lease = await RuntimeLease.take(state);
  assert.deepEqual((await readdir(lease.path)).sort(), ['lock', 'state']);
  await lease[Symbol.asyncDispose]();
  assert.equal(await isThere(lease.path), false);
});

test('one whose state directory is gone is removed by the next start of another; others stay', async (t) => {
  const own = await longState(t, 'own');
  const gone = await longState(t, 'gone');
  const there = await longState(t, 'there');
  const forged = await longState(t, 'forged');
  for (const state of [gone, there, forged]) await abandon(state);
  for (const state of [gone, forged]) await rename(state.path, `${state.path}-gone`);
  await writeFile(join(forged.runtimePath, 'state'), join(forged.path, 'other'));
  const removed = await removeAbandonedRuntimes(own.runtimePath);
  assert.ok(removed.includes(gone.runtimePath));
  assert.equal(await isThere(gone.runtimePath), false);
  for (const state of [there, forged]) assert.equal(await isThere(join(state.runtimePath, '0123456789ab')), true);
});

test('one that a process holds, or in which something listens, stays although its state directory is gone', async (t) => {
  const own = await longState(t, 'own');
  const held = await longState(t, 'held');
  const busy = await longState(t, 'busy');
  const lease = t.use(await RuntimeLease.take(held));
  await abandon(busy);
  const server = createServer();
  t.use({ close: () => server.close() });
  await new Promise<void>((resolve) => server.listen(join(busy.runtimePath, '0123456789ab', 's'), resolve));
  for (const state of [held, busy]) await rename(state.path, `${state.path}-gone`);
  const removed = await removeAbandonedRuntimes(own.runtimePath);
  assert.deepEqual(
    removed.filter((path) => [held, busy].some((state) => state.runtimePath === path)),
    [],
  );
  assert.equal(await isThere(join(lease.path, 'state')), true);
});
