// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { pino } from 'pino';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import { LocalEndpoint, responseOf } from '../../../appliance/api/client/endpoint.ts';
import { findService } from '../../../appliance/api/client/find-service.ts';
import { type RemoteAppliance, remoteAppliance } from '../../../appliance/api/client/remote-appliance.ts';
import { controlSocketPath, listenAt } from '../../../appliance/api/control-socket.ts';
import type { OperationContext, Progress } from '../../../appliance/api/operations.ts';
import { programVersion } from '../../../appliance/api/program-version.ts';
import { MAX_REQUEST_BYTES } from '../../../appliance/api/server/api-app.ts';
import { ApiServer } from '../../../appliance/api/server/api-server.ts';
import { PROBLEM_TYPE } from '../../../appliance/api/server/problem.ts';
import { ApplianceError, hasCode } from '../../../appliance/core/errors.ts';
import { invariant } from '../../../appliance/core/invariant.ts';
import { FakeAppliance, type FakeBehaviour } from '../../support/fake-appliance.ts';
import { fakeResults } from '../../support/fake-results.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('the service and its client');

interface Service {
  readonly directory: string;
  readonly server: ApiServer;
  readonly fake: FakeAppliance;
  readonly remote: RemoteAppliance;
  readonly defects: Error[];
}

async function startService(t: TestContext, behaviour: FakeBehaviour = {}, subdirectory = ''): Promise<Service> {
  const directory = join(await t.tempDir(), subdirectory);
  await mkdir(directory, { recursive: true });
  const fake = new FakeAppliance(behaviour);
  const defects: Error[] = [];
  const server = t.use(
    await ApiServer.listen({
      host: fake.asAppliance(),
      stateDirectory: directory,
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => defects.push(violation),
      onStop: () => undefined,
    }),
  );
  const remote = t.use(remoteAppliance(new LocalEndpoint(directory)));
  return { directory, server, fake, remote, defects };
}

interface Recorded extends OperationContext {
  readonly controller: AbortController;
  readonly progress: Progress[];
  readonly notices: string[];
}

function recording(): Recorded {
  const controller = new AbortController();
  const progress: Progress[] = [];
  const notices: string[] = [];
  return {
    principal: localPrincipal(),
    controller,
    signal: controller.signal,
    progress,
    notices,
    onProgress: (one) => progress.push(one),
    onNotice: (one) => notices.push(one),
  };
}

/** An operation that runs until its signal is aborted; `entered` and `aborted` say how far it is. */
function endless(): { behaviour: FakeBehaviour; entered: Promise<void>; aborted: Promise<string> } {
  const entered = Promise.withResolvers<void>();
  const aborted = Promise.withResolvers<string>();
  const behaviour: FakeBehaviour = {
    backup: (_params, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          aborted.resolve((signal.reason as Error).message);
          reject(new ApplianceError('ABORTED', 'stopped at a safe place'));
        });
        entered.resolve();
      }),
  };
  return { behaviour, entered: entered.promise, aborted: aborted.promise };
}

interface Answer {
  readonly status: number;
  readonly type: string | undefined;
  readonly value: unknown;
}

/** A bare request, and what came. */
async function ask(directory: string, method: string, path: string, body?: unknown): Promise<Answer> {
  const response = await responseOf(new LocalEndpoint(directory).send({ method, path, body }));
  let text = '';
  for await (const part of response.setEncoding('utf8') as AsyncIterable<string>) text += part;
  const type = response.headers['content-type']?.split(';')[0];
  return { status: response.statusCode ?? 0, type, value: JSON.parse(text) };
}

test('each operation gives through the service what it gives in the process', async (t) => {
  const { remote, fake } = await startService(t);
  const context = recording();
  const point = { point: 'web@latest' };
  assert.deepEqual(await remote.status({}, context), fakeResults.status);
  assert.deepEqual(await remote.machineList({}, context), [fakeResults.machineSummary]);
  assert.deepEqual(await remote.machineShow({ name: 'web' }, context), fakeResults.machine);
  assert.deepEqual(await remote.backup({ target: 'web', fullScan: true }, context), fakeResults.backup);
  assert.deepEqual(await remote.points({ machine: 'web' }, context), fakeResults.points);
  assert.deepEqual(await remote.pointShow(point, context), fakeResults.pointShow);
  assert.deepEqual(await remote.boot({ ...point, as: 'x' }, context), fakeResults.boot);
  assert.deepEqual(await remote.booted({}, context), [fakeResults.booted]);
  assert.deepEqual(await remote.stop({ name: 'x', discard: true }, context), fakeResults.stop);
  assert.deepEqual(await remote.restore({ ...point, to: '/x', format: 'raw' }, context), fakeResults.restore);
  assert.deepEqual(await remote.check({ readData: true }, context), fakeResults.check);
  assert.deepEqual(await remote.catalogRebuild({}, context), fakeResults.rebuild);
  assert.deepEqual(await remote.delete({ ...point, now: true }, context), fakeResults.delete);
  assert.deepEqual(await remote.undelete(point, context), fakeResults.delete);
  assert.deepEqual(await remote.gc({ now: true }, context), fakeResults.gc);
  assert.deepEqual(await remote.migrate({ name: 'x', pool: 'y', bandwidth: 4096 }, context), fakeResults.migrate);
  assert.equal(fake.calls.length, 16);
  assert.deepEqual(fake.calls[3]?.params, { target: 'web', fullScan: true });
});

