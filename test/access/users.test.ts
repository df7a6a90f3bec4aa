// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Access } from '../../appliance/access/access.ts';
import { accessRig, TEST_PASSWORD, userOf } from '../support/access-rig.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const HERE = { address: '192.0.2.1' } as const;
const test = suite('users');

test('a user logs in with name and password, in any case of the name, also after a restart', async (t) => {
  const { access, reopen } = await accessRig(t);
  await userOf(access, 'Ann', 'admin');
  for (const one of [access, await reopen()]) {
    const user = await one.login.check({ name: 'ANN', password: TEST_PASSWORD }, HERE);
    assert.deepEqual([user.value.name, user.value.role], ['ann', 'admin']);
  }
});

test('no file holds a password', async (t) => {
  const { access, directory } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const stored = await readFile(join(directory, 'users.json'), 'utf8');
  assert.equal(stored.includes(TEST_PASSWORD), false);
  assert.match(stored, /\$argon2id\$/);
});

test('who does not exist, is disabled, has no password, or gives a wrong one is refused alike', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  await userOf(access, 'bob', 'viewer');
  await access.users.change('bob', { isDisabled: true });
  await access.users.create({ name: 'carl', role: 'viewer' });
  const attempts = [
    { name: 'nobody', password: TEST_PASSWORD },
    { name: 'bob', password: TEST_PASSWORD },
    { name: 'carl', password: TEST_PASSWORD },
    { name: 'carl', password: '' },
    { name: 'ann', password: 'another one here' },
    { name: access.users.get('ann').id, password: TEST_PASSWORD },
  ];
  const messages = new Set<string>();
  for (const attempt of attempts) {
    await rejectsWith(
      access.login.check(attempt, HERE).catch((error: Error) => {
        messages.add(JSON.stringify([error.message, error]));
        throw error;
      }),
      'LOGIN_FAILED',
    );
  }
  assert.equal(messages.size, 1);
});

test('the last enabled administrator cannot be deleted, disabled or given another role', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  await userOf(access, 'bob', 'admin');
  await access.users.change('bob', { isDisabled: true });
  await rejectsWith(access.deleteUser('ann'), 'LAST_ADMIN');
  await rejectsWith(access.users.change('ann', { isDisabled: true }), 'LAST_ADMIN');
  await rejectsWith(access.users.change('ann', { role: 'operator' }), 'LAST_ADMIN');
  await access.users.change('bob', { isDisabled: false });
  const both = await Promise.allSettled([
    access.users.change('ann', { role: 'viewer' }),
    access.users.change('bob', { role: 'viewer' }),
  ]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  assert.equal(access.users.admins().length, 1);
});

test('two users cannot have one name, whoever comes first', async (t) => {
  const { access } = await accessRig(t);
  const both = await Promise.allSettled([userOf(access, 'ann', 'viewer'), userOf(access, 'ANN', 'viewer')]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  for (const name of ['local', '', 'a b', '../x', 'é', '.x', 'x'.repeat(65)]) {
    await rejectsWith(userOf(access, name, 'viewer'), 'BAD_ARGUMENT');
  }
});

test('a restorer has machines, and nobody else', async (t) => {
  const { access } = await accessRig(t);
  await rejectsWith(userOf(access, 'rex', 'restorer'), 'BAD_ARGUMENT');
  await rejectsWith(userOf(access, 'rex', 'operator', ['one']), 'BAD_ARGUMENT');
  const rex = await userOf(access, 'rex', 'restorer', ['B', 'a', 'b']);
  assert.deepEqual(rex.machines, ['a', 'b']);
  await rejectsWith(access.users.change('rex', { machines: [] }), 'BAD_ARGUMENT');
  assert.equal((await access.users.change('rex', { role: 'viewer' })).value.machines, null);
});

test('a session holds across restarts, and ends by time, by itself, and with password, role or user', async (t) => {
  const { access, clock, reopen } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  await userOf(access, 'bob', 'operator');
  const begin = async (): Promise<string> =>
    access.sessions.begin(access.users.get('bob'), { address: '192.0.2.1', agent: 'browser' });
  const nameOf = async (secret: string, at: Access = access): Promise<string | undefined> =>
    (await at.sessions.userOf(secret))?.value.name;
  const first = await begin();
  assert.equal(await nameOf(first, await reopen()), 'bob');
  assert.equal(await nameOf('x'), undefined);
  for (let i = 0; i < 10; i += 1) {
    clock.timeMs += 59 * 60_000;
    assert.equal(await nameOf(first), 'bob', 'in use');
  }
  clock.timeMs += 61 * 60_000;
  assert.equal(await nameOf(first), undefined, 'idle');
  const old = await begin();
  for (let i = 0; i < 7 * 24 + 1; i += 1) {
    clock.timeMs += 59.9 * 60_000;
    await nameOf(old);
  }
  assert.equal(await nameOf(old), undefined, 'too old');
  for (const change of [
    () => access.users.setPassword('bob', 'another tangerine'),
    () => access.users.change('bob', { role: 'viewer' }),
    () => access.users.change('bob', { isDisabled: true }),
  ]) {
    const secret = await begin();
    await access.users.change('bob', { displayName: 'Bob' });
    assert.equal(await nameOf(secret), 'bob');
    await change();
    assert.equal(await nameOf(secret), undefined);
    assert.equal(await nameOf(secret, await reopen()), undefined);
  }
  assert.deepEqual(access.sessions.list(), []);
});

test('sessions are listed and ended by an id that cannot be used to log in', async (t) => {
  const { access, directory } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const from = { address: '192.0.2.1', agent: 'x'.repeat(1000) };
  const secret = await access.sessions.begin(access.users.get('ann'), from);
  const [session] = access.sessions.list();
  assert.ok(session !== undefined && session.agent.length === 200);
  assert.equal(await access.sessions.userOf(session.id), undefined);
  assert.equal((await readFile(join(directory, 'sessions.json'), 'utf8')).includes(secret), false);
  await access.sessions.end(session.id);
  assert.equal(await access.sessions.userOf(secret), undefined);
  await rejectsWith(access.sessions.end(session.id), 'NOT_FOUND');
});

test('a user has twenty sessions at most; the one that was not used for longest ends', async (t) => {
  const { access, clock } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const secrets: string[] = [];
  for (let i = 0; i < 21; i += 1) {
    clock.timeMs += 1000;
    secrets.push(await access.sessions.begin(access.users.get('ann'), { address: '', agent: '' }));
  }
  assert.equal(access.sessions.list().length, 20);
  assert.equal(await access.sessions.userOf(secrets[0] ?? ''), undefined);
  assert.notEqual(await access.sessions.userOf(secrets[1] ?? ''), undefined);
});

test('a known browser logs in while attempts from its own address are made to wait', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  await userOf(access, 'eve', 'viewer');
  const device = access.login.deviceOf(access.users.get('ann'));
  for (let i = 0; i < 5; i += 1)
    await rejectsWith(access.login.check({ name: 'ann', password: 'x' }, HERE), 'LOGIN_FAILED');
  const right = { name: 'ann', password: TEST_PASSWORD };
  await rejectsWith(access.login.check(right, HERE), 'LOGIN_LIMITED');
  const ofEve = access.login.deviceOf(access.users.get('eve'));
  await rejectsWith(access.login.check(right, { ...HERE, device: ofEve }), 'LOGIN_LIMITED');
  await rejectsWith(access.login.check(right, { ...HERE, device: 'forged' }), 'LOGIN_LIMITED');
  assert.equal((await access.login.check(right, { ...HERE, device })).value.name, 'ann');
  assert.equal((await access.login.check(right, { address: '192.0.2.2' })).value.name, 'ann');
});

