// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { URI } from 'otpauth';
import type { Access } from '../../appliance/access/access.ts';
import type { Principal } from '../../appliance/access/principal.ts';
import type { ApplianceHost } from '../../appliance/api/appliance-host.ts';
import { guardedAppliance } from '../../appliance/api/guard/guarded-appliance.ts';
import type { Appliance, OperationContext } from '../../appliance/api/operations.ts';
import { withAccess } from '../../appliance/app/access/with-access.ts';
import type { AuditEvent } from '../../appliance/audit/entry.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { accessRig, LOCAL, TEST_PASSWORD, type TestClock, userOf } from '../support/access-rig.ts';
import { FakeAppliance } from '../support/fake-appliance.ts';
import { FAKE_POINT_ID } from '../support/fake-results.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('operations on access');

interface Rig {
  readonly access: Access;
  readonly clock: TestClock;
  readonly fake: FakeAppliance;
  readonly appliance: Appliance;
  readonly denied: AuditEvent[];
}

async function rig(t: TestContext): Promise<Rig> {
  const { access, clock } = await accessRig(t);
  const fake = new FakeAppliance();
  const denied: AuditEvent[] = [];
  const recorder = { record: async (event: AuditEvent) => ({ sequence: denied.push(event) }) };
  const host: ApplianceHost = withAccess(fake.asAppliance(), access, { whole: () => host, recorder });
  return { access, clock, fake, appliance: guardedAppliance(host, host.guard), denied };
}

function as(principal: Principal): OperationContext {
  const signal = new AbortController().signal;
  return { principal, signal, onProgress: () => undefined, onNotice: () => undefined };
}

/** The id of the request that a call became. */
async function requestOf(call: Promise<unknown>): Promise<string> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof ApplianceError && error.code === 'APPROVAL_NEEDED', String(error));
  return String(error.details['approval']);
}

test('the owner makes the first administrator, who makes others, who choose a password', async (t) => {
  const { appliance, access } = await rig(t);
  const { token } = await appliance.setupLink({}, as(LOCAL));
  const ann = await access.invitations.accept(token, { name: 'ann', password: TEST_PASSWORD });
  const admin: Principal = { kind: 'user', id: ann.id, name: 'ann', role: 'admin', machines: null };
  await rejectsWith(appliance.setupLink({}, as(admin)), 'FORBIDDEN');
  const { user, invitation } = await appliance.userCreate(
    { name: 'Rex', role: 'restorer', machines: ['M1'] },
    as(admin),
  );
  assert.deepEqual([user.name, user.role, user.machines, user.hasPassword], ['rex', 'restorer', ['m1'], false]);
  await access.invitations.accept(invitation?.token ?? '', { password: TEST_PASSWORD });
  assert.equal((await appliance.userShow({ name: 'rex' }, as(admin))).hasPassword, true);
  const text = JSON.stringify(await appliance.userList({}, as(admin)));
  assert.equal(/argon2|sealed|epoch/i.test(text), false);
});

test('a user changes the password and sets up a second factor, with the password; a token cannot', async (t) => {
  const { appliance, access, clock } = await rig(t);
  const ann = await userOf(access, 'ann', 'viewer');
  const { token } = await appliance.tokenCreate({ name: 'ci' }, as(ann));
  const byToken = await access.tokens.principalOf(token);
  assert.ok(byToken !== undefined);
  for (const call of [
    () => appliance.tokenCreate({ name: 'more' }, as(byToken)),
    () => appliance.passwordChange({ currentPassword: TEST_PASSWORD, password: 'another tangerine' }, as(byToken)),
    () => appliance.secondFactorEnrol({ currentPassword: TEST_PASSWORD }, as(byToken)),
    () => appliance.secondFactorRemove({ currentPassword: TEST_PASSWORD }, as(byToken)),
  ]) {
    await rejectsWith(call(), 'FORBIDDEN');
  }
  await rejectsWith(appliance.secondFactorEnrol({ currentPassword: 'wrong' }, as(ann)), 'LOGIN_FAILED');
  const { uri } = await appliance.secondFactorEnrol({ currentPassword: TEST_PASSWORD }, as(ann));
  const code = URI.parse(uri).generate({ timestamp: clock.nowMs() } as never);
  assert.equal((await appliance.secondFactorConfirm({ code }, as(ann))).codes.length, 10);
  assert.equal((await appliance.whoami({}, as(ann))).hasSecondFactor, true);
  await appliance.passwordChange({ currentPassword: TEST_PASSWORD, password: 'another tangerine' }, as(ann));
  assert.equal(
    (await appliance.secondFactorRemove({ currentPassword: 'another tangerine' }, as(ann))).hasSecondFactor,
    false,
  );
});

