// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { IncomingMessage } from 'node:http';
import type { Principal } from '../../../appliance/access/principal.ts';
import type { Endpoint } from '../../../appliance/api/client/endpoint.ts';
import { EventSource, type ServerEvent } from '../../../appliance/api/client/event-source.ts';
import { RemoteEndpoint } from '../../../appliance/api/client/remote-endpoint.ts';
import { EventHub, MAX_KEPT_EVENTS } from '../../../appliance/api/events/event-hub.ts';
import type { RunSummary } from '../../../appliance/api/schemas/runs.ts';
import { type ApiService, apiService, ask, TOKEN, tokenAccess, user } from '../../support/api-service.ts';
import { fakeResults } from '../../support/fake-results.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('events');

/** Events from now on; `next` waits for one. */
class Listening {
  readonly #source: EventSource;
  readonly #events: AsyncGenerator<ServerEvent>;

  private constructor(source: EventSource) {
    this.#source = source;
    this.#events = source.events();
  }

  static async open(endpoint: Endpoint, query = '', lastEventId?: string): Promise<Listening> {
    return new Listening(await EventSource.open(endpoint, { path: `/api/v1/events${query}`, lastEventId }));
  }

  async next(): Promise<ServerEvent> {
    const { value, done } = await this.#events.next();
    assert.notEqual(done, true, 'the stream has ended');
    return value as ServerEvent;
  }

  /** Settles when the service has ended the stream. */
  async end(): Promise<void> {
    while ((await this.#events.next()).done !== true);
  }

  close(): void {
    this.#source.close();
  }
}

async function listen(t: TestContext, endpoint: Endpoint, query = '', lastEventId?: string): Promise<Listening> {
  const listening = t.use(await Listening.open(endpoint, query, lastEventId));
  if (lastEventId === undefined) assert.equal((await listening.next()).event, 'hello');
  return listening;
}

async function asUser(
  t: TestContext,
  principal: Principal,
): Promise<ApiService & { readonly network: RemoteEndpoint }> {
  const service = await apiService(t);
  const [listener] = await service.server.listenOnNetwork({ http: '127.0.0.1:0' }, { access: tokenAccess(principal) });
  return { ...service, network: new RemoteEndpoint({ url: listener?.url ?? '', token: TOKEN }) };
}

test('a run is told from its begin to its end, and then what it changed', async (t) => {
  const { endpoint } = await apiService(t, {
    backup: async (_params, { onProgress }) => {
      onProgress({ phase: 'reading', done: 5, total: 10, unit: 'bytes' });
      return fakeResults.backup;
    },
  });
  const listening = await listen(t, endpoint);
  await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'web' } });
  const events = [];
  for (let index = 0; index < 4; index += 1) events.push(await listening.next());
  const shown = events.map(({ event, data }) => {
    const { data: own } = data as { readonly data: RunSummary };
    return [event, own.state, own.progress?.done];
  });
  assert.deepEqual(shown, [
    ['run', 'running', undefined],
    ['run', 'running', 5],
    ['run', 'succeeded', 5],
    ['points', undefined, undefined],
  ]);
  const numbers = events.map(({ id }) => Number(id?.split('-')[1]));
  assert.deepEqual(numbers, [1, 2, 3, 4]);
});

test('who comes back with the last event gets what was missed, and nothing twice', async (t) => {
  const { endpoint, remote: _ } = await apiService(t);
  const first = await listen(t, endpoint, '?type=points');
  await ask(endpoint, 'DELETE', '/api/v1/points/a');
  const seen = await first.next();
  first.close();
  await ask(endpoint, 'DELETE', '/api/v1/points/b');
  await ask(endpoint, 'DELETE', '/api/v1/points/c');
  const again = await listen(t, endpoint, '?type=points', seen.id);
  const missed = [await again.next(), await again.next()];
  assert.deepEqual(
    missed.map(({ id }) => Number(id?.split('-')[1])),
    [2, 3],
  );
});

