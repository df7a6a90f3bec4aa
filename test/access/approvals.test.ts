// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Access } from '../../appliance/access/access.ts';
import { DEFAULT_ACCESS_SETTINGS } from '../../appliance/access/access-settings.ts';
import { MAX_PENDING_OF_ONE } from '../../appliance/access/approvals.ts';
import type { Principal } from '../../appliance/access/principal.ts';
import { accessRig, LOCAL, type TestClock, userOf } from '../support/access-rig.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const REQUEST = { operation: 'delete', params: { point: 'abcd', key: 'hush-hush' }, shown: { point: 'abcd' } } as const;
const test = suite('approvals');

interface Rig {
  readonly access: Access;
  readonly clock: TestClock;
  readonly directory: string;
  readonly reopen: () => Promise<Access>;
  readonly ann: Principal;
  readonly bob: Principal;
  readonly carl: Principal;
}

async function rig(t: TestContext, persons = 2): Promise<Rig> {
  const base = await accessRig(t);
  const { access } = base;
  const [ann, bob, carl] = [
    await userOf(access, 'ann', 'admin'),
    await userOf(access, 'bob', 'admin'),
    await userOf(access, 'carl', 'admin'),
  ];
  const approvals = { ...DEFAULT_ACCESS_SETTINGS.approvals, isRequired: true, persons };
  await access.settings.change({ approvals }, access.users.admins().length);
  return { ...base, ann, bob, carl };
}

test('another administrator approves, and what is done is what was asked for, by whom it was', async (t) => {
  const { access, ann, bob, directory } = await rig(t);
  const { id } = await access.approvals.request(ann, REQUEST);
  assert.equal((await readFile(join(directory, 'approvals.json'), 'utf8')).includes('hush'), false);
  const approved = await access.approvals.approve(id, bob);
  assert.deepEqual(approved && { ...approved, requestedBy: approved.requestedBy.person }, {
    id,
    operation: 'delete',
    params: REQUEST.params,
    requestedBy: ann.id,
    approvedBy: ['bob'],
  });
  assert.equal(access.approvals.get(id).value.state, 'running');
  await access.approvals.finish(id, null);
  assert.equal(access.approvals.get(id).value.state, 'done');
});

test('nobody approves what they asked for, not with a token either, and nobody twice', async (t) => {
  const { access, ann, bob, carl } = await rig(t, 3);
  const token: Principal = { kind: 'token', id: 't', name: 'ann/x', role: 'admin', machines: null, madeBy: ann.id };
  const { id } = await access.approvals.request(token, REQUEST);
  await rejectsWith(access.approvals.approve(id, ann), 'FORBIDDEN');
  await rejectsWith(access.approvals.approve(id, token), 'FORBIDDEN');
  assert.equal(await access.approvals.approve(id, bob), undefined);
  await rejectsWith(access.approvals.approve(id, bob), 'FORBIDDEN');
  assert.deepEqual((await access.approvals.approve(id, carl))?.approvedBy, ['bob', 'carl']);
});

test('what is decided is decided, and only one of two that approve at once does it', async (t) => {
  const { access, ann, bob, carl } = await rig(t);
  const { id } = await access.approvals.request(ann, REQUEST);
  const both = await Promise.allSettled([access.approvals.approve(id, bob), access.approvals.approve(id, carl)]);
  assert.deepEqual(
    both.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  );
  await rejectsWith(access.approvals.deny(id, carl), 'CONFLICT');
  const other = await access.approvals.request(ann, { ...REQUEST, params: { point: 'other' } });
  await access.approvals.deny(other.id, ann);
  await rejectsWith(access.approvals.approve(other.id, bob), 'CONFLICT');
});

test('the owner of the appliance goes ahead alone only with a reason, which is kept', async (t) => {
  const { access, ann } = await rig(t);
  const { id } = await access.approvals.request(LOCAL, REQUEST);
  await rejectsWith(access.approvals.approve(id, LOCAL), 'FORBIDDEN');
  await rejectsWith(access.approvals.approve(id, ann, 'because'), 'FORBIDDEN');
  assert.deepEqual((await access.approvals.approve(id, LOCAL, 'both are ill'))?.approvedBy, ['root']);
  assert.equal(access.approvals.get(id).value.brokenGlass, 'both are ill');
  const ofAnn = await access.approvals.request(ann, REQUEST);
  await rejectsWith(access.approvals.approve(ofAnn.id, LOCAL), 'FORBIDDEN');
  const localToken: Principal = { ...LOCAL, kind: 'token', madeBy: null };
  await rejectsWith(access.approvals.approve(ofAnn.id, localToken), 'FORBIDDEN');
});

test('a request that is repeated is the same one, and it is void when its time is over', async (t) => {
  const { access, ann, bob, clock } = await rig(t);
  const { id } = await access.approvals.request(ann, REQUEST);
  assert.equal((await access.approvals.request(ann, REQUEST)).id, id);
  assert.notEqual((await access.approvals.request(bob, REQUEST)).id, id);
  clock.timeMs += 72 * 3_600_000;
  assert.deepEqual(access.approvals.list(), []);
  await rejectsWith(access.approvals.approve(id, bob), 'NOT_FOUND');
});

test('one person has a limited number of requests that wait', async (t) => {
  const { access, ann, bob } = await rig(t);
  const ask = (by: Principal, point: number): Promise<unknown> =>
    access.approvals.request(by, { ...REQUEST, params: { point } });
  for (let i = 0; i < MAX_PENDING_OF_ONE; i += 1) await ask(ann, i);
  await rejectsWith(ask(ann, MAX_PENDING_OF_ONE), 'LIMIT_REACHED');
  await ask(bob, 0);
});

test('what ran when the process ended is not begun again', async (t) => {
  const { access, ann, bob, reopen } = await rig(t);
  const { id } = await access.approvals.request(ann, REQUEST);
  await access.approvals.approve(id, bob);
  const next = await reopen();
  await next.approvals.settleInterrupted();
  const { state, errorCode } = next.approvals.get(id).value;
  assert.deepEqual([state, errorCode], ['failed', 'ABORTED']);
});

test('more people than there are administrators cannot be asked for', async (t) => {
  const { access } = await accessRig(t);
  await userOf(access, 'ann', 'admin');
  const approvals = { ...DEFAULT_ACCESS_SETTINGS.approvals, isRequired: true };
  await rejectsWith(access.settings.change({ approvals }, 1), 'BAD_ARGUMENT');
  assert.equal(access.approvals.isRequired, false);
});

test('whoever cannot do it any more does not do it by approval', async (t) => {
  const { access, ann, bob } = await rig(t);
  const { id } = await access.approvals.request(ann, REQUEST);
  const { requestedBy } = access.approvals.get(id).value;
  assert.equal(access.principalOf(requestedBy)?.role, 'admin');
  await access.users.change('ann', { role: 'viewer' });
  assert.equal(access.principalOf(requestedBy)?.role, 'viewer');
  await access.users.change('ann', { isDisabled: true });
  assert.equal(access.principalOf(requestedBy), undefined);
  const ofLocal = await access.approvals.request(LOCAL, REQUEST);
  assert.equal(access.principalOf(ofLocal.value.requestedBy)?.kind, 'local');
  assert.equal(access.principalOf({ ...requestedBy, person: bob.id })?.name, 'bob');
});
