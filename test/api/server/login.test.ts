// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { URI } from 'otpauth';
import { pino } from 'pino';
import type { Access } from '../../../appliance/access/access.ts';
import { CLIENT_SECRET_PLACE } from '../../../appliance/access/single-sign-on.ts';
import type { ApplianceHost } from '../../../appliance/api/appliance-host.ts';
import { buildApiApp } from '../../../appliance/api/server/api-app.ts';
import type { ApiContext } from '../../../appliance/api/server/api-context.ts';
import { ApiServer } from '../../../appliance/api/server/api-server.ts';
import { networkAccess } from '../../../appliance/api/server/login/network-access.ts';
import { StreamRoutes } from '../../../appliance/api/server/stream-routes.ts';
import { withAccess } from '../../../appliance/app/access/with-access.ts';
import type { AuditEvent } from '../../../appliance/audit/entry.ts';
import { accessRig, TEST_PASSWORD, type TestClock, userOf } from '../../support/access-rig.ts';
import { FakeAppliance } from '../../support/fake-appliance.ts';
import { startIdentityProvider } from '../../support/identity-provider.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const ORIGIN = 'https://backup.example.org';
const test = suite('logging in over the network');

interface Answer {
  readonly status: number;
  // What comes back is looked at member by member.
  readonly body: Readonly<Record<string, unknown>>;
  readonly cookies: Readonly<Record<string, string>>;
  readonly headers: Readonly<Record<string, unknown>>;
}

interface Rig {
  readonly access: Access;
  readonly clock: TestClock;
  readonly events: AuditEvent[];
  readonly fake: FakeAppliance;
  /** A request of a program, or of a page when `page` says so. */
  readonly send: (method: 'GET' | 'POST' | 'DELETE', url: string, options?: SendOptions) => Promise<Answer>;
}

interface SendOptions {
  readonly body?: object;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cookies?: Readonly<Record<string, string>>;
  readonly address?: string;
}

async function rig(t: TestContext): Promise<Rig> {
  const { access, clock } = await accessRig(t);
  const fake = new FakeAppliance();
  const events: AuditEvent[] = [];
  const recorder = { record: async (event: AuditEvent) => ({ sequence: events.push(event) }) };
  const host: ApplianceHost = withAccess(fake.asAppliance(), access, { whole: () => host, recorder });
  const context = await contextOf(t, host);
  const { access: control, extensions = [] } = networkAccess({ access, guard: host.guard, recorder });
  const app = await buildApiApp({
    context,
    access: control,
    streams: new StreamRoutes(context),
    transport: 'http',
    extensions,
    createServer: (handler) => createServer(handler),
  });
  t.use({ close: () => app.close() });
  await app.ready();
  return { access, clock, events, fake, send: (method, url, options = {}) => send(app, { method, url }, options) };
}

async function contextOf(t: TestContext, host: ApplianceHost): Promise<ApiContext> {
  let found: ApiContext | undefined;
  const server = await ApiServer.listen({
    host,
    stateDirectory: await t.tempDir(),
    logger: pino({ level: 'silent' }),
    onDefect: (violation) => assert.fail(violation),
    onStop: () => undefined,
    extensions: [
      (_app, context) => {
        found = context;
      },
    ],
  });
  t.use(server);
  return found ?? assert.fail('no context');
}

async function send(app: FastifyInstance, what: InjectOptions, options: SendOptions): Promise<Answer> {
  const cookie = Object.entries(options.cookies ?? {})
    .map(([name, value]) => `${name}=${value}`)
    .join('; ');
  const response = await app.inject({
    ...what,
    remoteAddress: options.address ?? '192.0.2.1',
    headers: { host: 'localhost', ...(cookie === '' ? {} : { cookie }), ...options.headers },
    ...(options.body === undefined ? {} : { payload: options.body }),
  });
  const isJson = String(response.headers['content-type']).includes('json');
  return {
    status: response.statusCode,
    body: isJson ? response.json() : { text: response.body },
    cookies: Object.fromEntries(response.cookies.map(({ name, value }) => [name, value])),
    headers: response.headers,
  };
}

async function loggedIn(
  { access, send: ask }: Rig,
  role: 'admin' | 'operator' = 'admin',
): Promise<{
  readonly cookies: Readonly<Record<string, string>>;
  readonly csrf: Readonly<Record<string, string>>;
}> {
  await userOf(access, 'ann', role);
  const answer = await ask('POST', '/api/v1/session', { body: { name: 'ann', password: TEST_PASSWORD } });
  assert.equal(answer.status, 200);
  return { cookies: answer.cookies, csrf: { 'x-csrf-token': String(answer.body['csrfToken']) } };
}

test('nobody gets in without a session or a token, and a login gives one', async (t) => {
  const made = await rig(t);
  assert.equal((await made.send('GET', '/api/v1/points')).status, 401);
  assert.equal((await made.send('GET', '/health/live')).status, 200);
  const { cookies } = await loggedIn(made);
  assert.equal((await made.send('GET', '/api/v1/points', { cookies })).status, 200);
  const who = await made.send('GET', '/api/v1/whoami', { cookies });
  assert.deepEqual([who.body['name'], who.body['role']], ['ann', 'admin']);
  assert.equal((await made.send('GET', '/api/v1/points', { cookies: { session: 'forged' } })).status, 401);
});

