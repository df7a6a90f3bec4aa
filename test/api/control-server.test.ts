// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { connect, createServer as createSocketServer } from 'node:net';
import { join } from 'node:path';
import { pino } from 'pino';
import { requestService } from '../../appliance/api/control-call.ts';
import { findService, RemoteAppliance } from '../../appliance/api/control-client.ts';
import { CONTENT_TYPE, MAX_REQUEST_BYTES, programVersion } from '../../appliance/api/control-protocol.ts';
import { ControlServer } from '../../appliance/api/control-server.ts';
import { controlSocketPath, isListening, listenAt } from '../../appliance/api/control-socket.ts';
import type { OperationContext, Progress } from '../../appliance/api/operations.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { invariant } from '../../appliance/core/invariant.ts';
import { FakeAppliance, type FakeBehaviour } from '../support/fake-appliance.ts';
import { fakeResults } from '../support/fake-results.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('control server and client');

interface Service {
  readonly directory: string;
  readonly server: ControlServer;
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
    await ControlServer.listen({
      appliance: fake.asAppliance(),
      stateDirectory: directory,
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => defects.push(violation),
      onStop: () => undefined,
    }),
  );
  const remote = t.use(new RemoteAppliance(directory));
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

async function post(
  directory: string,
  path: string,
  body: string | object,
): Promise<{ status: number; lines: unknown[] }> {
  const outgoing = requestService(directory, {
    method: 'POST',
    path,
    ...(typeof body === 'string' ? {} : { body }),
  });
  return new Promise((resolve, reject) => {
    outgoing.once('error', reject);
    outgoing.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.once('end', () => {
        assert.equal(response.headers['content-type']?.split(';')[0], CONTENT_TYPE);
        const lines = text
          .trimEnd()
          .split('\n')
          .map((line): unknown => JSON.parse(line));
        resolve({ status: response.statusCode ?? 0, lines });
      });
    });
  });
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
  const { remote } = await startService(t, {
    backup: async (_params, context) => {
      for (const phase of ['one', 'two'])
        for (let done = 0; done <= 1000; done += 1) context.onProgress(step(phase, done));
      context.onNotice('the agent does not answer');
      return fakeResults.backup;
    },
  });
  const context = recording();
  await remote.backup({ target: 'web' }, context);
  assert.deepEqual(context.notices, ['the agent does not answer']);
  assert.ok(context.progress.length < 100, String(context.progress.length));
  for (const phase of ['one', 'two']) {
    const own = context.progress.filter((progress) => progress.phase === phase);
    assert.deepEqual([own[0], own.at(-1)], [step(phase, 0), step(phase, 1000)]);
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
  const { remote, defects } = await startService(t, {
    gc: () => Promise.reject(new TypeError('x is undefined')),
    check: async () => {
      invariant(false, 'packs are disjoint');
      return fakeResults.check;
    },
  });
  await rejectsWith(remote.gc({}, recording()), 'INTERNAL');
  assert.equal(defects.length, 0);
  await rejectsWith(remote.check({}, recording()), 'INTERNAL');
  assert.equal(defects.length, 1);
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

test('a client that goes away aborts its operation', async (t) => {
  const { behaviour, entered, aborted } = endless();
  const { directory } = await startService(t, behaviour);
  const outgoing = requestService(directory, {
    method: 'POST',
    path: '/v1/operations/backup',
    body: { target: 'web' },
  });
  outgoing.on('error', () => undefined);
  await entered;
  outgoing.destroy();
  assert.equal(await aborted, 'the client went away');
});

test('a client that dies in the middle of its request starts nothing', async (t) => {
  const { directory, fake, remote } = await startService(t);
  const socket = connect(controlSocketPath(directory));
  await new Promise<void>((resolve) => {
    socket.write(
      'POST /v1/operations/gc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"no',
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
  await t.use(new RemoteAppliance(directory)).unexport({ id }, recording());
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
  await rejectsWith(new RemoteAppliance(other).status({}, recording()), 'SERVICE_UNREACHABLE');
  assert.equal(await findService(other), undefined);

  const dying = join(directory, 'dying');
  await mkdir(dying);
  const server: Server = createServer((request) => request.socket.destroy());
  await listenAt(server, controlSocketPath(dying));
  t.use({ close: () => server.close() });
  await rejectsWith(new RemoteAppliance(dying).status({}, recording()), 'SERVICE_UNREACHABLE');
});

test('a service that sends nonsense is refused', async (t) => {
  const directory = await t.tempDir();
  const server: Server = createServer((_request, response) => response.end('{"result":1}{"resu\n'));
  await listenAt(server, controlSocketPath(directory));
  t.use({ close: () => server.close() });
  await rejectsWith(new RemoteAppliance(directory).status({}, recording()), 'INTERNAL');
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
  const refusal = async (path: string, body: string | object): Promise<[number, unknown]> => {
    const { status, lines } = await post(directory, path, body);
    assert.equal(lines.length, 1);
    return [status, (lines[0] as { error: { code: string } }).error.code];
  };
  assert.deepEqual(await refusal('/v1/operations/backup', { target: 'web', unknown: 1 }), [400, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/backup', {}), [400, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/backup', []), [400, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/__proto__', {}), [404, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/asyncDispose', {}), [404, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v2/anything', {}), [404, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/backup', { target: 'x'.repeat(5000) }), [400, 'BAD_ARGUMENT']);
  assert.deepEqual(await refusal('/v1/operations/backup', { target: 'x'.repeat(MAX_REQUEST_BYTES) }), [
    413,
    'BAD_ARGUMENT',
  ]);
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

for (const subdirectory of ['', `${'long/'.repeat(60)}end`]) {
  const which = subdirectory === '' ? '' : ' at a long path';

  test(`a socket that nobody listens on is replaced${which}`, async (t) => {
    const directory = join(await t.tempDir(), subdirectory);
    await mkdir(directory, { recursive: true });
    const path = controlSocketPath(directory);
    // A process that was killed leaves its socket: bind through the same address, then close without unlinking.
    await leaveStaleSocket(directory);
    assert.equal((await stat(path)).isSocket(), true);
    assert.equal(await isListening(path), false);
    const fake = new FakeAppliance();
    const options = { appliance: fake.asAppliance(), stateDirectory: directory, logger: pino({ level: 'silent' }) };
    t.use(await ControlServer.listen({ ...options, onDefect: () => undefined, onStop: () => undefined }));
    assert.equal(await isListening(path), true);
  });
}

test('a socket that somebody listens on is left alone', async (t) => {
  const { directory, remote } = await startService(t);
  const options = {
    appliance: new FakeAppliance().asAppliance(),
    stateDirectory: directory,
    onDefect: () => undefined,
    onStop: () => undefined,
  };
  await rejectsWith(ControlServer.listen({ ...options, logger: pino({ level: 'silent' }) }), 'LOCKED');
  assert.deepEqual(await remote.status({}, recording()), fakeResults.status);
});

test('a file in place of the socket is left alone', async (t) => {
  const directory = await t.tempDir();
  await writeFile(controlSocketPath(directory), 'precious');
  const server = createServer();
  await rejectsWith(listenAt(server, controlSocketPath(directory)), 'IO_FAILED');
  assert.equal((await stat(controlSocketPath(directory))).size, 8);
});

test('a closed service leaves no socket', async (t) => {
  const { directory, server } = await startService(t);
  await server.close();
  await assert.rejects(stat(controlSocketPath(directory)), { code: 'ENOENT' });
  assert.equal(await findService(directory), undefined);
});

/** A socket file without a listener. */
async function leaveStaleSocket(directory: string): Promise<void> {
  const workingDirectory = process.cwd();
  const server = createSocketServer();
  process.chdir(directory);
  await new Promise<void>((resolve) => server.listen('bound.sock', resolve));
  const { renameSync } = await import('node:fs');
  renameSync('bound.sock', 'control.sock');
  process.chdir(workingDirectory);
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}
