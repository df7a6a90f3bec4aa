// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { pino } from 'pino';
import { isAtLeast, type Role } from '../../../appliance/access/principal.ts';
import type { ApplianceHost } from '../../../appliance/api/appliance-host.ts';
import { openApiDocument } from '../../../appliance/api/openapi/document.ts';
import { isOperationName, neededRole, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import type { OperationName } from '../../../appliance/api/operations.ts';
import { ApiServer } from '../../../appliance/api/server/api-server.ts';
import { withAccess } from '../../../appliance/app/access/with-access.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { accessRig, LOCAL, type TestClock, userOf } from '../../support/access-rig.ts';
import { FakeAppliance, type FakeBehaviour } from '../../support/fake-appliance.ts';
import { FAKE_POINT_ID, fakeResults } from '../../support/fake-results.ts';
import type { Json } from '../../support/fuzz/api-contract.ts';
import { fuzzApi } from '../../support/fuzz/api-fuzz.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('roles over the network', { timeoutMs: 60_000 });
const NAMES = Object.keys(OPERATION_ROUTES).filter(isOperationName);
const OWN = fakeResults.machine.id;

/** Everything about the machine that the restorer was not given; none of it may be in anything that it is sent. */
const FOREIGN = {
  id: '5ec7e75e-c7e7-45ec-87e7-5ec7e75ec7e7',
  name: 'payroll-hidden',
  point: 'f00df00df00df00d',
  booted: 'payroll-drill',
  sizeBytes: 98_765_432_123,
} as const;
const PLANTS: readonly string[] = Object.values(FOREIGN).map(String);

interface Rig {
  readonly url: string;
  readonly host: ApplianceHost;
  readonly fake: FakeAppliance;
  readonly clock: TestClock;
  readonly tokens: Readonly<Record<Role, string>>;
  readonly revoked: string;
  readonly expired: string;
}

/** Two machines, one of which the restorer may have; and in every list something of each. */
function behaviour(): FakeBehaviour {
  const [own] = fakeResults.points;
  assert.ok(own !== undefined);
  const { id, name: machine, point, sizeBytes } = FOREIGN;
  const shown = fakeResults.pointShow;
  const pointOf = (of: { id: string; machine: { id: string; name: string } }): typeof shown =>
    ({ ...shown, point: { ...shown.point, ...of } }) as unknown as typeof shown;
  return {
    points: async () => [
      { ...own, id: FAKE_POINT_ID, machineId: OWN },
      { ...own, id: point, machine, machineId: id, sizeBytes, dataBytes: sizeBytes },
    ],
    protection: async () => [fakeResults.protection, { ...fakeResults.protection, machine, machineId: id }],
    machineList: async () => [fakeResults.machineSummary, { ...fakeResults.machineSummary, id, name: machine }],
    booted: async () => [fakeResults.booted, { ...fakeResults.booted, name: FOREIGN.booted, machineId: id, point }],
    pointShow: async ({ point: asked }) => {
      if (asked === point || asked.startsWith(`${machine}@`))
        return pointOf({ id: point, machine: { id, name: machine } });
      if (asked === FAKE_POINT_ID || asked.startsWith('web@')) {
        return pointOf({ id: FAKE_POINT_ID, machine: { id: OWN, name: 'web' } });
      }
      throw new ApplianceError('POINT_NOT_FOUND', `there is no recovery point ${asked}`);
    },
  };
}

async function rig(t: TestContext): Promise<Rig> {
  const { access, clock } = await accessRig(t);
  const fake = new FakeAppliance(behaviour());
  const recorder = { record: async () => ({ sequence: 1 }) };
  const host: ApplianceHost = withAccess(fake.asAppliance(), access, { whole: () => host, recorder });
  const server = t.use(
    await ApiServer.listen({
      host,
      stateDirectory: await t.tempDir(),
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => fake.defects.push(violation),
      onStop: () => undefined,
    }),
  );
  assert.ok(host.networkAccess !== undefined);
  const [listener] = await server.listenOnNetwork({ http: '127.0.0.1:0' }, host.networkAccess);
  const tokenOf = async (role: Role): Promise<string> => {
    const maker = await userOf(access, `the-${role}`, role, role === 'restorer' ? [OWN] : undefined);
    const { token } = await access.tokens.create(maker, {
      name: role,
      role,
      ...(role === 'restorer' ? { machines: [OWN] } : {}),
    });
    return token;
  };
  const tokens = {
    restorer: await tokenOf('restorer'),
    viewer: await tokenOf('viewer'),
    operator: await tokenOf('operator'),
    admin: await tokenOf('admin'),
  };
  const revoked = await access.tokens.create(LOCAL, { name: 'revoked', role: 'admin' });
  await access.tokens.revoke(revoked.entry.id);
  const expired = await access.tokens.create(LOCAL, { name: 'old', role: 'admin', expiresAtMs: clock.nowMs() + 1 });
  clock.timeMs += 60_000;
  return { url: listener?.url ?? '', host, fake, clock, tokens, revoked: revoked.token, expired: expired.token };
}

interface Answer {
  readonly status: number;
  /** Everything that came, without the id of the request. */
  readonly text: string;
  readonly value: Json;
}

async function ask(
  { url }: Rig,
  what: string,
  options: { readonly token?: string | undefined; readonly body?: unknown } = {},
): Promise<Answer> {
  const [method = '', path = ''] = what.split(' ');
  const { token, body } = options;
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const content = (await response.text()).replaceAll('%40', '@').replace(/"requestId":"[^"]*"/, '');
  const headers = [...response.headers].filter(([name]) => name !== 'x-request-id' && name !== 'date');
  const value = content.startsWith('{') ? (JSON.parse(content.replace(/,}$/, '}')) as Json) : {};
  return { status: response.status, text: `${JSON.stringify(headers)} ${content}`, value };
}