test('cookies are for this host only, out of reach of scripts, and never in what is answered', async (t) => {
  const { access, send: ask } = await rig(t);
  await userOf(access, 'ann', 'admin');
  const answer = await ask('POST', '/api/v1/session', { body: { name: 'ann', password: TEST_PASSWORD } });
  const lines = answer.headers['set-cookie'] as readonly string[];
  assert.equal(lines.length, 2);
  for (const line of lines) assert.match(line, /; Path=\/; HttpOnly; SameSite=Strict/);
  assert.equal(JSON.stringify(answer.body).includes(answer.cookies['session'] ?? '-'), false);
  assert.equal(answer.headers['cache-control'], 'no-store');
});

test('a change with a cookie needs the token of the session, and a page of ours', async (t) => {
  const made = await rig(t);
  const { cookies, csrf } = await loggedIn(made);
  const hold = (headers: Readonly<Record<string, string>>): Promise<Answer> =>
    made.send('DELETE', '/api/v1/points/3f2a91c04b7d8e11/hold', { cookies, headers });
  for (const headers of [
    {},
    { 'x-csrf-token': 'wrong' },
    { ...csrf, origin: 'https://evil.example.org' },
    { ...csrf, origin: 'null' },
    { ...csrf, 'sec-fetch-site': 'cross-site' },
    { ...csrf, 'sec-fetch-site': 'same-site' },
  ]) {
    const { status, body } = await hold(headers);
    assert.deepEqual([status, body['code']], [403, 'FORBIDDEN'], JSON.stringify(headers));
  }
  assert.equal(
    made.fake.calls.some(({ name }) => name === 'release'),
    false,
  );
  assert.equal((await hold({ ...csrf, origin: 'http://localhost', 'sec-fetch-site': 'same-origin' })).status, 200);
  assert.equal((await hold(csrf)).status, 200);
  const session = await made.send('GET', '/api/v1/session', { cookies });
  assert.equal(session.body['csrfToken'], csrf['x-csrf-token']);
});

test('logging out ends the session, and a session that has ended lets one log in again', async (t) => {
  const made = await rig(t);
  const { cookies, csrf } = await loggedIn(made);
  assert.equal((await made.send('DELETE', '/api/v1/session', { cookies })).status, 403);
  assert.equal((await made.send('DELETE', '/api/v1/session', { cookies, headers: csrf })).status, 200);
  assert.equal((await made.send('GET', '/api/v1/session', { cookies })).status, 401);
  const again = await made.send('POST', '/api/v1/session', { cookies, body: { name: 'ann', password: TEST_PASSWORD } });
  assert.equal(again.status, 200);
});

test('an API token needs no cookie and no header of a page; a wrong one is refused everywhere', async (t) => {
  const made = await rig(t);
  const ann = await userOf(made.access, 'ann', 'operator');
  const { token } = await made.access.tokens.create(ann, { name: 'ci' });
  const bearer = (text: string): SendOptions => ({ headers: { authorization: `Bearer ${text}` } });
  assert.equal(
    (await made.send('POST', '/api/v1/points/3f2a91c04b7d8e11/undelete', { ...bearer(token), body: {} })).status,
    200,
  );
  const denied = await made.send('DELETE', '/api/v1/points/3f2a91c04b7d8e11', bearer(token));
  assert.deepEqual([denied.status, denied.body['code']], [403, 'FORBIDDEN']);
  assert.deepEqual(
    made.events.map(({ action, outcome, from }) => [action, outcome, from]),
    [['delete', 'denied', '192.0.2.1']],
  );
  for (const headers of [
    { authorization: 'Bearer x' },
    { authorization: `Bearer ${token.replace(/.$/, 'x')}` },
    { authorization: 'Basic YTpi' },
    { authorization: '' },
  ]) {
    assert.equal((await made.send('GET', '/api/v1/points', { headers })).status, 401);
  }
});

test('a restorer with a token sees its machines, and every other is forbidden', async (t) => {
  const made = await rig(t);
  const rex = await userOf(made.access, 'rex', 'restorer', ['11111111-2222-4333-8444-555555555555']);
  const { token } = await made.access.tokens.create(rex, { name: 'x' });
  const headers = { authorization: `Bearer ${token}` };
  const points = await made.send('GET', '/api/v1/points', { headers });
  assert.deepEqual([points.status, (points.body['items'] as unknown[]).length], [200, 0]);
  const one = await made.send('GET', '/api/v1/points/3f2a91c04b7d8e11', { headers });
  const none = await made.send('GET', '/api/v1/points/0000000000000000', { headers });
  assert.deepEqual([one.status, none.status], [403, 403]);
  assert.equal((await made.send('GET', '/api/v1/users', { headers })).status, 403);
  assert.equal((await made.send('GET', '/api/v1/tokens', { headers })).status, 200);
  assert.equal(
    (await made.send('POST', '/api/v1/booted', { headers, body: { point: '3f2a91c04b7d8e11' } })).status,
    403,
  );
});

