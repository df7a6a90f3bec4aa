// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { isOperationName, OPERATION_ROUTES, withoutSecrets } from '../../../appliance/api/operation-routes.ts';
import { MAX_REQUESTS } from '../../../appliance/api/server/activity.ts';
import { IDEMPOTENCY_WINDOW_MS, IdempotencyKeys, MAX_KEPT_ANSWERS } from '../../../appliance/api/server/idempotency.ts';
import type { Page } from '../../../appliance/api/server/page.ts';
import { ERROR_STATUS } from '../../../appliance/api/server/problem.ts';
import { ERROR_TABLE, type ErrorCode } from '../../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { apiService, ask, user } from '../../support/api-service.ts';
import { fakeResults } from '../../support/fake-results.ts';
import { suite } from '../../support/suite.ts';

const test = suite('requests to the service');

test('lists come in pages; the client gets them whole', async (t) => {
  const [point] = fakeResults.points;
  assert.ok(point !== undefined);
  const points = Array.from({ length: 2_345 }, (_, index) => ({
    ...point,
    sizeBytes: index,
    machine: `m${index % 3}`,
  }));
  const numbered = points.map((one, index) => ({
    ...one,
    id: `${one.id.slice(0, 11)}${String(index).padStart(5, '0')}` as typeof one.id,
  }));
  const { endpoint, remote } = await apiService(t, { points: async () => numbered });
  const first = (await ask(endpoint, 'GET', '/api/v1/points?limit=2&sort=-sizeBytes')).value as Page;
  assert.deepEqual(first.items, [numbered[2344], numbered[2343]]);
  assert.equal(first.total, 2_345);
  const query = `limit=2&sort=-sizeBytes&after=${first.next}`;
  const second = (await ask(endpoint, 'GET', `/api/v1/points?${query}`)).value as Page;
  assert.deepEqual(second.items, [numbered[2342], numbered[2341]]);
  const context = { principal: user('admin'), signal: new AbortController().signal };
  const all = await remote.points({}, { ...context, onProgress: () => undefined, onNotice: () => undefined });
  assert.deepEqual(all, numbered);
});

test('an unchanged answer is told without its body', async (t) => {
  const { endpoint, fake } = await apiService(t);
  const { headers } = await ask(endpoint, 'GET', '/api/v1/points');
  const etag = String(headers['etag']);
  for (const seen of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
    const again = await ask(endpoint, 'GET', '/api/v1/points', { headers: { 'if-none-match': seen } });
    assert.deepEqual([again.status, again.value, again.headers['etag']], [304, '', etag]);
  }
  fake.behaviour = { points: async () => [] };
  const changed = await ask(endpoint, 'GET', '/api/v1/points', { headers: { 'if-none-match': etag } });
  assert.deepEqual([changed.status, (changed.value as Page).total], [200, 0]);
});

test('a run that is asked for twice with one key is started once; another request with the key is refused', async (t) => {
  const { endpoint, fake } = await apiService(t);
  const headers = { 'idempotency-key': 'night-of-the-22nd' };
  const body = { target: 'web' };
  const [one, two] = await Promise.all([
    ask(endpoint, 'POST', '/api/v1/backups', { body, headers }),
    ask(endpoint, 'POST', '/api/v1/backups', { body, headers }),
  ]);
  assert.equal(one.status, 202);
  assert.deepEqual(two.value, one.value);
  assert.equal(two.headers['location'], one.headers['location']);
  const other = await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'db' }, headers });
  assert.deepEqual([other.status, (other.value as { code: string }).code], [422, 'IDEMPOTENCY_CONFLICT']);
  assert.equal((await ask(endpoint, 'POST', '/api/v1/backups', { body })).status, 202);
  assert.equal(fake.calls.filter(({ name }) => name === 'backup').length, 2);
  const wrong = await ask(endpoint, 'POST', '/api/v1/backups', { body, headers: { 'idempotency-key': 'a b' } });
  assert.equal(wrong.status, 400);
});

test('what failed can be tried again with its key', async (t) => {
  const { endpoint, fake } = await apiService(t, {
    delete: () => Promise.reject(new ApplianceError('POINT_IN_USE', 'in use')),
  });
  const headers = { 'idempotency-key': 'once' };
  const first = await ask(endpoint, 'DELETE', '/api/v1/points/3f2a', { headers });
  assert.deepEqual([first.status, (first.value as { code: string }).code], [409, 'POINT_IN_USE']);
  fake.behaviour = {};
  assert.equal((await ask(endpoint, 'DELETE', '/api/v1/points/3f2a', { headers })).status, 200);
});

test('keys of different callers are different keys, and old ones are forgotten', async () => {
  const clock = { ms: 0, nowMs: () => 0, elapsedMs: () => clock.ms };
  const keys = new IdempotencyKeys(clock);
  let performed = 0;
  const request = (key: string, principal = user('admin')): Promise<unknown> =>
    keys.answer({ key, principal, method: 'POST', url: '/x', body: {} }, async () => {
      performed += 1;
      return { status: 200, headers: {}, body: String(performed) };
    });
  await request('a');
  await request('a');
  assert.equal(performed, 1);
  await request('a', user('operator'));
  assert.equal(performed, 2);
  clock.ms = IDEMPOTENCY_WINDOW_MS + 1;
  await request('a');
  assert.equal(performed, 3);
  for (let index = 0; index < MAX_KEPT_ANSWERS; index += 1) await request(`b${index}`);
  const before = performed;
  await request('a');
  assert.equal(performed, before + 1);
});

