// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Access } from '../../appliance/access/access.ts';
import type { SingleSignOnSettings } from '../../appliance/access/access-settings.ts';
import { CLIENT_SECRET_PLACE, checkSignOnUrl, SIGN_ON_CALLBACK_PATH } from '../../appliance/access/single-sign-on.ts';
import { type AccessRig, accessRig, userOf } from '../support/access-rig.ts';
import { type IdentityProvider, startIdentityProvider } from '../support/identity-provider.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const ORIGIN = 'https://backup.example.org';
const test = suite('single sign-on');

interface Rig extends AccessRig {
  readonly provider: IdentityProvider;
  readonly settings: SingleSignOnSettings;
}

async function rig(t: TestContext, changes: Partial<SingleSignOnSettings> = {}): Promise<Rig> {
  const base = await accessRig(t);
  const provider = t.use(await startIdentityProvider(`${ORIGIN}${SIGN_ON_CALLBACK_PATH}`));
  provider.accounts.set('s-1', { name: 'ann', email: 'ann@example.org', groups: ['backup', 'everybody'] });
  provider.accounts.set('s-2', { name: 'bob', email: 'bob@example.org', groups: ['everybody'] });
  provider.accounts.set('s-3', { name: 'rex', email: 'rex@example.org', groups: ['web'] });
  const { access } = base;
  const settings: SingleSignOnSettings = {
    issuer: provider.issuer,
    clientId: provider.clientId,
    clientSecret: access.box.seal(CLIENT_SECRET_PLACE, provider.clientSecret),
    origin: ORIGIN,
    scopes: ['profile', 'email', 'groups'],
    groupsClaim: 'groups',
    roles: [
      { group: 'backup', role: 'operator', machines: null },
      { group: 'web', role: 'restorer', machines: ['M1'] },
    ],
    createsUsers: true,
    ...changes,
  };
  await access.settings.change({ singleSignOn: settings }, 0);
  return { ...base, provider, settings };
}

async function login(access: Access, provider: IdentityProvider, subject: string): Promise<string> {
  provider.subject = subject;
  const { url, flow } = await access.signOn.begin();
  const back = await provider.follow(url);
  assert.equal(back.origin + back.pathname, `${ORIGIN}${SIGN_ON_CALLBACK_PATH}`);
  return (await access.signOn.finish(back.search, flow)).value.name;
}

test('somebody with a group that has a role becomes a user, and is the same user the next time', async (t) => {
  const { access, provider, directory } = await rig(t);
  assert.equal(await login(access, provider, 's-1'), 'ann');
  provider.accounts.set('s-1', { name: 'renamed', email: 'other@example.org', groups: ['backup'] });
  assert.equal(await login(access, provider, 's-1'), 'ann');
  assert.equal(await login(access, provider, 's-3'), 'rex');
  assert.deepEqual(
    access.users.list().map(({ value: { name, role, machines, identity, passwordHash } }) => [
      [name, role, machines],
      [identity, passwordHash],
    ]),
    [
      [
        ['ann', 'operator', null],
        [{ issuer: provider.issuer, subject: 's-1' }, null],
      ],
      [
        ['rex', 'restorer', ['m1']],
        [{ issuer: provider.issuer, subject: 's-3' }, null],
      ],
    ],
  );
  assert.equal((await readFile(join(directory, 'access.json'), 'utf8')).includes(provider.clientSecret), false);
});

test('who has no role by a group is refused, also when it was one before', async (t) => {
  const { access, provider } = await rig(t);
  await rejectsWith(login(access, provider, 's-2'), 'SIGN_ON_FAILED');
  assert.deepEqual(access.users.list(), []);
  await login(access, provider, 's-1');
  provider.accounts.set('s-1', { name: 'ann', email: '', groups: [] });
  await rejectsWith(login(access, provider, 's-1'), 'SIGN_ON_FAILED');
});