test('a second factor is asked for with the password, and guesses have to wait, elsewhere they do not', async (t) => {
  const { access, clock, send: ask, events } = await rig(t);
  const { id } = await userOf(access, 'ann', 'admin');
  const app = URI.parse((await access.secondFactor.enrol(id)).uri);
  const code = (): string => app.generate({ timestamp: clock.timeMs } as never);
  await access.secondFactor.confirm(id, code());
  clock.timeMs += 30_000;
  const login = (body: object, address?: string): Promise<Answer> =>
    ask('POST', '/api/v1/session', {
      body: { name: 'ann', password: TEST_PASSWORD, ...body },
      ...(address === undefined ? {} : { address }),
    });
  assert.equal((await login({})).body['code'], 'SECOND_FACTOR_NEEDED');
  for (let i = 0; i < 4; i += 1) assert.equal((await login({ code: '000000' })).body['code'], 'LOGIN_FAILED');
  const limited = await login({ code: code() });
  assert.deepEqual([limited.status, limited.body['code']], [429, 'LOGIN_LIMITED']);
  assert.equal((await login({ code: code() }, '192.0.2.9')).status, 200);
  assert.deepEqual(
    events.map(({ action, outcome, code: error }) => [action, outcome, error]),
    [...Array.from({ length: 4 }, () => ['login', 'denied', 'LOGIN_FAILED']), ['login', 'ok', null]],
  );
  const text = JSON.stringify(events);
  assert.equal(text.includes(TEST_PASSWORD), false);
});

test('what a login is sent is checked, and a page of another site cannot log anybody in', async (t) => {
  const { access, send: ask } = await rig(t);
  await userOf(access, 'ann', 'admin');
  for (const body of [{}, { name: 'ann' }, { name: 1, password: 'x' }, { name: 'x'.repeat(500), password: 'x' }, []]) {
    assert.equal((await ask('POST', '/api/v1/session', { body })).status, 400);
  }
  const body = { name: 'ann', password: TEST_PASSWORD };
  const headers = { origin: 'https://evil.example.org' };
  assert.equal((await ask('POST', '/api/v1/session', { body, headers })).status, 403);
});

test('the link of the first start makes the administrator, on a page without anything from elsewhere', async (t) => {
  const { access, send: ask, events } = await rig(t);
  const { secret } = await access.invitations.setup();
  const page = await ask('GET', '/setup');
  assert.equal(page.status, 200);
  assert.match(String(page.body['text']), /<script src="\/setup\.js" defer>/);
  assert.equal(/\son[a-z]+=|style=|https?:\/\//.test(String(page.body['text'])), false);
  assert.match(String((await ask('GET', '/setup.js')).headers['content-type']), /javascript/);
  const body = { token: secret, name: 'ann', password: TEST_PASSWORD };
  assert.equal((await ask('POST', '/api/v1/setup', { body: { ...body, password: 'short' } })).status, 400);
  assert.deepEqual((await ask('POST', '/api/v1/setup', { body })).body, { name: 'ann' });
  assert.equal((await ask('POST', '/api/v1/setup', { body })).status, 401);
  assert.equal((await ask('POST', '/api/v1/session', { body: { name: 'ann', password: TEST_PASSWORD } })).status, 200);
  assert.deepEqual(
    events.map(({ action, who }) => [action, who.name]),
    [
      ['setup', 'ann'],
      ['login', 'ann'],
    ],
  );
});

test('single sign-on leads to a session, in the browser that began it', async (t) => {
  const { access, send: ask } = await rig(t);
  const provider = t.use(await startIdentityProvider(`${ORIGIN}/sign-on/callback`));
  provider.accounts.set('s-1', { name: 'ann', email: 'ann@example.org', groups: ['backup'] });
  provider.subject = 's-1';
  assert.equal((await ask('GET', '/sign-on')).status, 404);
  const singleSignOn = {
    issuer: provider.issuer,
    clientId: provider.clientId,
    clientSecret: access.box.seal(CLIENT_SECRET_PLACE, provider.clientSecret),
    origin: ORIGIN,
    scopes: ['profile', 'email', 'groups'],
    groupsClaim: 'groups',
    roles: [{ group: 'backup', role: 'operator' as const, machines: null }],
    createsUsers: true,
  };
  await access.settings.change({ singleSignOn }, 0);
  const start = await ask('GET', '/sign-on');
  assert.equal(start.status, 302);
  assert.match(String(start.headers['set-cookie']), /^sign-on=.*; HttpOnly; SameSite=Lax; Max-Age=600$/);
  const back = await provider.follow(String(start.headers['location']));
  const path = `${back.pathname}${back.search}`;
  assert.equal((await ask('GET', path)).body['code'], 'SIGN_ON_FAILED');
  const arrived = await ask('GET', path, { cookies: { 'sign-on': start.cookies['sign-on'] ?? '' } });
  assert.equal(arrived.status, 200);
  const who = await ask('GET', '/api/v1/whoami', { cookies: { session: arrived.cookies['session'] ?? '' } });
  assert.deepEqual([who.body['name'], who.body['role']], ['ann', 'operator']);
});