test('everybody sees and ends their own sessions and tokens, an administrator all of them', async (t) => {
  const { appliance, access } = await rig(t);
  const [ann, bob] = [await userOf(access, 'ann', 'admin'), await userOf(access, 'bob', 'viewer')];
  for (const { id } of [ann, bob]) await access.sessions.begin(access.users.get(id), { address: '::1', agent: 'x' });
  await appliance.tokenCreate({ name: 'of ann' }, as(ann));
  const { summary } = await appliance.tokenCreate({ name: 'of bob', expires: '30d' }, as(bob));
  await appliance.tokenCreate({ name: 'of the owner', expires: '2027-01-01' }, as(LOCAL));
  assert.equal(summary.expiresAt, '2026-12-22T00:00:00.000Z');
  assert.deepEqual(
    (await appliance.tokenList({}, as(bob))).map(({ name }) => name),
    ['of bob'],
  );
  assert.equal((await appliance.tokenList({}, as(ann))).length, 3);
  const [annToken] = access.tokens.list(ann.id);
  await rejectsWith(appliance.tokenRevoke({ id: annToken?.id ?? '' }, as(bob)), 'NOT_FOUND');
  await appliance.tokenRevoke({ id: 'of bob' }, as(bob));
  const all = await appliance.sessionList({}, as(ann));
  assert.deepEqual(all.map(({ user }) => user).sort(), ['ann', 'bob']);
  const ofAnn = all.find(({ user }) => user === 'ann');
  await rejectsWith(appliance.sessionEnd({ id: ofAnn?.id ?? '' }, as(bob)), 'NOT_FOUND');
  await appliance.sessionEnd({ id: ofAnn?.id ?? '' }, as(ann));
  assert.equal((await appliance.sessionList({}, as(ann))).length, 1);
  await rejectsWith(appliance.tokenCreate({ name: 'x', expires: 'soon' }, as(bob)), 'BAD_ARGUMENT');
});

test('what a second person approved is done once, in the name of the one who asked', async (t) => {
  const { appliance, access, fake, denied } = await rig(t);
  const [ann, bob] = [await userOf(access, 'ann', 'admin'), await userOf(access, 'bob', 'admin')];
  await appliance.accessSettingsUpdate({ approvals: true }, as(ann));
  const id = await requestOf(appliance.delete({ point: 'web@latest' }, as(ann)));
  assert.deepEqual(
    denied.map(({ action, code, outcome }) => [action, code, outcome]),
    [['delete', 'APPROVAL_NEEDED', 'denied']],
  );
  await rejectsWith(appliance.approvalApprove({ id }, as(ann)), 'FORBIDDEN');
  const { approval, result } = await appliance.approvalApprove({ id }, as(bob));
  assert.deepEqual([approval.state, approval.approvedBy.map(({ name }) => name)], ['done', ['bob']]);
  assert.notEqual(result, null);
  const [done, ...more] = fake.calls.filter(({ name }) => name === 'delete');
  assert.ok(done !== undefined && more.length === 0);
  assert.notEqual((done.params as { point: string }).point, 'web@latest');
  assert.deepEqual(done.context.principal, { ...ann, approvedBy: ['bob'] });
  await rejectsWith(appliance.approvalApprove({ id }, as(bob)), 'CONFLICT');
});