test('a gap that is not covered, another process and nonsense are told with reset', async (t) => {
  const { endpoint } = await apiService(t);
  for (const id of ['0badcafe-17', 'nonsense', '-', '1-1-1', `${'9'.repeat(30)}-1`]) {
    const listening = await listen(t, endpoint, '', id);
    assert.equal((await listening.next()).event, 'reset');
    listening.close();
  }
  const hub = new EventHub();
  hub.publish('points', {});
  const oldest = hub.newest();
  for (let index = 0; index < 2 * MAX_KEPT_EVENTS; index += 1) hub.publish('points', {});
  assert.equal(hub.since(oldest).isComplete, false);
  assert.deepEqual(hub.since(hub.newest()), { events: [], isComplete: true });
  const [epoch, newest] = hub.newest().split('-');
  const back = hub.since(`${epoch}-${Number(newest) - MAX_KEPT_EVENTS}`);
  assert.deepEqual([back.isComplete, back.events.length], [true, MAX_KEPT_EVENTS]);
  assert.equal(hub.since(`${epoch}-${Number(newest) + 1}`).isComplete, false);
});

test('only the types that were asked for are sent, and unknown ones are refused', async (t) => {
  const { endpoint } = await apiService(t);
  const listening = await listen(t, endpoint, '?type=exports,booted');
  await ask(endpoint, 'DELETE', '/api/v1/points/a');
  await ask(endpoint, 'POST', '/api/v1/exports', { body: { point: 'x' } });
  assert.equal((await listening.next()).event, 'exports');
  for (const query of ['?type=weather', '?type=', '?type=run&type=points']) {
    assert.equal((await ask(endpoint, 'GET', `/api/v1/events${query}`)).status, 400);
  }
});

test('a restorer hears of its own machines and its own runs only', async (t) => {
  const restorer = user('restorer', ['machine-1']);
  const { server: _, fake, network, endpoint } = await asUser(t, restorer);
  const host = fake.asAppliance();
  host.eventHub.publish('points', {}, 'machine-1');
  const listening = await listen(t, network);
  fake.behaviour = {
    backup: async () => ({ ...fakeResults.backup, machineId: 'machine-2' }),
    boot: async () => ({ ...fakeResults.boot, machineId: 'machine-1' }),
  };
  await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'other' } });
  await ask(network, 'POST', '/api/v1/booted', { body: { point: 'mine@latest' } });
  const first = await listening.next();
  const { data } = first.data as { readonly data: RunSummary };
  assert.deepEqual([first.event, data.operation, data.machine], ['run', 'boot', 'mine']);
});

test('a run of another machine is not shown to a restorer as it goes on', async (t) => {
  const { network, endpoint } = await asUser(t, user('restorer', ['machine-1']));
  const started = await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'other' } });
  const { id } = started.value as { readonly id: string };
  assert.equal((await ask(network, 'GET', `/api/v1/runs/${id}/events`)).status, 403);
  assert.equal((await ask(endpoint, 'GET', `/api/v1/runs/${id}/events`)).status, 200);
});

test('a client that does not read is cut off, and the others are not', async (t) => {
  const { endpoint, fake } = await apiService(t);
  const reader = await listen(t, endpoint, '?type=notice');
  const idle = endpoint.send({ method: 'GET', path: '/api/v1/events?type=notice' });
  const closed = Promise.withResolvers<void>();
  idle.on('error', () => undefined);
  const response = await new Promise<IncomingMessage>((resolve) => idle.once('response', resolve));
  response.pause();
  response.socket.pause();
  response.socket.once('close', () => closed.resolve());
  const release = Promise.withResolvers<void>();
  const size = 3_000;
  fake.behaviour = {
    backup: async (_params, { onNotice }) => {
      for (let index = 0; index < size; index += 1) {
        onNotice(`${index} ${'x'.repeat(3_000)}`);
        if (index % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      release.resolve();
      return fakeResults.backup;
    },
  };
  await ask(endpoint, 'POST', '/api/v1/backups', { body: { target: 'web' } });
  for (let index = 0; index < size; index += 1) await reader.next();
  await release.promise;
  response.socket.resume();
  response.on('error', () => undefined).resume();
  await closed.promise;
});

test('a stream ends with the token that opened it', async (t) => {
  const { server, fake } = await apiService(t);
  let isValid = true;
  const access = { ...tokenAccess(user('viewer')), authenticate: () => (isValid ? user('viewer') : undefined) };
  const [listener] = await server.listenOnNetwork({ http: '127.0.0.1:0' }, { access });
  const listening = await listen(t, new RemoteEndpoint({ url: listener?.url ?? '', token: TOKEN }));
  fake.asAppliance().eventHub.publish('points', {});
  isValid = false;
  await listening.end();
});
