// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { URI } from 'otpauth';
import type { Access } from '../../appliance/access/access.ts';
import { accessRig, TEST_PASSWORD, type TestClock, userOf } from '../support/access-rig.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const HERE = { address: '192.0.2.1' } as const;
const test = suite('second factor');

interface Enrolled {
  /** What the app shows now. */
  readonly codeAt: (timeMs: number) => string;
  readonly recovery: readonly string[];
  readonly secret: string;
}

async function enrolled(access: Access, clock: TestClock): Promise<Enrolled> {
  const { id } = await userOf(access, 'ann', 'admin');
  const { uri, secret } = await access.secondFactor.enrol(id);
  const app = URI.parse(uri);
  const codeAt = (timestamp: number): string => app.generate({ timestamp } as never);
  await rejectsWith(access.secondFactor.confirm(id, '000'), 'LOGIN_FAILED');
  const recovery = await access.secondFactor.confirm(id, codeAt(clock.nowMs()));
  return { codeAt, recovery, secret };
}

test('once confirmed, a code is needed besides the password, and each works once', async (t) => {
  const { access, clock, reopen } = await accessRig(t);
  const { codeAt } = await enrolled(access, clock);
  const login = (code?: string): Promise<unknown> =>
    access.login.check({ name: 'ann', password: TEST_PASSWORD, code }, HERE);
  await rejectsWith(login(), 'SECOND_FACTOR_NEEDED');
  await rejectsWith(login(codeAt(clock.timeMs)), 'LOGIN_FAILED');
  clock.timeMs += 30_000;
  const code = codeAt(clock.timeMs);
  await login(`${code.slice(0, 3)} ${code.slice(3)}`);
  await rejectsWith(login(code), 'LOGIN_FAILED');
  await rejectsWith((await reopen()).login.check({ name: 'ann', password: TEST_PASSWORD, code }, HERE), 'LOGIN_FAILED');
  clock.timeMs += 60_000;
  const twice = codeAt(clock.timeMs);
  const both = await Promise.allSettled([login(twice), login(twice)]);
  assert.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
});

test('clocks may differ by one step, not by more; an older code than the last one is refused', async (t) => {
  const { access, clock } = await accessRig(t);
  const { codeAt } = await enrolled(access, clock);
  const user = access.users.get('ann');
  clock.timeMs += 300_000;
  await rejectsWith(access.secondFactor.use(user, codeAt(clock.timeMs - 60_000)), 'LOGIN_FAILED');
  await rejectsWith(access.secondFactor.use(user, codeAt(clock.timeMs + 60_000)), 'LOGIN_FAILED');
  await access.secondFactor.use(user, codeAt(clock.timeMs + 30_000));
  await rejectsWith(access.secondFactor.use(user, codeAt(clock.timeMs)), 'LOGIN_FAILED');
});

test('a recovery code works once instead, however it is typed', async (t) => {
  const { access, clock } = await accessRig(t);
  const { recovery } = await enrolled(access, clock);
  assert.equal(new Set(recovery).size, 10);
  const [first = '', second = ''] = recovery;
  assert.match(first, /^([a-z2-7]{4}-){3}[a-z2-7]{4}$/);
  const user = access.users.get('ann');
  await access.secondFactor.use(user, first.toUpperCase().replaceAll('-', ' '));
  await rejectsWith(access.secondFactor.use(user, first), 'LOGIN_FAILED');
  await access.secondFactor.use(user, second);
  assert.equal(access.users.get('ann').value.recoveryCodes.length, 8);
});

test('neither secret nor recovery codes are stored in plain text', async (t) => {
  const { access, clock, directory } = await accessRig(t);
  const { secret, recovery } = await enrolled(access, clock);
  const stored = await readFile(join(directory, 'users.json'), 'utf8');
  for (const plain of [secret, ...recovery, ...recovery.map((code) => code.replaceAll('-', ''))]) {
    assert.equal(stored.includes(plain), false);
  }
});

test('an enrolment that is not confirmed changes nothing, and a factor that is there must be removed first', async (t) => {
  const { access, clock } = await accessRig(t);
  const { id } = await userOf(access, 'bob', 'viewer');
  await access.secondFactor.enrol(id);
  await access.login.check({ name: 'bob', password: TEST_PASSWORD }, HERE);
  await enrolled(access, clock);
  const ann = access.users.get('ann');
  await rejectsWith(access.secondFactor.enrol(ann.id), 'CONFLICT');
  await access.secondFactor.remove(ann.id);
  await access.login.check({ name: 'ann', password: TEST_PASSWORD }, HERE);
  await rejectsWith(access.secondFactor.confirm(ann.id, '123456'), 'CONFLICT');
});
