// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { accessRig, LOCAL, userOf } from '../support/access-rig.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('API tokens');

test('a token speaks for its maker with its own role, also after a restart, and is not stored', async (t) => {
  const { access, directory, reopen } = await accessRig(t);
  const ann = await userOf(access, 'ann', 'admin');
  const { token, entry } = await access.tokens.create(ann, { name: 'ci', role: 'operator' });
  const expected = { kind: 'token', id: entry.id, name: 'ann/ci', role: 'operator', machines: null, madeBy: ann.id };
  assert.deepEqual(await access.tokens.principalOf(token), expected);
  assert.deepEqual(await (await reopen()).tokens.principalOf(token), expected);
  const stored = await readFile(join(directory, 'tokens.json'), 'utf8');
  assert.equal(stored.includes(token.slice(20, 84)), false);
});

test('a token with another secret, or another id, is none', async (t) => {
  const { access } = await accessRig(t);
  const ann = await userOf(access, 'ann', 'admin');
  const one = await access.tokens.create(ann, { name: 'one' });
  const other = await access.tokens.create(ann, { name: 'other' });
  const { formatToken } = await import('../../appliance/access/secret-text.ts');
  const swapped = formatToken(one.entry.id, other.token.slice(20, 84));
  for (const text of [swapped, '', 'ust_', one.token.slice(0, -1)]) {
    assert.equal(await access.tokens.principalOf(text), undefined);
  }
});

test('a token never may do more than its maker may now', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const bob = await userOf(access, 'bob', 'operator');
  await rejectsWith(access.tokens.create(bob, { name: 'more', role: 'admin' }), 'FORBIDDEN');
  const { token } = await access.tokens.create(bob, { name: 'ci' });
  const roleNow = async (): Promise<unknown> => (await access.tokens.principalOf(token))?.role;
  assert.equal(await roleNow(), 'operator');
  await access.users.change('bob', { role: 'viewer' });
  assert.equal(await roleNow(), 'viewer');
  await access.users.change('bob', { role: 'admin' });
  assert.equal(await roleNow(), 'operator');
  await access.users.change('bob', { role: 'restorer', machines: ['m1'] });
  assert.deepEqual((await access.tokens.principalOf(token))?.machines, ['m1']);
  await access.users.change('bob', { isDisabled: true });
  assert.equal(await roleNow(), undefined);
  await access.users.change('bob', { isDisabled: false });
  assert.equal(await roleNow(), 'restorer');
  await access.deleteUser('bob');
  assert.equal(await roleNow(), undefined);
  assert.deepEqual(access.tokens.list(), []);
});

test('a token of a restorer has machines of its maker only', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const rex = await userOf(access, 'rex', 'restorer', ['m1', 'm2']);
  await rejectsWith(access.tokens.create(rex, { name: 'x', machines: ['m3'] }), 'FORBIDDEN');
  const { token } = await access.tokens.create(rex, { name: 'x', machines: ['M1'] });
  assert.deepEqual((await access.tokens.principalOf(token))?.machines, ['m1']);
  await access.users.change('rex', { machines: ['m2'] });
  assert.deepEqual((await access.tokens.principalOf(token))?.machines, []);
  await access.users.change('rex', { role: 'admin' });
  assert.deepEqual((await access.tokens.principalOf(token))?.machines, ['m1']);
  const viewer = await userOf(access, 'vic', 'viewer');
  await rejectsWith(access.tokens.create(viewer, { name: 'x', role: 'restorer' }), 'BAD_ARGUMENT');
  await rejectsWith(access.tokens.create(viewer, { name: 'x', machines: ['m1'] }), 'BAD_ARGUMENT');
});

test('a token expires, and a revoked one is gone', async (t) => {
  const { access, clock } = await accessRig(t);
  const expiresAtMs = clock.timeMs + 1000;
  await rejectsWith(access.tokens.create(LOCAL, { name: 'x', expiresAtMs: clock.timeMs }), 'BAD_ARGUMENT');
  const { token } = await access.tokens.create(LOCAL, { name: 'x', expiresAtMs });
  assert.equal((await access.tokens.principalOf(token))?.madeBy, null);
  clock.timeMs += 1000;
  assert.equal(await access.tokens.principalOf(token), undefined);
  const other = await access.tokens.create(LOCAL, { name: 'y' });
  await access.tokens.revoke(other.entry.id);
  assert.equal(await access.tokens.principalOf(other.token), undefined);
});

test('the last use is known at once, and written once an hour', async (t) => {
  const { access, clock, reopen } = await accessRig(t);
  const { token, entry } = await access.tokens.create(LOCAL, { name: 'x' });
  const start = clock.timeMs;
  for (let i = 0; i < 59; i += 1) {
    await access.tokens.principalOf(token);
    clock.timeMs += 60_000;
  }
  const [now] = access.tokens.list();
  assert.ok(now !== undefined);
  assert.equal(access.tokens.usedAtMs(now), start + 58 * 60_000);
  const [stored] = (await reopen()).tokens.list();
  assert.equal(stored?.value.usedAtMs, start);
  assert.equal(stored?.revision, now.revision);
  assert.equal(now.revision, entry.revision + 1);
});