/** Method and path of an operation with this in place of every parameter of the path. */
function placeOf(name: OperationName, value: string): string {
  const [method, path = ''] = OPERATION_ROUTES[name].http.split(' ');
  return `${method} /api/v1${path.replaceAll(/:[A-Za-z]+/g, encodeURIComponent(value))}`;
}

test('without a token that holds, every operation says the same, whatever is asked for', async (t) => {
  const made = await rig(t);
  const answers = new Set<string>();
  for (const token of [undefined, made.revoked, made.expired, 'nonsense', `${made.tokens.admin}x`]) {
    for (const name of NAMES) {
      if (OPERATION_ROUTES[name].http.startsWith('POST /session')) continue;
      const value = answers.size % 2 === 0 ? FAKE_POINT_ID : 'nobody';
      const { status, text } = await ask(made, placeOf(name, value), { token });
      assert.equal(status, 401, `${name}: ${text}`);
      answers.add(text);
    }
  }
  assert.equal(answers.size, 2, [...answers].join('\n'));
  assert.deepEqual(made.fake.calls, []);
});

test('what a role may not do is refused before anything is looked at', async (t) => {
  const made = await rig(t);
  for (const role of ['viewer', 'operator'] as const) {
    for (const name of NAMES) {
      const route = OPERATION_ROUTES[name];
      if (isAtLeast(role, neededRole(route, {}))) continue;
      const texts = new Set<string>();
      for (const value of [FOREIGN.point, 'nobody']) {
        const { status, value: problem } = await ask(made, placeOf(name, value), { token: made.tokens[role] });
        assert.ok(status === 403 || (status === 400 && route.restorer !== undefined), `${role} ${name}: ${status}`);
        texts.add(JSON.stringify({ ...problem, message: '' }));
      }
      assert.equal(texts.size, 1, [...texts].join('\n'));
    }
  }
  assert.deepEqual(
    made.fake.calls.filter(({ context }) => context.principal.kind === 'token').map(({ name }) => name),
    [],
  );
});