test('progress and notices arrive before the result, thinned, with the first and last of each phase', async (t) => {
  const step = (phase: string, done: number): Progress => ({ phase, done, total: 1000, unit: 'bytes' });
  const followed = Promise.withResolvers<void>();
  const { remote } = await startService(t, {
    backup: async (_params, context) => {
      context.onNotice('begun');
      await followed.promise;
      for (const phase of ['one', 'two'])
        for (let done = 0; done <= 1000; done += 1) context.onProgress(step(phase, done));
      context.onNotice('the agent does not answer');
      return fakeResults.backup;
    },
  });
  const own = recording();
  const context: Recorded = {
    ...own,
    onNotice: (notice) => {
      own.onNotice(notice);
      followed.resolve();
    },
  };
  await remote.backup({ target: 'web' }, context);
  assert.deepEqual(context.notices, ['begun', 'the agent does not answer']);
  assert.ok(context.progress.length < 100, String(context.progress.length));
  for (const phase of ['one', 'two']) {
    const steps = context.progress.filter((progress) => progress.phase === phase);
    assert.deepEqual([steps[0], steps.at(-1)], [step(phase, 0), step(phase, 1000)]);
  }
});

test('an error arrives with code, message, hint and details', async (t) => {
  const failure = new ApplianceError('POINT_IN_USE', 'web-2 runs from it', {
    hint: 'Stop it.',
    details: { by: 'web-2' },
  });
  const { remote } = await startService(t, { delete: () => Promise.reject(failure) });
  await assert.rejects(remote.delete({ point: 'x' }, recording()), (error: unknown) => {
    assert.ok(hasCode(error, 'POINT_IN_USE'));
    assert.deepEqual([error.message, error.hint, error.details], ['web-2 runs from it', 'Stop it.', { by: 'web-2' }]);
    return true;
  });
});

test('a defect is INTERNAL to the client; a broken invariant also ends the service', async (t) => {
  const { remote, defects, fake } = await startService(t, {
    gc: () => Promise.reject(new TypeError('x is undefined')),
    check: async () => {
      invariant(false, 'packs are disjoint');
      return fakeResults.check;
    },
    points: async () => {
      invariant(false, 'ids are unique');
      return fakeResults.points;
    },
  });
  await rejectsWith(remote.gc({}, recording()), 'INTERNAL');
  assert.deepEqual([defects.length, fake.defects.length], [0, 0]);
  await rejectsWith(remote.check({}, recording()), 'INTERNAL');
  assert.deepEqual([defects.length, fake.defects.length], [0, 1]);
  await rejectsWith(remote.points({}, recording()), 'INTERNAL');
  assert.deepEqual([defects.length, fake.defects.length], [1, 1]);
});

test('aborting the client aborts the operation and waits for its outcome', async (t) => {
  const { behaviour, entered, aborted } = endless();
  const { remote, server } = await startService(t, behaviour);
  const context = recording();
  const running = remote.backup({ target: 'web' }, context);
  await entered;
  context.controller.abort();
  await assert.rejects(running, { code: 'ABORTED', message: 'stopped at a safe place' });
  assert.equal(await aborted, 'interrupted');
  assert.deepEqual(server.health().running, []);
});

test('an operation that ends in spite of the abort gives its result', async (t) => {
  const entered = Promise.withResolvers<void>();
  const { remote } = await startService(t, {
    backup: (_params, { signal }) =>
      new Promise((resolve) => {
        signal.addEventListener('abort', () => resolve(fakeResults.backup));
        entered.resolve();
      }),
  });
  const context = recording();
  const running = remote.backup({ target: 'web' }, context);
  await entered.promise;
  context.controller.abort();
  assert.deepEqual(await running, fakeResults.backup);
});

test('a client that was aborted before it began asks for nothing', async (t) => {
  const { remote, fake } = await startService(t);
  const context = recording();
  context.controller.abort();
  await rejectsWith(remote.backup({ target: 'web' }, context), 'ABORTED');
  assert.equal(fake.calls.length, 0);
});