test('the role follows the groups, and sessions of the role before end', async (t) => {
  const { access, provider } = await rig(t);
  await login(access, provider, 's-1');
  const session = await access.sessions.begin(access.users.get('ann'), { address: '', agent: '' });
  provider.accounts.set('s-1', { name: 'ann', email: '', groups: ['web'] });
  await login(access, provider, 's-1');
  assert.equal(access.users.get('ann').value.role, 'restorer');
  assert.equal(await access.sessions.userOf(session), undefined);
});

test('a name at the provider never takes over a user of that name here', async (t) => {
  const { access, provider } = await rig(t);
  const local = await userOf(access, 'ann', 'admin');
  assert.equal(await login(access, provider, 's-1'), 'ann@example.org');
  assert.equal(access.users.get('ann').id, local.id);
  assert.equal(access.users.get('ann').value.identity, null);
});

test('without leave to make users, only those who are here already log in, with the role they have', async (t) => {
  const { access, provider } = await rig(t, { createsUsers: false, groupsClaim: null });
  await rejectsWith(login(access, provider, 's-1'), 'SIGN_ON_FAILED');
  await access.users.create({ name: 'ann', role: 'viewer', identity: { issuer: provider.issuer, subject: 's-1' } });
  assert.equal(await login(access, provider, 's-1'), 'ann');
  await access.users.change('ann', { isDisabled: true });
  await rejectsWith(login(access, provider, 's-1'), 'SIGN_ON_FAILED');
});

test('an answer for another login, an old one, a repeated one and a forged one are refused', async (t) => {
  const { access, provider, clock } = await rig(t);
  provider.subject = 's-1';
  const [one, other] = [await access.signOn.begin(), await access.signOn.begin()];
  const back = await provider.follow(one.url);
  await rejectsWith(access.signOn.finish(back.search, other.flow), 'SIGN_ON_FAILED');
  await rejectsWith(access.signOn.finish(back.search, undefined), 'SIGN_ON_FAILED');
  await rejectsWith(access.signOn.finish('?error=access_denied&state=x', one.flow), 'SIGN_ON_FAILED');
  await rejectsWith(access.signOn.finish('?code=x', one.flow), 'SIGN_ON_FAILED');
  const again = await provider.follow(one.url);
  await access.signOn.finish(again.search, one.flow);
  await rejectsWith(access.signOn.finish(again.search, one.flow), 'SIGN_ON_FAILED');
  clock.timeMs += 600_000;
  const late = await provider.follow(other.url);
  await rejectsWith(access.signOn.finish(late.search, other.flow), 'SIGN_ON_FAILED');
});

test('a provider that cannot be reached, or does not know us, is an error with a code', async (t) => {
  const { access, provider, settings } = await rig(t);
  const wrong = access.box.seal(CLIENT_SECRET_PLACE, 'wrong');
  await access.settings.change({ singleSignOn: { ...settings, clientSecret: wrong } }, 0);
  await rejectsWith(login(access, provider, 's-1'), 'SIGN_ON_FAILED');
  await provider[Symbol.asyncDispose]();
  await access.settings.change({ singleSignOn: settings }, 0);
  await rejectsWith(access.signOn.begin(), 'SIGN_ON_FAILED');
  await access.settings.change({ singleSignOn: null }, 0);
  await rejectsWith(access.signOn.begin(), 'NOT_FOUND');
});

test('secrets are sent to HTTPS, or to this host, only', () => {
  for (const url of ['https://id.example.org', 'http://127.0.0.1:3000/x', 'http://localhost', 'http://[::1]:1']) {
    checkSignOnUrl(url, 'issuer');
  }
  for (const url of [
    'http://id.example.org',
    'ftp://x',
    'nonsense',
    'https://user:word@x',
    'http://127.0.0.1.example.org',
  ]) {
    assert.throws(() => checkSignOnUrl(url, 'issuer'), { code: 'BAD_ARGUMENT' });
  }
});
