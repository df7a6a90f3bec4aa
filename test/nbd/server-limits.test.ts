// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { rename, stat, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { hasCode } from '../../appliance/core/errors.ts';
import { CMD, NBD_ERRNO, OPT, REP } from '../../appliance/nbd/protocol.ts';
import type { ServerLimits } from '../../appliance/nbd/server/limits.ts';
import { NbdServer, type ServerEvent } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { infoData, optionBytes, requestBytes, WireClient } from './server-wire.ts';

const test = suite('nbd server, limits and ends');
const MIB = 1024 * 1024;
const SIZE = 8 * MIB;

interface Running {
  readonly server: NbdServer;
  readonly device: ServerMemoryDevice;
  readonly events: ServerEvent[];
}

async function start(t: TestContext, limits: Partial<ServerLimits> = {}): Promise<Running> {
  const path = `${await t.tempDir()}/s`;
  const events: ServerEvent[] = [];
  const onEvent = (event: ServerEvent): void => {
    events.push(event);
  };
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path }, limits, onEvent }));
  const device = new ServerMemoryDevice({ sizeBytes: SIZE });
  server.addExport({ name: 'exp', device });
  return { server, device, events };
}

async function transmitting(t: TestContext, running: Running): Promise<WireClient> {
  return t.use(await WireClient.transmitting(running.server.address, { name: 'exp' }));
}