test('a read ends with its client; a run goes on, can be seen, and be cancelled', async (t) => {
  const { behaviour, entered, aborted } = endless();
  const gone = Promise.withResolvers<void>();
  const reading = Promise.withResolvers<void>();
  const { directory, remote } = await startService(t, {
    ...behaviour,
    points: (_params, { signal }) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          gone.resolve();
          reject(new ApplianceError('ABORTED', 'nobody waits'));
        });
        reading.resolve();
      }),
  });
  const outgoing = new LocalEndpoint(directory).send({ method: 'GET', path: '/api/v1/points' });
  outgoing.on('error', () => undefined);
  await reading.promise;
  outgoing.destroy();
  await gone.promise;
  const started = await ask(directory, 'POST', '/api/v1/backups', { target: 'web' });
  assert.equal(started.status, 202);
  await entered;
  const [run] = await remote.runs({}, recording());
  assert.deepEqual([run?.operation, run?.state, run?.machine], ['backup', 'running', 'web']);
  const cancelled = await remote.runCancel({ id: run?.id ?? '' }, recording());
  assert.deepEqual([cancelled.state, cancelled.error?.code], ['cancelled', 'ABORTED']);
  assert.equal(await aborted, 'interrupted');
});

test('a client that dies in the middle of its request starts nothing', async (t) => {
  const { directory, fake, remote } = await startService(t);
  const socket = connect(controlSocketPath(directory));
  await new Promise<void>((resolve) => {
    socket.write(
      'POST /api/v1/repository/collection HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"no',
    );
    socket.end(resolve);
  });
  socket.destroy();
  await remote.status({}, recording());
  assert.deepEqual(
    fake.calls.map((call) => call.name),
    ['status'],
  );
});

test('an export lives until its client goes away', async (t) => {
  const ended = Promise.withResolvers<void>();
  const { fake, remote } = await startService(t, {});
  fake.behaviour = {
    unexport: async ({ id }) => {
      fake.exports.delete(id);
      ended.resolve();
      return {};
    },
  };
  assert.deepEqual(await remote.export({ point: 'x' }, recording()), fakeResults.export);
  assert.equal(fake.exports.size, 1);
  await remote.status({}, recording());
  assert.equal(fake.exports.size, 1);
  await remote[Symbol.asyncDispose]();
  await ended.promise;
  assert.equal(fake.exports.size, 0);
});

test('an export ends with unexport, from its own or from another client', async (t) => {
  const { fake, remote, directory } = await startService(t);
  const { id } = await remote.export({ point: 'x' }, recording());
  await t.use(remoteAppliance(new LocalEndpoint(directory))).unexport({ id }, recording());
  assert.equal(fake.exports.size, 0);
  await remote.exportEnded(id);
  const again = await remote.export({ point: 'x' }, recording());
  await remote.unexport({ id: again.id }, recording());
  assert.equal(fake.exports.size, 0);
  assert.equal(fake.calls.filter((call) => call.name === 'unexport').length, 2);
});

test('aborting the signal of an export that was made does not end it', async (t) => {
  const { fake, remote } = await startService(t);
  const context = recording();
  const { id } = await remote.export({ point: 'x' }, context);
  context.controller.abort();
  await remote.status({}, recording());
  assert.equal(fake.exports.size, 1);
  await remote.unexport({ id }, recording());
  assert.equal(fake.exports.size, 0);
});

test('an export ends with the service, and its client learns of it', async (t) => {
  const { fake, remote, server } = await startService(t);
  const { id } = await remote.export({ point: 'x' }, recording());
  const ended = remote.exportEnded(id);
  assert.equal(await server.stop({ deadlineMs: 5_000 }), true);
  await ended;
  assert.equal(fake.exports.size, 0);
});

test('the effects of boot stay when its client has gone', async (t) => {
  const { remote, fake } = await startService(t);
  await remote.boot({ point: 'x' }, recording());
  await remote[Symbol.asyncDispose]();
  assert.deepEqual(
    fake.calls.map((call) => call.name),
    ['boot'],
  );
});

test('a stopping service aborts what runs, and refuses what is new', async (t) => {
  const { behaviour, entered, aborted } = endless();
  const { remote, server } = await startService(t, behaviour);
  const running = rejectsWith(remote.backup({ target: 'web' }, recording()), 'ABORTED');
  await entered;
  const stopping = server.stop({ deadlineMs: 5_000 });
  await rejectsWith(remote.status({}, recording()), 'SERVICE_UNREACHABLE');
  await running;
  assert.equal(await aborted, 'the service stops');
  assert.equal(await stopping, true);
});

test('a stop says when something does not end in time', async (t) => {
  const entered = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  const { remote, server } = await startService(t, {
    gc: async () => {
      entered.resolve();
      await release.promise;
      return fakeResults.gc;
    },
  });
  const running = remote.gc({}, recording());
  await entered.promise;
  assert.equal(await server.stop({ deadlineMs: 20 }), false);
  release.resolve();
  assert.deepEqual(await running, fakeResults.gc);
});

