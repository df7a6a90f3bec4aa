// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import type { NbdClientOptions } from '../../appliance/nbd/client/options.ts';
import { CHUNK, CMD, FLAG, NBD_ERRNO } from '../../appliance/nbd/protocol.ts';
import { stopProcess } from '../support/process-state.ts';
import { suite } from '../support/suite.ts';
import {
  answerWell,
  type BadConnection,
  bytesAt,
  MIB,
  type SeenRequest,
  startBadServer,
  USUAL_FLAGS,
  u32,
} from './support-bad-server.ts';
import { eventually, startNbdkit } from './support-client-peers.ts';
import { data, errorChunk, rejects, turns } from './support-client-rig.ts';

const test = suite('nbd client: reconnect', { timeoutMs: 15_000 });

const QUICK: NbdClientOptions = {
  replies: 'structured',
  reconnect: { requestAttempts: 3, totalMs: 3_000, delayMs: 5, maximumDelayMs: 50 },
};
const MULTI_CONN: number = USUAL_FLAGS + FLAG.CAN_MULTI_CONN;

test('reads in flight are repeated on a new connection, bytes already received included', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (c.number > 1) return answerWell(c, r);
      // Half a chunk, with wrong content: the repeated read must overwrite it.
      c.chunk(r, false, CHUNK.OFFSET_DATA, Buffer.concat([data(r.offset, 0), Buffer.alloc(100, 0xff)]));
      c.socket.end();
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  const reads = [0, 8192, 65_536].map((offset) => ({ offset, into: Buffer.alloc(4096) }));
  await Promise.all(reads.map(({ offset, into }) => device.read(offset, into)));
  for (const { offset, into } of reads) assert.deepEqual(into, bytesAt(offset, 4096));
  assert.equal(server.accepted, 2);
});