/** Waits, turn by turn of the event loop, until a condition holds; the time budget of the test is the limit. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** Lets what is on its way arrive. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

test('connections above the limit are closed at once and the others go on', async (t) => {
  const running = await start(t, { maxConnections: 4 });
  const kept = [];
  for (let count = 0; count < 4; count++) kept.push(await transmitting(t, running));
  for (let count = 0; count < 50; count++) {
    const extra = t.use(await WireClient.connect(running.server.address));
    assert.equal((await extra.readToEnd()).length, 0);
  }
  assert.equal(running.server.connectionCount, 4);
  for (const client of kept) {
    client.request({ type: CMD.FLUSH });
    assert.equal(await client.readSimple(), 0);
  }
  kept[0]?.close();
  await until(() => running.server.connectionCount === 3);
  await transmitting(t, running);
});

test('a handshake that takes too long ends the connection, silent or chatty', async (t) => {
  const running = await start(t, { handshakeMs: 50 });
  const silent = t.use(await WireClient.connect(running.server.address));
  const chatty = t.use(await WireClient.greeted(running.server.address));
  const timer = setInterval(() => chatty.sendOption(99), 5);
  assert.equal((await silent.readToEnd()).length, 18);
  await chatty.readToEnd();
  clearInterval(timer);
  await until(() => running.server.connectionCount === 0);
  const reasons = running.events.filter((event) => event.kind === 'closed').map((event) => event.reason);
  assert.equal(reasons.filter((reason) => hasCode(reason, 'TIMED_OUT')).length, 2);
  const prompt = await transmitting(t, running);
  await turns(2);
  await new Promise((resolve) => setTimeout(resolve, 60));
  prompt.request({ type: CMD.FLUSH });
  assert.equal(await prompt.readSimple(), 0);
});

test('a client that never reads its replies holds no more than its limit', async (t) => {
  const running = await start(t, { maxConnectionBytes: 4 * MIB, maxRequestsInFlight: 64 });
  const client = await transmitting(t, running);
  client.socket.pause();
  let reads = 0;
  running.device.before = () => {
    reads += 1;
  };
  for (let count = 0; count < 400; count++) client.request({ type: CMD.READ, length: MIB, cookie: BigInt(count) });
  await until(() => running.server.bytesInFlight >= 3 * MIB);
  await turns(200);
  assert.ok(running.server.bytesInFlight <= 4 * MIB, `${running.server.bytesInFlight} bytes in flight`);
  assert.ok(reads < 20, `${reads} reads were started`);
  const other = await transmitting(t, running);
  other.request({ type: CMD.READ, length: 16 });
  assert.equal(await other.readSimple(), 0);
  client.socket.resume();
  for (let count = 0; count < 400; count++) {
    assert.equal(await client.readSimple(BigInt(count)), 0);
    await client.read(MIB);
  }
  await until(() => running.server.bytesInFlight === 0);
});

test('a client that pipelines options without reading is read no further than its replies are taken', async (t) => {
  const running = await start(t);
  for (let count = 0; count < 100; count++) {
    const description = 'd'.repeat(4000);
    running.server.addExport({ name: `e${count}`, description, device: running.device });
  }
  const client = t.use(await WireClient.greeted(running.server.address));
  client.socket.pause();
  const before = process.memoryUsage().rss;
  const flood = Buffer.concat(Array.from({ length: 4096 }, () => optionBytes(OPT.LIST)));
  for (let count = 0; count < 20; count++) client.send(flood);
  await turns(500);
  const grown = process.memoryUsage().rss - before;
  assert.ok(grown < 100 * MIB, `${grown} bytes more`);
});

test('requests in flight are bounded by count', async (t) => {
  const running = await start(t, { maxRequestsInFlight: 8 });
  const gate = Promise.withResolvers<void>();
  let started = 0;
  running.device.before = () => {
    started += 1;
    return gate.promise;
  };
  const client = await transmitting(t, running);
  client.send(...Array.from({ length: 5000 }, () => requestBytes({ type: CMD.FLUSH })));
  await until(() => started === 8);
  await turns(100);
  assert.equal(started, 8);
  gate.resolve();
  for (let count = 0; count < 5000; count++) assert.equal(await client.readSimple(), 0);
});

test('the memory of all connections together is bounded, and everybody gets his turn', async (t) => {
  const running = await start(t, { maxTotalBytes: 3 * MIB, maxConnectionBytes: 2 * MIB });
  const clients = [];
  for (let count = 0; count < 6; count++) clients.push(await transmitting(t, running));
  let most = 0;
  running.device.before = () => {
    most = Math.max(most, running.server.bytesInFlight);
    return new Promise((resolve) => setImmediate(resolve));
  };
  await Promise.all(
    clients.map(async (client) => {
      for (let count = 0; count < 20; count++) client.request({ type: CMD.READ, length: MIB });
      for (let count = 0; count < 20; count++) {
        assert.equal(await client.readSimple(), 0);
        await client.read(MIB);
      }
    }),
  );
  assert.ok(most > MIB && most <= 3 * MIB, `${most} bytes in flight`);
  await until(() => running.server.bytesInFlight === 0);
});

test('one request above the limits is served when nothing else is in flight', async (t) => {
  const running = await start(t, { maxTotalBytes: 1000, maxConnectionBytes: 1000 });
  const client = await transmitting(t, running);
  client.request({ type: CMD.READ, length: SIZE });
  assert.equal(await client.readSimple(), 0);
  assert.equal((await client.read(SIZE)).length, SIZE);
});

test('who holds the memory of all and does not move is cut as soon as somebody waits for it', async (t) => {
  const running = await start(t, { maxTotalBytes: 2 * MIB, stallMs: 100 });
  const hoarder = await transmitting(t, running);
  hoarder.request({ type: CMD.WRITE, length: 2 * MIB - 100 });
  await until(() => running.server.bytesInFlight > MIB);
  const victim = await transmitting(t, running);
  victim.request({ type: CMD.READ, length: MIB });
  assert.equal(await victim.readSimple(), 0);
  await victim.read(MIB);
  assert.equal((await hoarder.readToEnd()).length, 0);
});

test('clients that die in the middle of a request leave nothing behind', async (t) => {
  const running = await start(t);
  const gate = Promise.withResolvers<void>();
  running.device.before = () => gate.promise;
  for (let count = 0; count < 20; count++) {
    const client = await transmitting(t, running);
    client.request({ type: CMD.READ, length: MIB });
    client.request({ type: CMD.WRITE, length: 1000, data: Buffer.alloc(1000) });
    client.request({ type: CMD.WRITE, length: MIB, data: Buffer.alloc(5000) });
    await until(() => running.server.bytesInFlight > 0);
    client.close();
  }
  gate.resolve();
  await until(() => running.server.connectionCount === 0);
  assert.equal(running.server.bytesInFlight, 0);
  assert.equal(running.server.exports()[0]?.statistics.connections, 0);
});

test('a flood of connections that come and go leaves nothing behind', async (t) => {
  const running = await start(t, { maxConnections: 50 });
  const { address } = running.server;
  const path = address.kind === 'unix' ? address.path : '';
  await Promise.all(
    Array.from({ length: 400 }, async (_value, index) => {
      const socket = connect(path);
      socket.on('error', () => undefined);
      if (index % 3 === 0) socket.write(Buffer.alloc(index));
      if (index % 3 === 1) socket.on('data', () => socket.destroy());
      else socket.on('connect', () => socket.destroy());
      await new Promise((resolve) => socket.on('close', resolve));
    }),
  );
  await until(() => running.server.connectionCount === 0);
  const client = await transmitting(t, running);
  client.request({ type: CMD.FLUSH });
  assert.equal(await client.readSimple(), 0);
});

test('close lets requests in flight finish, answers new ones with ESHUTDOWN, then closes', async (t) => {
  const running = await start(t);
  const gate = Promise.withResolvers<void>();
  running.device.before = () => gate.promise;
  const client = await transmitting(t, running);
  const haggler = t.use(await WireClient.greeted(running.server.address));
  await haggler.optionType(OPT.LIST);
  client.request({ type: CMD.WRITE, cookie: 1n, length: 512, data: Buffer.alloc(512, 7) });
  await until(() => running.server.bytesInFlight > 0);
  const closed = running.server.close({ deadlineMs: 20_000 });
  client.request({ type: CMD.WRITE, cookie: 2n, length: 512, data: Buffer.alloc(512, 9) });
  client.request({ type: CMD.READ, cookie: 3n, length: 512 });
  assert.equal(await client.readSimple(2n), NBD_ERRNO.ESHUTDOWN);
  assert.equal(await client.readSimple(3n), NBD_ERRNO.ESHUTDOWN);
  assert.equal(await haggler.optionType(OPT.GO, infoData('exp')), REP.ERR_SHUTDOWN);
  gate.resolve();
  assert.equal(await client.readSimple(1n), 0);
  assert.equal((await client.readToEnd()).length, 0);
  assert.equal((await haggler.readToEnd()).length, 0);
  await closed;
  assert.equal(running.device.content[511], 7);
  assert.throws(
    () => running.server.addExport({ name: 'late', device: running.device }),
    (error) => hasCode(error, 'CLOSED'),
  );
});

test('close ends at its deadline although the device hangs', async (t) => {
  const running = await start(t);
  running.device.before = () => new Promise(() => undefined);
  const client = await transmitting(t, running);
  client.request({ type: CMD.READ, length: 512 });
  await until(() => running.server.bytesInFlight > 0);
  await running.server.close({ deadlineMs: 50 });
  assert.equal((await client.readToEnd()).length, 0);
});

test('close ends although a client never takes its replies', async (t) => {
  const running = await start(t);
  const client = await transmitting(t, running);
  client.socket.pause();
  for (let count = 0; count < 8; count++) client.request({ type: CMD.READ, length: MIB });
  await until(() => running.server.bytesInFlight > MIB);
  await running.server.close({ deadlineMs: 50 });
  assert.equal(running.server.connectionCount, 0);
  assert.equal(running.server.bytesInFlight, 0);
});

test('removing an export drains its connections and leaves others alone', async (t) => {
  const running = await start(t);
  const other = new ServerMemoryDevice({ sizeBytes: 4096 });
  running.server.addExport({ name: 'other', device: other, ownsDevice: true });
  const gate = Promise.withResolvers<void>();
  running.device.before = () => gate.promise;
  const client = await transmitting(t, running);
  const idle = await transmitting(t, running);
  const untouched = t.use(await WireClient.transmitting(running.server.address, { name: 'other' }));
  client.request({ type: CMD.FLUSH, cookie: 1n });
  await until(() => running.server.bytesInFlight > 0);
  const removed = running.server.removeExport('exp', { drainMs: 20_000 });
  assert.equal((await idle.readToEnd()).length, 0);
  const late = t.use(await WireClient.greeted(running.server.address));
  assert.equal(await late.optionType(OPT.GO, infoData('exp')), REP.ERR_UNKNOWN);
  gate.resolve();
  assert.equal(await client.readSimple(1n), 0);
  assert.equal((await client.readToEnd()).length, 0);
  await removed;
  assert.equal(running.device.isClosed, false);
  untouched.request({ type: CMD.FLUSH });
  assert.equal(await untouched.readSimple(), 0);
  await running.server.removeExport('other', { drainMs: 1000 });
  assert.equal(other.isClosed, true);
  await assert.rejects(running.server.removeExport('other', { drainMs: 0 }), (e) => hasCode(e, 'NBD_EXPORT_UNKNOWN'));
});

test('an export name is taken once, and must fit the protocol', async (t) => {
  const { server, device } = await start(t);
  assert.throws(
    () => server.addExport({ name: 'exp', device }),
    (error) => hasCode(error, 'NBD_EXPORT_EXISTS'),
  );
  for (const name of ['x'.repeat(4097), 'a\0b', '\ud800']) {
    assert.throws(
      () => server.addExport({ name, device }),
      (error) => hasCode(error, 'BAD_ARGUMENT'),
    );
  }
});

test('the unix socket belongs to its owner alone, or has the mode that was asked for', async (t) => {
  const folder = await t.tempDir();
  const own = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: `${folder}/a` } }));
  const shared = t.use(await NbdServer.listen({ listen: { kind: 'unix', path: `${folder}/b`, mode: 0o660 } }));
  assert.equal((await stat(`${folder}/a`)).mode & 0o777, 0o600);
  assert.equal((await stat(`${folder}/b`)).mode & 0o777, 0o660);
  await own.close();
  await shared.close();
  await assert.rejects(stat(`${folder}/a`));
});

test('a stale socket file is replaced; a living listener and other files are not', async (t) => {
  const folder = await t.tempDir();
  const listen = (name: string): Promise<NbdServer> =>
    NbdServer.listen({ listen: { kind: 'unix', path: `${folder}/${name}` } });
  // A socket file that outlives its listener: the listener is bound under another name first.
  const dead = createServer().listen(`${folder}/x`);
  await once(dead, 'listening');
  await rename(`${folder}/x`, `${folder}/stale`);
  dead.close();
  await once(dead, 'close');
  const replaced = t.use(await listen('stale'));
  await assert.rejects(listen('stale'), (error) => hasCode(error, 'LOCKED'));
  const client = t.use(await WireClient.connect(replaced.address));
  assert.equal((await client.read(18)).length, 18);
  await writeFile(`${folder}/file`, 'precious');
  await assert.rejects(listen('file'), (error) => hasCode(error, 'NBD_LISTEN_FAILED'));
  await assert.rejects(listen('missing/s'), (error) => hasCode(error, 'NBD_LISTEN_FAILED'));
  await assert.rejects(listen('x'.repeat(120)), (error) => hasCode(error, 'BAD_ARGUMENT'));
});

test('over TCP the real port is told, and a port in use is refused', async (t) => {
  const server = t.use(await NbdServer.listen({ listen: { kind: 'tcp', host: '127.0.0.1', port: 0 } }));
  server.addExport({ name: 'exp', device: new ServerMemoryDevice({ sizeBytes: 4096 }) });
  const client = t.use(await WireClient.transmitting(server.address, { name: 'exp' }));
  client.request({ type: CMD.FLUSH });
  assert.equal(await client.readSimple(), 0);
  await assert.rejects(NbdServer.listen({ listen: server.address }), (error) => hasCode(error, 'LOCKED'));
});