test('a restorer learns nothing of another machine, by whatever it asks', async (t) => {
  const made = await rig(t);
  const token = made.tokens.restorer;
  const { host } = made;
  const run = host.runService.start({
    operation: 'backup',
    params: { target: FOREIGN.name },
    principal: LOCAL,
    machineId: FOREIGN.id,
  });
  await run.ended;
  const shows = (answer: Answer, asked: string): void => {
    for (const plant of PLANTS.filter((one) => !asked.includes(one))) {
      assert.equal(answer.text.includes(plant), false, `${asked} shows ${plant}: ${answer.text}`);
    }
  };
  for (const name of NAMES) {
    const known = await ask(made, placeOf(name, 'web'), { token });
    shows(known, name);
    // What is there and what is not are the same, but for the name that was given.
    if (!/:/.test(OPERATION_ROUTES[name].http)) continue;
    for (const [foreign, nobody] of [
      [FOREIGN.name, 'nobody-at-all1'],
      [FOREIGN.point, 'deaddeaddeaddead'],
      [FOREIGN.id, '00000000-c7e7-45ec-87e7-5ec7e75ec7e7'],
      [FOREIGN.booted, 'nobody-drill1'],
      [`${FOREIGN.name}@latest`, 'nobody-at-all1@latest'],
      [run.id, 'deaddeaddeaddead'],
    ] as const) {
      const there = await ask(made, placeOf(name, foreign), { token });
      const missing = await ask(made, placeOf(name, nobody), { token });
      shows(there, foreign);
      assert.equal(there.text.replaceAll(foreign, nobody), missing.text, `${name} of ${foreign}`);
    }
  }
});

test('the lists of a restorer have one total, its own, however they are filtered and sorted', async (t) => {
  const made = await rig(t);
  for (const name of ['points', 'protection', 'machineList', 'booted', 'runs'] as const) {
    const path = placeOf(name, '');
    const { text, value } = await ask(made, path, { token: made.tokens.restorer });
    assert.equal(value['total'], name === 'runs' ? 0 : 1, `${name}: ${text}`);
    const viewer = await ask(made, path, { token: made.tokens.viewer });
    assert.equal(viewer.value['total'], name === 'runs' ? 0 : 2, `${name}: ${viewer.text}`);
    for (const query of [
      `machine=${FOREIGN.name}`,
      `machineId=${FOREIGN.id}`,
      `id=${FOREIGN.point}`,
      'sort=-id',
      'limit=1',
    ]) {
      const one = await ask(made, `${path}?${query}`, { token: made.tokens.restorer });
      assert.ok(Number(one.value['total'] ?? 0) <= 1);
      for (const plant of PLANTS)
        assert.equal(one.text.replaceAll(query.split('=')[1] ?? '', '').includes(plant), false);
    }
  }
});

test('runs of other machines are no runs for a restorer, and the streams of events are silent about them', async (t) => {
  const made = await rig(t);
  const { host, tokens } = made;
  const controller = new AbortController();
  t.use({ close: () => controller.abort() });
  const response = await fetch(`${made.url}/api/v1/events`, {
    headers: { authorization: `Bearer ${tokens.restorer}` },
    signal: controller.signal,
  });
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  const params = { target: FOREIGN.name };
  const foreign = host.runService.start({ operation: 'backup', params, principal: LOCAL, machineId: FOREIGN.id });
  await foreign.ended;
  const unknown = host.runService.start({ operation: 'backup', params, principal: LOCAL });
  await unknown.ended;
  const own = host.runService.start({
    operation: 'backup',
    params: { target: 'web' },
    principal: LOCAL,
    machineId: OWN,
  });
  await own.ended;
  host.eventHub.publish('points', { operation: 'last' }, OWN);
  let heard = '';
  while (!heard.includes('"last"')) heard += (await reader?.read())?.value ?? assert.fail('it ended');
  assert.ok(heard.includes(own.id));
  for (const plant of [...PLANTS, foreign.id, unknown.id])
    assert.equal(heard.includes(plant), false, `${plant}: ${heard}`);
  const refused = new Set<string>();
  for (const id of [foreign.id, unknown.id, foreign.id.slice(0, 4), 'deaddeaddeaddead', 'dead', 'x']) {
    const { text } = await ask(made, `GET /api/v1/runs/${id}/events`, { token: tokens.restorer });
    refused.add(text.replaceAll(`"${id}"`, ''));
  }
  assert.equal(refused.size, 1, [...refused].join('\n'));
});

test('hostile requests of a restorer get nothing that is not its own', async (t) => {
  const made = await rig(t);
  const { port } = new URL(made.url);
  const { requests } = await fuzzApi({
    peer: { port: Number(port), tls: undefined },
    document: openApiDocument() as Json,
    seed: 20_261_122,
    runs: 3,
    headers: [`Authorization: Bearer ${made.tokens.restorer}`],
    isChosen: ({ id }) => id !== 'serviceStop',
    forbidden: PLANTS,
    afterEach: () => made.fake.defects.map(String).join('; '),
  });
  assert.ok(requests > 150);
});