test('block status in flight is repeated', async (t) => {
  const server = await startBadServer(t, {
    contexts: [[1, 'base:allocation']],
    onRequest: (c, r) => {
      const status = Buffer.concat([u32(1), u32(512), u32(3)]);
      if (c.number === 1) return void c.socket.destroy();
      c.chunk(r, true, CHUNK.BLOCK_STATUS, status);
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  assert.deepEqual(await device.extents({ offset: 0, length: 4096 }), [{ offset: 0, length: 512, kind: 'hole' }]);
});

test('writes in flight fail with NBD_CONNECTION_LOST and are never sent again', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => (r.command === CMD.READ ? answerWell(c, r) : void c.socket.destroy()),
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await rejects(device.write(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  await device.read(0, Buffer.alloc(512));
  assert.equal(server.requests.filter((request) => request.command === CMD.WRITE).length, 1);
  // What became of it is unknown: the device takes no more changes and claims no durability.
  await rejects(device.write(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  await rejects(device.flush(), 'NBD_CONNECTION_LOST');
});

test('a flush after a lost connection does not claim what was written before it', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (c.number === 1 && r.command === CMD.READ) return void c.socket.destroy();
      answerWell(c, r);
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await device.write(0, Buffer.alloc(512));
  await device.read(0, Buffer.alloc(512));
  await rejects(device.flush(), 'NBD_CONNECTION_LOST');
});

test('writes go on after a reconnect when everything before was durable', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (c.number === 1 && r.command === CMD.READ) return void c.socket.destroy();
      answerWell(c, r);
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await device.write(0, Buffer.alloc(512));
  await device.flush();
  await device.write(512, Buffer.alloc(512), { fua: true });
  await device.read(0, Buffer.alloc(512));
  await device.write(0, Buffer.alloc(512));
  await device.flush();
});

const CHANGES = {
  size: { sizeBytes: 2 * MIB },
  flags: { transmissionFlags: USUAL_FLAGS + FLAG.READ_ONLY },
  contexts: { contexts: [[1, 'x:z']] },
  'missing contexts': { contexts: [] },
  limits: { blockSize: [1, 4096, 65_536] },
} as const;

for (const [what, changed] of Object.entries(CHANGES)) {
  test(`a server that comes back with other ${what} is NBD_EXPORT_CHANGED, for good`, async (t) => {
    const usual = { contexts: [[1, 'x:y']] } as const;
    const first = await startBadServer(t, { ...usual, onRequest: () => undefined });
    const device = t.use(await connectNbd(first.uri, { ...QUICK, metaContexts: ['x:y'] }));
    const reading = device.read(0, Buffer.alloc(512));
    while (first.requests.length === 0) await turns(1);
    await first.stop();
    const second = await startBadServer(t, { ...usual, ...changed }, first.socket);
    await rejects(reading, 'NBD_EXPORT_CHANGED');
    await rejects(device.read(0, Buffer.alloc(512)), 'NBD_EXPORT_CHANGED');
    assert.equal(second.accepted, 1);
    assert.ok(second.requests.every((request) => request.command === CMD.DISC));
  });
}

test('a server that stays away fails what waits within its time, and the device with it', async (t) => {
  const server = await startBadServer(t, { onRequest: () => undefined });
  const device = t.use(
    await connectNbd(server.uri, { reconnect: { totalMs: 100, delayMs: 5, maximumDelayMs: 20, requestAttempts: 3 } }),
  );
  const reading = device.read(0, Buffer.alloc(512));
  while (server.requests.length === 0) await turns(1);
  await server.stop();
  await rejects(reading, 'NBD_CONNECTION_LOST');
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
});

test('a request is repeated a bounded number of times', async (t) => {
  const server = await startBadServer(t, { onRequest: (c) => void c.socket.destroy() });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  assert.equal(server.requests.length, 4);
});

test('without reconnect the first loss stays', async (t) => {
  const server = await startBadServer(t, { onRequest: (c) => void c.socket.destroy() });
  const device = t.use(await connectNbd(server.uri, { ...QUICK, reconnect: false }));
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  await rejects(device.read(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  assert.equal(server.accepted, 1);
});

test('ESHUTDOWN is answered with an orderly end and a new connection', async (t) => {
  const ends: string[] = [];
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (c.number > 1) return answerWell(c, r);
      c.socket.once('end', () => ends.push('end'));
      c.chunk(r, true, CHUNK.ERROR, errorChunk(NBD_ERRNO.ESHUTDOWN, 'bye'));
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  const into = Buffer.alloc(512);
  await device.read(4096, into);
  assert.deepEqual(into, bytesAt(4096, 512));
  assert.ok(server.requests.some((request) => request.command === CMD.DISC));
});

test('a flush after ESHUTDOWN does not claim what was written before it', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (c.number > 1 || r.command !== CMD.READ) return answerWell(c, r);
      c.chunk(r, true, CHUNK.ERROR, errorChunk(NBD_ERRNO.ESHUTDOWN, 'bye'));
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await device.write(0, Buffer.alloc(512));
  await device.read(0, Buffer.alloc(512));
  await rejects(device.flush(), 'NBD_CONNECTION_LOST');
});

test('a write that is answered with ESHUTDOWN is lost, not repeated', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => c.chunk(r, true, CHUNK.ERROR, errorChunk(NBD_ERRNO.ESHUTDOWN, 'bye')),
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await rejects(device.write(0, Buffer.alloc(512)), 'NBD_CONNECTION_LOST');
  assert.equal(server.requests.filter((request) => request.command === CMD.WRITE).length, 1);
});

test('a request without an answer is TIMED_OUT; others of the connection are repeated', async (t) => {
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      if (r.offset === 0) return;
      if (c.number > 1) answerWell(c, r);
    },
  });
  const device = t.use(await connectNbd(server.uri, { ...QUICK, requestTimeoutMs: 1_200 }));
  const hung = device.read(0, Buffer.alloc(512));
  const hungRejected = rejects(hung, 'TIMED_OUT');
  // Late enough that the other one is far from its own limit, also on a machine that stands still for a second.
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  const into = Buffer.alloc(512);
  const other = device.read(512, into);
  await hungRejected;
  await other;
  assert.deepEqual(into, bytesAt(512, 512));
});

test('after a time-out nothing that arrives late touches the buffer of its caller', async (t) => {
  let late: (() => void) | undefined;
  const server = await startBadServer(t, {
    onRequest: (c, r) => {
      c.simple(r, 0, bytesAt(r.offset, 100_000));
      late = () => c.raw(bytesAt(r.offset + 100_000, r.length - 100_000));
    },
  });
  const device = t.use(await connectNbd(server.uri, { replies: 'simple', reconnect: false, requestTimeoutMs: 100 }));
  const into = Buffer.alloc(400_000);
  await rejects(device.read(0, into), 'TIMED_OUT');
  into.fill(0xaa);
  late?.();
  await turns();
  assert.ok(into.every((byte) => byte === 0xaa));
});

test('closing while the server is away ends the waiting', async (t) => {
  const server = await startBadServer(t, { onRequest: () => undefined });
  const device = await connectNbd(server.uri, QUICK);
  const reading = device.read(0, Buffer.alloc(512));
  const rejected = rejects(reading, 'CLOSED');
  while (server.requests.length === 0) await turns(1);
  await server.stop();
  await eventually('the loss is known', () => device.connections === 0);
  await device.close();
  await rejected;
});

test('more connections are opened under load when the server offers multi-conn, and only then', async (t) => {
  for (const [transmissionFlags, most] of [
    [MULTI_CONN, 3],
    [USUAL_FLAGS, 1],
  ] as const) {
    const held: [BadConnection, SeenRequest][] = [];
    const server = await startBadServer(t, { transmissionFlags, onRequest: (c, r) => void held.push([c, r]) });
    const device = t.use(await connectNbd(server.uri, { ...QUICK, connections: 3 }));
    const buffers = Array.from({ length: 40 }, (_, index) => ({ index, into: Buffer.alloc(512) }));
    const reads: Promise<void>[] = [];
    for (const { index, into } of buffers) {
      reads.push(device.read(index * 512, into));
      await turns(2);
    }
    if (most > 1) await eventually('three connections are open', () => device.connections === most);
    assert.equal(server.accepted, most);
    for (const [connection, request] of held) answerWell(connection, request);
    while (held.length < 40) await turns(1);
    await Promise.all(reads);
    for (const { index, into } of buffers) assert.deepEqual(into, bytesAt(index * 512, 512));
    await device.close();
  }
});

test('one of several connections that is lost is no loss of the device', async (t) => {
  let busy = 0;
  const server = await startBadServer(t, {
    transmissionFlags: MULTI_CONN,
    onRequest: (c, r) => {
      busy += 1;
      if (c.number === 2 && busy > 20) return void c.socket.destroy();
      setImmediate(() => answerWell(c, r));
    },
  });
  const device = t.use(await connectNbd(server.uri, QUICK));
  await Promise.all(
    Array.from({ length: 16 }, async (_, lane) => {
      for (let step = 0; step < 30; step++) {
        const offset = (lane * 30 + step) * 512;
        const into = Buffer.alloc(512);
        await device.read(offset, into);
        assert.deepEqual(into, bytesAt(offset, 512));
      }
    }),
  );
});

test(
  'nbdkit killed and started again under the same socket: reads go on',
  async (t) => {
    const args = ['pattern', '64M'];
    const first = await startNbdkit(t, args);
    const device = t.use(
      await connectNbd(first.uri(), { reconnect: { totalMs: 10_000, delayMs: 10, maximumDelayMs: 50 } }),
    );
    const expected = Buffer.alloc(65_536);
    await device.read(MIB, expected);
    let done = 0;
    let isStopping = false;
    const readers = Array.from({ length: 4 }, async () => {
      const into = Buffer.alloc(65_536);
      while (!isStopping) {
        await device.read(MIB, into.fill(0));
        assert.deepEqual(into, expected);
        done += 1;
      }
    });
    await eventually('reads run', () => done > 10);
    first.kill('SIGKILL');
    await first.ended;
    await rm(first.socket);
    await startNbdkit(t, args, { socket: first.socket });
    const before = done;
    await eventually('reads run again', () => done > before + 10);
    isStopping = true;
    await Promise.all(readers);
  },
  { requires: ['nbdkit'] },
);

test(
  'a stopped server is TIMED_OUT, also for a close in between',
  async (t) => {
    const server = await startNbdkit(t, ['memory', '1M']);
    const device = await connectNbd(server.uri(), { reconnect: false, requestTimeoutMs: 200 });
    await stopProcess(server.child.pid);
    const rejected = rejects(device.read(0, Buffer.alloc(512)), 'TIMED_OUT');
    await turns(1);
    await device.close();
    await rejected;
    server.kill('SIGCONT');
  },
  { requires: ['nbdkit'] },
);