test('a hash of an older cost is made anew when its user logs in, and the sessions stay', async (t) => {
  const { access, reopen } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const secret = await access.sessions.begin(access.users.get('ann'), { address: '', agent: '' });
  const stronger = await reopen({ memoryKib: 128, passes: 1, parallelism: 1 });
  await stronger.login.check({ name: 'ann', password: TEST_PASSWORD }, HERE);
  assert.match(stronger.users.get('ann').value.passwordHash ?? '', /m=128/);
  assert.notEqual(await stronger.sessions.userOf(secret), undefined);
  await stronger.login.check({ name: 'ann', password: TEST_PASSWORD }, HERE);
});

test('the link for the first administrator works once, and only while there is none', async (t) => {
  const { access, clock, directory } = await accessRig(t);
  const old = await access.invitations.setup();
  const { secret } = await access.invitations.setup();
  assert.equal((await readFile(join(directory, 'invitations.json'), 'utf8')).includes(secret), false);
  const answer = { name: 'ann', password: TEST_PASSWORD };
  await rejectsWith(access.invitations.accept(old.secret, answer), 'LOGIN_FAILED');
  await rejectsWith(access.invitations.accept(secret, { ...answer, password: 'short' }), 'BAD_ARGUMENT');
  assert.equal(access.invitations.purposeOf(secret), 'setup');
  const both = await Promise.allSettled([
    access.invitations.accept(secret, answer),
    access.invitations.accept(secret, { ...answer, name: 'eve' }),
  ]);
  assert.deepEqual(
    both.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  );
  assert.deepEqual(
    access.users.list().map(({ value }) => [value.name, value.role]),
    [['ann', 'admin']],
  );
  await rejectsWith(access.invitations.setup(), 'CONFLICT');
  const { secret: late } = await access.invitations.invite(await access.users.create({ name: 'bob', role: 'viewer' }));
  clock.timeMs += 4 * 24 * 3_600_000;
  await rejectsWith(access.invitations.accept(late, { password: TEST_PASSWORD }), 'LOGIN_FAILED');
});

test('an invited user chooses a password', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const bob = await access.users.create({ name: 'bob', role: 'viewer' });
  const { secret } = await access.invitations.invite(bob);
  await access.invitations.accept(secret, { password: TEST_PASSWORD });
  assert.equal((await access.login.check({ name: 'bob', password: TEST_PASSWORD }, HERE)).id, bob.id);
  await rejectsWith(access.invitations.accept(secret, { password: 'something else' }), 'LOGIN_FAILED');
});

test('a clock that leaps ahead, or was ahead and is set right, ends sessions, and lengthens none', async (t) => {
  for (const leapMs of [40, -40].map((days) => days * 24 * 3_600_000)) {
    const { access, clock } = await accessRig(t);
    await userOf(access, 'ann', 'admin');
    const secret = await access.sessions.begin(access.users.get('ann'), { address: '::1', agent: 'x' });
    clock.timeMs += 1_000;
    assert.equal((await access.sessions.userOf(secret))?.value.name, 'ann');
    clock.timeMs += leapMs;
    assert.equal(await access.sessions.userOf(secret), undefined);
  }
});