test('an error is a problem document with its code, its status and the id of its request', async (t) => {
  const { endpoint } = await apiService(t, {
    pointShow: () =>
      Promise.reject(new ApplianceError('POINT_NOT_FOUND', 'there is none', { hint: 'Look.', details: { a: 1 } })),
  });
  const headers = { 'x-request-id': 'my-request-17' };
  const { status, value, headers: answered } = await ask(endpoint, 'GET', '/api/v1/points/web%40latest', { headers });
  assert.deepEqual([status, answered['content-type']], [404, 'application/problem+json; charset=utf-8']);
  assert.deepEqual(value, {
    type: 'urn:understudy:error:POINT_NOT_FOUND',
    title: 'Point not found',
    status: 404,
    code: 'POINT_NOT_FOUND',
    message: 'there is none',
    hint: 'Look.',
    details: { a: 1 },
    requestId: 'my-request-17',
  });
  const forged = await ask(endpoint, 'GET', '/api/v1/nothing', { headers: { 'x-request-id': 'a b\tc"d{}' } });
  assert.match(String(forged.headers['x-request-id']), /^[0-9a-f-]{36}$/);
});

test('every code has a status, and only damage and defects are 500', () => {
  for (const code of Object.keys(ERROR_TABLE) as ErrorCode[]) {
    const status = ERROR_STATUS[code];
    assert.ok(status >= 400 && status < 600, code);
    const isNotFound = ERROR_TABLE[code].exit === 'notFound' && code !== 'VOLUME_NOT_FOUND';
    if (isNotFound) assert.equal(status, 404, code);
    if (ERROR_TABLE[code].exit === 'usage') assert.ok(status < 500, code);
  }
});

test('more requests than there may be at once are told to come again', async (t) => {
  const release = Promise.withResolvers<void>();
  const { endpoint, fake } = await apiService(t, {
    points: async () => {
      await release.promise;
      return [];
    },
  });
  const waiting = Array.from({ length: MAX_REQUESTS }, () => ask(endpoint, 'GET', '/api/v1/points'));
  while (fake.calls.length < MAX_REQUESTS) await new Promise((resolve) => setImmediate(resolve));
  const refused = await ask(endpoint, 'GET', '/api/v1/repository');
  assert.deepEqual([refused.status, (refused.value as { code: string }).code], [503, 'TOO_BUSY']);
  assert.equal(refused.headers['retry-after'], '1');
  assert.equal((await ask(endpoint, 'GET', '/health/live')).status, 200);
  release.resolve();
  for (const { status } of await Promise.all(waiting)) assert.equal(status, 200);
});

test('parameters of every kind arrive as the operation takes them', async (t) => {
  const { endpoint, fake } = await apiService(t);
  const paths = [
    '/api/v1/points/web%40%225%20minutes%20ago%22%2F..%2Fx',
    '/api/v1/points/..%2F..%2Fetc',
    '/api/v1/points/%C3%BC',
  ];
  for (const path of paths) assert.equal((await ask(endpoint, 'GET', path)).status, 200);
  await ask(endpoint, 'DELETE', '/api/v1/points/3f2a?now=true');
  await ask(endpoint, 'GET', '/api/v1/retention/preview?all=true&keepDaily=7&keepWithin=14d');
  await ask(endpoint, 'PUT', '/api/v1/points/3f2a/hold', { body: { reason: 'audit' } });
  assert.deepEqual(
    fake.calls.map(({ params }) => params),
    [
      { point: 'web@"5 minutes ago"/../x' },
      { point: '../../etc' },
      { point: 'ü' },
      { point: '3f2a', now: true },
      { all: true, keepDaily: 7, keepWithin: '14d' },
      { point: '3f2a', reason: 'audit' },
    ],
  );
  assert.equal((await ask(endpoint, 'GET', '/api/v1/points/%E0%A4%A')).status, 400);
});

test('secrets of an operation are neither logged nor kept', () => {
  for (const name of Object.keys(OPERATION_ROUTES).filter(isOperationName)) {
    const { secrets = [] } = OPERATION_ROUTES[name];
    const params = Object.fromEntries(['name', ...secrets].map((member) => [member, 'hidden']));
    assert.deepEqual(withoutSecrets(name, params), { name: 'hidden' });
  }
});

test('only JSON is read, with or without its length', async (t) => {
  const { endpoint, fake } = await apiService(t);
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
    const { status, value } = await ask(endpoint, 'POST', '/api/v1/backups', {
      body: { target: 'web' },
      headers: { 'content-type': type },
    });
    assert.deepEqual([status, (value as { code: string }).code], [415, 'BAD_ARGUMENT']);
  }
  assert.equal(fake.calls.length, 0);
});