test('what was asked for by somebody who may not do it any more is not done, and a failure is kept', async (t) => {
  const { appliance, access, fake } = await rig(t);
  const [ann, bob] = [await userOf(access, 'ann', 'admin'), await userOf(access, 'bob', 'admin')];
  await userOf(access, 'carl', 'admin');
  await appliance.accessSettingsUpdate({ approvals: true }, as(ann));
  const first = await requestOf(appliance.delete({ point: FAKE_POINT_ID }, as(ann)));
  fake.behaviour = { delete: () => Promise.reject(new ApplianceError('POINT_HELD', 'held')) };
  await rejectsWith(appliance.approvalApprove({ id: first }, as(bob)), 'POINT_HELD');
  assert.equal((await appliance.approvalList({}, as(bob)))[0]?.error, 'POINT_HELD');
  const second = await requestOf(appliance.release({ point: FAKE_POINT_ID }, as(ann)));
  await access.users.change('ann', { role: 'operator' });
  await rejectsWith(appliance.approvalApprove({ id: second }, as(bob)), 'FORBIDDEN');
  assert.equal(
    fake.calls.some(({ name }) => name === 'release'),
    false,
  );
});

test('approvals guard themselves: they cannot be turned off, and nobody made an administrator, by one alone', async (t) => {
  const { appliance, access } = await rig(t);
  const [ann, bob] = [await userOf(access, 'ann', 'admin'), await userOf(access, 'bob', 'admin')];
  await appliance.accessSettingsUpdate({ approvals: true }, as(ann));
  const off = await requestOf(appliance.accessSettingsUpdate({ approvals: false }, as(ann)));
  await requestOf(appliance.userCreate({ name: 'eve', role: 'admin', password: TEST_PASSWORD }, as(ann)));
  await requestOf(appliance.userInvite({ name: 'bob' }, as(ann)));
  await requestOf(appliance.userSecondFactorReset({ name: 'bob' }, as(ann)));
  await requestOf(appliance.userUpdate({ name: 'bob', role: 'viewer' }, as(ann)));
  const listed = JSON.stringify(await appliance.approvalList({}, as(bob)));
  assert.equal(listed.includes(TEST_PASSWORD), false);
  assert.equal(access.approvals.isRequired, true);
  await appliance.approvalApprove({ id: off }, as(bob));
  assert.equal(access.approvals.isRequired, false);
});

test('the owner of the appliance waits as well, and breaks the glass with a reason', async (t) => {
  const { appliance, access, fake } = await rig(t);
  const ann = await userOf(access, 'ann', 'admin');
  await userOf(access, 'bob', 'admin');
  await appliance.accessSettingsUpdate({ approvals: true }, as(ann));
  const id = await requestOf(appliance.gc({ now: true }, as(LOCAL)));
  await rejectsWith(appliance.approvalApprove({ id }, as(LOCAL)), 'FORBIDDEN');
  const { approval } = await appliance.approvalApprove({ id, breakGlass: 'the disk is full' }, as(LOCAL));
  assert.deepEqual([approval.state, approval.brokenGlass], ['done', 'the disk is full']);
  assert.equal(fake.calls.filter(({ name }) => name === 'gc').length, 1);
});

test('single sign-on is set without its secret ever coming back, and another client does not get it', async (t) => {
  const { appliance, access } = await rig(t);
  const given = { issuer: 'https://id.example.org', clientId: 'us', origin: 'https://backup.example.org/x' };
  const first = await appliance.signOnSet({ ...given, clientSecret: 'hush-hush' }, as(LOCAL));
  assert.equal(JSON.stringify(first).includes('hush'), false);
  assert.deepEqual(
    [first.singleSignOn?.hasClientSecret, first.singleSignOn?.origin],
    [true, 'https://backup.example.org'],
  );
  assert.equal((await appliance.signOnSet(given, as(LOCAL))).singleSignOn?.hasClientSecret, true);
  const other = await appliance.signOnSet({ ...given, issuer: 'https://evil.example.org' }, as(LOCAL));
  assert.equal(other.singleSignOn?.hasClientSecret, false);
  await rejectsWith(appliance.signOnSet({ ...given, issuer: 'http://id.example.org' }, as(LOCAL)), 'BAD_ARGUMENT');
  const roles = [{ group: 'a', role: 'restorer' as const }];
  await rejectsWith(appliance.signOnSet({ ...given, roles }, as(LOCAL)), 'BAD_ARGUMENT');
  assert.equal((await appliance.signOnRemove({}, as(LOCAL))).singleSignOn, null);
  assert.equal(access.settings.current.singleSignOn, null);
});