test('a service that is gone is SERVICE_UNREACHABLE, before and during an operation', async (t) => {
  const { directory } = await startService(t, {});
  const other = join(directory, 'empty');
  await rejectsWith(remoteAppliance(new LocalEndpoint(other)).status({}, recording()), 'SERVICE_UNREACHABLE');
  assert.equal(await findService(other), undefined);

  const dying = join(directory, 'dying');
  await mkdir(dying);
  const server: Server = createServer((request) => request.socket.destroy());
  await listenAt(server, controlSocketPath(dying));
  t.use({ close: () => server.close() });
  await rejectsWith(remoteAppliance(new LocalEndpoint(dying)).status({}, recording()), 'SERVICE_UNREACHABLE');
});

test('a service that sends nonsense is refused', async (t) => {
  const directory = await t.tempDir();
  const server: Server = createServer((_request, response) => response.end('{"result":1}{"resu\n'));
  await listenAt(server, controlSocketPath(directory));
  t.use({ close: () => server.close() });
  await rejectsWith(remoteAppliance(new LocalEndpoint(directory)).status({}, recording()), 'INTERNAL');
});

test('health names process, version, state and what runs', async (t) => {
  const { behaviour, entered } = endless();
  const { remote, directory } = await startService(t, behaviour);
  const context = recording();
  const running = remote.backup({ target: 'web' }, context);
  await entered;
  const health = await findService(directory);
  assert.ok(health !== undefined);
  const { startedAt, ...rest } = health;
  const expected = {
    pid: process.pid,
    version: programVersion(),
    state: directory,
    phase: 'serving',
    running: ['backup'],
  };
  assert.deepEqual(rest, expected);
  assert.ok(!Number.isNaN(Date.parse(startedAt)));
  context.controller.abort();
  await rejectsWith(running, 'ABORTED');
});

test('wrong requests are refused with a code, and run nothing', async (t) => {
  const { directory, fake } = await startService(t);
  const refusal = async (method: string, path: string, body?: unknown): Promise<[number, unknown]> => {
    const { status, type, value } = await ask(directory, method, path, body);
    assert.equal(type, PROBLEM_TYPE);
    return [status, (value as { code: string }).code];
  };
  const long = 'x'.repeat(5000);
  for (const body of [{ target: 'web', unknown: 1 }, {}, [], 'text', { target: long }]) {
    assert.deepEqual(await refusal('POST', '/api/v1/backups', body), [400, 'BAD_ARGUMENT']);
  }
  const large = { target: 'x'.repeat(MAX_REQUEST_BYTES) };
  assert.deepEqual(await refusal('POST', '/api/v1/backups', large), [413, 'BAD_ARGUMENT']);
  for (const path of ['/api/v1/backups', '/api/v1/__proto__', '/v2/anything']) {
    assert.deepEqual(await refusal('GET', path), [404, 'PATH_UNKNOWN']);
  }
  for (const path of ['/points/x?now=maybe', '/points/x?unknown=1', '/points/x?now=true&now=true']) {
    assert.deepEqual(await refusal('DELETE', `/api/v1${path}`), [400, 'BAD_ARGUMENT']);
  }
  assert.deepEqual(await refusal('PUT', '/api/v1/points/x/lock', { point: 'y', until: '2030' }), [400, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('POST', '/api/v1/backups?target=web', { target: 'web' }), [400, 'BAD_ARGUMENT']);
  assert.equal(fake.calls.length, 0);
});

test('the socket can be used by its owner only', async (t) => {
  const { directory } = await startService(t);
  const { mode } = await stat(controlSocketPath(directory));
  assert.equal(mode & 0o777, 0o600);
});

test('a state directory with a long path works like any other', async (t) => {
  const { directory, remote } = await startService(t, {}, `${'long/'.repeat(60)}end`);
  assert.ok(controlSocketPath(directory).length > 300);
  assert.deepEqual(await remote.status({}, recording()), fakeResults.status);
  assert.equal((await stat(controlSocketPath(directory))).isSocket(), true);
  assert.equal((await findService(directory))?.state, directory);
});

test('a socket that somebody listens on is left alone', async (t) => {
  const { directory, remote } = await startService(t);
  const options = {
    host: new FakeAppliance().asAppliance(),
    stateDirectory: directory,
    onDefect: () => undefined,
    onStop: () => undefined,
  };
  await rejectsWith(ApiServer.listen({ ...options, logger: pino({ level: 'silent' }) }), 'LOCKED');
  assert.deepEqual(await remote.status({}, recording()), fakeResults.status);
});

test('a closed service leaves no socket', async (t) => {
  const { directory, server } = await startService(t);
  await server.close();
  await assert.rejects(stat(controlSocketPath(directory)), { code: 'ENOENT' });
  assert.equal(await findService(directory), undefined);
});
