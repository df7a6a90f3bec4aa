// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import { DOCS_PATH } from '../../../appliance/api/openapi/documentation-routes.ts';
import { EXTRA_ROUTES } from '../../../appliance/api/openapi/extra-routes.ts';
import { LOGIN_ROUTES } from '../../../appliance/api/openapi/login-routes.ts';
import { API_ROOT, isOperationName, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import { buildApiApp } from '../../../appliance/api/server/api-app.ts';
import type { ApiContext, ApiExtension } from '../../../appliance/api/server/api-context.ts';
import { ApiServer } from '../../../appliance/api/server/api-server.ts';
import { networkAccess } from '../../../appliance/api/server/login/network-access.ts';
import { StreamRoutes } from '../../../appliance/api/server/stream-routes.ts';
import { accessRig } from '../../support/access-rig.ts';
import { FakeAppliance } from '../../support/fake-appliance.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('documented and served routes');

/** What the unix socket has besides: who may signal the process may ask it to end. */
const LOCAL_ONLY: readonly string[] = [`POST ${API_ROOT}/service/stop`];

/** Of the page, what the document does not describe. */
function isOfPage(http: string): boolean {
  return http.startsWith(`GET ${DOCS_PATH}/`);
}

function documented(): readonly string[] {
  const operations = Object.keys(OPERATION_ROUTES)
    .filter(isOperationName)
    .map((name) => OPERATION_ROUTES[name].http.replace(' ', ` ${API_ROOT}`));
  return [...operations, ...EXTRA_ROUTES.map(({ http }) => http)].map(unnamed).toSorted();
}

/** Without the names of parameters: those of one place may have several. */
function unnamed(http: string): string {
  return http.replace(/:[A-Za-z]+(\|:[A-Za-z]+)*/g, ':');
}

/** What fastify's tree of routes says, one route a line. */
function served(app: FastifyInstance): readonly string[] {
  const parts: string[] = [];
  const routes = app
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const found = /^((?:│ {3}| {4})*)(?:├── |└── )(.*?)(?: \(([A-Z, ]+)\))?$/.exec(line);
      if (found === null) return [];
      const [, indent = '', part = '', methods = ''] = found;
      parts.splice(indent.length / 4, Number.POSITIVE_INFINITY, part);
      const path = parts.join('');
      return methods.split(', ').flatMap((method) => (method === '' || method === 'HEAD' ? [] : [`${method} ${path}`]));
    });
  return [...new Set(routes.map(unnamed))].toSorted();
}

/** The routes of the unix socket, and what they work with. */
async function localRoutes(t: TestContext): Promise<{ readonly app: FastifyInstance; readonly context: ApiContext }> {
  let found: { readonly app: FastifyInstance; readonly context: ApiContext } | undefined;
  t.use(
    await ApiServer.listen({
      host: new FakeAppliance().asAppliance(),
      stateDirectory: await t.tempDir(),
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => assert.fail(violation),
      onStop: () => undefined,
      extensions: [
        (app, context) => {
          found = { app, context };
        },
      ],
    }),
  );
  return found ?? assert.fail('the extension was not called');
}

test('the unix socket has the documented routes but the page and logging in, and no others', async (t) => {
  const { app } = await localRoutes(t);
  const others: readonly string[] = [`GET ${DOCS_PATH}`, ...LOGIN_ROUTES.map(({ http }) => http)];
  const expected = [...documented().filter((http) => !others.includes(http)), ...LOCAL_ONLY];
  assert.deepEqual(served(app), expected.toSorted());
});

/** What the network has besides: logging in. */
async function loginRoutes(t: TestContext, { host }: ApiContext): Promise<readonly ApiExtension[]> {
  const { access } = await accessRig(t);
  const recorder = { record: async () => ({ sequence: 1 }) };
  return networkAccess({ access, guard: host.guard, recorder }).extensions ?? [];
}

test('other listeners have the documented routes, and no others but those of the page', async (t) => {
  const { context } = await localRoutes(t);
  const principal = localPrincipal();
  const app = await buildApiApp({
    context,
    access: { authenticate: () => principal, authorize: () => undefined },
    streams: new StreamRoutes(context),
    transport: 'https',
    extensions: await loginRoutes(t, context),
    createServer: (handler) => createServer(handler),
  });
  t.use({ close: () => app.close() });
  await app.ready();
  const routes = served(app).map((http) => (http === `GET ${DOCS_PATH}` ? http : http.replace(/\/$/, '')));
  assert.deepEqual(
    [...new Set(routes)].filter((http) => !isOfPage(http)),
    documented(),
  );
});

test('the document and the page are for everybody, the rest is not', async (t) => {
  const { context } = await localRoutes(t);
  const app = await buildApiApp({
    context,
    access: { authenticate: () => undefined, authorize: () => undefined },
    streams: new StreamRoutes(context),
    transport: 'https',
    extensions: await loginRoutes(t, context),
    createServer: (handler) => createServer(handler),
  });
  t.use({ close: () => app.close() });
  const status = async (url: string): Promise<number> => (await app.inject({ url })).statusCode;
  const page = await app.inject({ url: DOCS_PATH });
  assert.equal(page.statusCode, 200);
  assert.match(String(page.headers['content-security-policy']), /script-src 'self';/);
  assert.equal(page.headers['x-frame-options'], 'DENY');
  assert.equal(await status(`${API_ROOT}/openapi.json`), 200);
  for (const { http, needs } of EXTRA_ROUTES) {
    const [method = '', path = ''] = http.split(' ');
    const { statusCode } = await app.inject({ method: method as 'GET', url: path.replace(/:[a-z]+/g, 'x') });
    assert.equal(statusCode === 401, needs !== 'public', http);
  }
  for (const name of Object.keys(OPERATION_ROUTES).filter(isOperationName)) {
    const [method = '', path = ''] = OPERATION_ROUTES[name].http.split(' ');
    const url = `${API_ROOT}${path.replace(/:[a-z]+/g, 'x')}`;
    assert.equal((await app.inject({ method: method as 'GET', url })).statusCode, 401, name);
  }
});
