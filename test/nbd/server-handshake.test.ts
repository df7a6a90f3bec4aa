// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { FLAG, INFO, OPT, REP } from '../../appliance/nbd/protocol.ts';
import type { ServerOptions } from '../../appliance/nbd/server/nbd-server.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { infoData, metaData, optionBytes, requestBytes, u16, u32, WireClient } from './server-wire.ts';

const test = suite('nbd server, handshake');
const SIZE = 1_048_576;

async function start(t: TestContext, options: Partial<ServerOptions> = {}): Promise<NbdServer> {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path }, ...options }));
  server.addExport({ name: 'exp', description: 'a disk', device: new ServerMemoryDevice({ sizeBytes: SIZE }) });
  return server;
}

async function greeted(t: TestContext, options: Partial<ServerOptions> = {}): Promise<WireClient> {
  const server = await start(t, options);
  return t.use(await WireClient.greeted(server.address));
}

test('the greeting offers fixed newstyle and no zeroes, nothing else', async (t) => {
  const server = await start(t);
  const client = t.use(await WireClient.connect(server.address));
  assert.equal((await client.read(18)).toString('hex'), '4e42444d4147494349484156454f50540003');
});

test('client flags with an unknown bit end the connection', async (t) => {
  const server = await start(t);
  for (const flags of [4, 7, 0x80000000, 0xffffffff]) {
    const client = t.use(await WireClient.greeted(server.address, flags));
    assert.equal((await client.readToEnd()).length, 0);
  }
});

test('a client without fixed newstyle may only name an export', async (t) => {
  const server = await start(t);
  const list = t.use(await WireClient.greeted(server.address, 0));
  list.sendOption(OPT.LIST);
  assert.equal((await list.readToEnd()).length, 0);
  const named = t.use(await WireClient.greeted(server.address, 0));
  named.sendOption(OPT.EXPORT_NAME, Buffer.from('exp'));
  assert.equal((await named.read(134)).readBigUInt64BE(0), BigInt(SIZE));
});

test('EXPORT_NAME is answered with size and flags, and with 124 zeroes unless they were declined', async (t) => {
  const server = await start(t);
  const flags = FLAG.HAS_FLAGS | 0x4 | 0x8 | 0x20 | 0x40 | 0x100 | 0x400 | 0x800;
  const long = t.use(await WireClient.greeted(server.address, 1));
  long.sendOption(OPT.EXPORT_NAME, Buffer.from('exp'));
  const reply = await long.read(134);
  assert.equal(reply.readUInt16BE(8), flags);
  assert.deepEqual(reply.subarray(10), Buffer.alloc(124));
  const short = t.use(await WireClient.greeted(server.address, 3));
  short.sendOption(OPT.EXPORT_NAME, Buffer.from('exp'));
  await short.read(10);
  short.request({ type: 0, length: 16 });
  assert.equal(await short.readSimple(1n), 0);
});

test('EXPORT_NAME of an unknown export or with an oversize name closes the connection', async (t) => {
  const server = await start(t);
  for (const name of ['nope', 'x'.repeat(5000), 'x'.repeat(70_000)]) {
    const client = t.use(await WireClient.greeted(server.address));
    client.sendOption(OPT.EXPORT_NAME, Buffer.from(name));
    assert.equal((await client.readToEnd()).length, 0);
  }
});

test('after the ACK of GO no padding follows, whatever the flags', async (t) => {
  const server = await start(t);
  const client = t.use(await WireClient.greeted(server.address, 1));
  client.send(optionBytes(OPT.GO, infoData('exp')), requestBytes({ type: 0, length: 4, cookie: 9n }));
  assert.equal((await client.readOptionReply()).type, REP.INFO);
  assert.equal((await client.readOptionReply()).type, REP.ACK);
  assert.equal(await client.readSimple(9n), 0);
});

test('unknown options are skipped by their length and refused as unsupported', async (t) => {
  const client = await greeted(t);
  for (const option of [0, 4, 12, 0x7fffffff, 0xffffffff]) {
    const [reply] = await client.option(option, Buffer.alloc(333));
    assert.deepEqual([reply?.option, reply?.type], [option, REP.ERR_UNSUP]);
  }
});

test('an option above the limit is skipped and refused as too big; one above 32 MiB ends the connection', async (t) => {
  const client = await greeted(t);
  assert.equal(await client.optionType(OPT.GO, Buffer.alloc(70_000)), REP.ERR_TOO_BIG);
  assert.equal(await client.optionType(OPT.LIST), REP.ACK);
  client.send(optionBytes(OPT.LIST).subarray(0, 12), u32(33_554_433));
  assert.equal((await client.readToEnd()).length, 0);
});

test('options that arrive together are answered one after the other', async (t) => {
  const client = await greeted(t);
  client.send(optionBytes(99), optionBytes(OPT.STRUCTURED_REPLY), optionBytes(98));
  const types = [];
  for (let count = 0; count < 3; count++) types.push((await client.readOptionReply()).type);
  assert.deepEqual(types, [REP.ERR_UNSUP, REP.ACK, REP.ERR_UNSUP]);
});

test('ABORT is acknowledged, with or without data, and the connection closed', async (t) => {
  const server = await start(t);
  for (const data of [Buffer.alloc(0), Buffer.from('bye')]) {
    const client = t.use(await WireClient.greeted(server.address));
    assert.equal(await client.optionType(OPT.ABORT, data), REP.ACK);
    assert.equal((await client.readToEnd()).length, 0);
  }
});

test('a wrong option magic ends the connection', async (t) => {
  const client = await greeted(t);
  client.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
  assert.equal((await client.readToEnd()).length, 0);
});

test('errors while haggling never close the connection', async (t) => {
  const client = await greeted(t);
  for (let count = 0; count < 300; count++) {
    assert.equal(await client.optionType(OPT.GO, infoData('nope')), REP.ERR_UNKNOWN);
  }
  assert.equal(await client.optionType(OPT.GO, infoData('exp')), REP.ACK);
});

test('LIST names all listed exports with their descriptions, and takes no data', async (t) => {
  const server = await start(t);
  const device = new ServerMemoryDevice({ sizeBytes: 512 });
  server.addExport({ name: 'hidden', device, isListed: false });
  server.addExport({ name: 'größe', device });
  const client = t.use(await WireClient.greeted(server.address));
  const replies = await client.option(OPT.LIST);
  assert.deepEqual(
    replies.map(({ type, data }) => [type, data.length > 0 ? data.readUInt32BE(0) : 0, data.subarray(4).toString()]),
    [
      [REP.SERVER, 3, 'expa disk'],
      [REP.SERVER, 7, 'größe'],
      [REP.ACK, 0, ''],
    ],
  );
  assert.equal(await client.optionType(OPT.LIST, Buffer.from('x')), REP.ERR_INVALID);
  assert.equal(await client.optionType(OPT.GO, infoData('hidden')), REP.ACK);
});

test('INFO and GO give what was asked for and the same each time', async (t) => {
  const client = await greeted(t);
  const infos = [INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION, 77, INFO.NAME];
  const first = await client.option(OPT.INFO, infoData('exp', infos));
  assert.deepEqual(
    first.map(({ type, data }) => [type, data.toString('hex')]),
    [
      [REP.INFO, '000000000000001000000d6d'],
      [REP.INFO, `0001${Buffer.from('exp').toString('hex')}`],
      [REP.INFO, `0002${Buffer.from('a disk').toString('hex')}`],
      [REP.INFO, '0003000000010000100002000000'],
      [REP.ACK, ''],
    ],
  );
  const second = await client.option(OPT.GO, infoData('exp', infos));
  assert.deepEqual(
    second.map((reply) => reply.data),
    first.map((reply) => reply.data),
  );
});

test('block sizes are told only to those who ask', async (t) => {
  const client = await greeted(t);
  const replies = await client.option(OPT.INFO, infoData('exp'));
  assert.deepEqual(
    replies.map((reply) => reply.type),
    [REP.INFO, REP.ACK],
  );
});

test('block sizes are advertised within the bounds of the specification', async (t) => {
  const server = await start(t);
  const limits = { minimumBytes: 1, preferredBytes: 16, maximumBytes: 256 * 1024 * 1024 };
  server.addExport({ name: 'odd', device: new ServerMemoryDevice({ sizeBytes: 1000, limits }) });
  const client = t.use(await WireClient.greeted(server.address));
  const replies = await client.option(OPT.INFO, infoData('odd', [INFO.BLOCK_SIZE]));
  assert.equal(replies[1]?.data.toString('hex'), '0003000000010000020002000000');
});

test('malformed INFO and GO are invalid, oversize names too big, unknown exports unknown without an INFO', async (t) => {
  const client = await greeted(t);
  const bad = [
    Buffer.alloc(0),
    Buffer.alloc(5),
    Buffer.concat([u32(100), Buffer.from('exp'), u16(0)]),
    Buffer.concat([u32(3), Buffer.from('exp'), u16(2), u16(0)]),
    Buffer.concat([infoData('exp'), Buffer.from('x')]),
    Buffer.concat([u32(0xffffffff), Buffer.from('exp'), u16(0)]),
    infoData(Buffer.from([0xff, 0xfe])),
    infoData('e\0p'),
  ];
  for (const option of [OPT.INFO, OPT.GO]) {
    for (const data of bad) assert.equal(await client.optionType(option, data), REP.ERR_INVALID, data.toString('hex'));
    assert.equal(await client.optionType(option, infoData('x'.repeat(4097))), REP.ERR_TOO_BIG);
    assert.deepEqual(
      (await client.option(option, infoData('x'.repeat(4096)))).map((reply) => reply.type),
      [REP.ERR_UNKNOWN],
    );
  }
});

test('structured replies are negotiated once and without data', async (t) => {
  const client = await greeted(t);
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY, Buffer.from('x')), REP.ERR_INVALID);
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY), REP.ACK);
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY), REP.ERR_INVALID);
});

test('DF is offered only with structured replies, never TLS_REQD or STARTTLS without TLS', async (t) => {
  const client = await greeted(t);
  const flagsOf = async (): Promise<number> => {
    const [info] = await client.option(OPT.INFO, infoData('exp'));
    return info?.data.readUInt16BE(10) ?? 0;
  };
  assert.equal((await flagsOf()) & FLAG.SEND_DF, 0);
  await client.option(OPT.STRUCTURED_REPLY);
  assert.equal((await flagsOf()) & FLAG.SEND_DF, FLAG.SEND_DF);
  assert.equal(await client.optionType(OPT.STARTTLS), REP.ERR_POLICY);
});

test('a read-only export says so and offers no change', async (t) => {
  const server = await start(t);
  server.addExport({ name: 'ro', device: new ServerMemoryDevice({ sizeBytes: 512 }), isReadOnly: true });
  const client = t.use(await WireClient.greeted(server.address));
  const [info] = await client.option(OPT.INFO, infoData('ro'));
  const flags = info?.data.readUInt16BE(10) ?? 0;
  assert.equal(flags & FLAG.READ_ONLY, FLAG.READ_ONLY);
  assert.equal(flags & (FLAG.SEND_TRIM | FLAG.SEND_WRITE_ZEROES | FLAG.SEND_FAST_ZERO), 0);
});

test('meta contexts need structured replies, and a known export', async (t) => {
  const client = await greeted(t);
  for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
    assert.equal(await client.optionType(option, metaData('exp', ['base:allocation'])), REP.ERR_INVALID);
  }
  await client.option(OPT.STRUCTURED_REPLY);
  for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT]) {
    assert.equal(await client.optionType(option, metaData('nope', [])), REP.ERR_UNKNOWN);
  }
});

async function withContexts(t: TestContext): Promise<WireClient> {
  const server = await start(t);
  const source = async (): Promise<{ length: number; status: number }[]> => [{ length: 512, status: 1 }];
  const extraContexts = new Map([
    ['qemu:dirty-bitmap:b0', source],
    ['qemu:dirty-bitmap:b1', source],
    ['qemu:allocation-depth', source],
  ]);
  server.addExport({ name: 'many', device: new ServerMemoryDevice({ sizeBytes: 512 }), extraContexts });
  const client = t.use(await WireClient.greeted(server.address));
  await client.option(OPT.STRUCTURED_REPLY);
  return client;
}

async function contexts(client: WireClient, option: number, queries: readonly string[]): Promise<string[]> {
  const replies = await client.option(option, metaData('many', queries));
  assert.equal(replies.at(-1)?.type, REP.ACK);
  return replies.slice(0, -1).map((reply) => reply.data.subarray(4).toString());
}

test('LIST_META_CONTEXT understands names, wildcards, and no query at all', async (t) => {
  const client = await withContexts(t);
  const all = ['base:allocation', 'qemu:dirty-bitmap:b0', 'qemu:dirty-bitmap:b1', 'qemu:allocation-depth'];
  const list = OPT.LIST_META_CONTEXT;
  assert.deepEqual(await contexts(client, list, []), all);
  assert.deepEqual(await contexts(client, list, ['base:']), all.slice(0, 1));
  assert.deepEqual(await contexts(client, list, ['qemu:dirty-bitmap:']), all.slice(1, 3));
  assert.deepEqual(await contexts(client, list, ['qemu:', 'qemu:allocation-depth']), all.slice(1));
  assert.deepEqual(await contexts(client, list, ['x-other:thing', 'base:nonsense', 'nocolon']), []);
});

test('SET_META_CONTEXT selects full names only, each with an id of its own', async (t) => {
  const client = await withContexts(t);
  const set = OPT.SET_META_CONTEXT;
  assert.deepEqual(await contexts(client, set, []), []);
  assert.deepEqual(await contexts(client, set, ['base:', 'qemu:', 'base:nonsense']), []);
  const queries = ['qemu:dirty-bitmap:b1', 'base:allocation', 'base:allocation'];
  const replies = await client.option(set, metaData('many', queries));
  assert.equal(new Set(replies.slice(0, -1).map((reply) => reply.data.readUInt32BE(0))).size, 2);
});

test('malformed meta context options are invalid', async (t) => {
  const client = await withContexts(t);
  const good = metaData('many', ['base:allocation']);
  const bad = [
    Buffer.alloc(0),
    good.subarray(0, good.length - 1),
    Buffer.concat([good, Buffer.from('x')]),
    Buffer.concat([u32(0xffffffff), good]),
    Buffer.concat([metaData('many', []).subarray(0, 8), u32(0xffffffff)]),
  ];
  for (const data of bad) {
    assert.equal(await client.optionType(OPT.SET_META_CONTEXT, data), REP.ERR_INVALID);
    assert.equal(await client.optionType(OPT.LIST_META_CONTEXT, data), REP.ERR_INVALID);
  }
});

async function statusError(client: WireClient): Promise<number> {
  client.request({ type: 7, length: 512 });
  const chunk = await client.readChunk();
  return chunk.type === 0x8001 ? chunk.data.readUInt32BE(0) : 0;
}

test('a failed SET_META_CONTEXT forgets the selection before it', async (t) => {
  const client = await withContexts(t);
  await contexts(client, OPT.SET_META_CONTEXT, ['base:allocation']);
  assert.equal(await client.optionType(OPT.SET_META_CONTEXT, Buffer.alloc(3)), REP.ERR_INVALID);
  await client.go({ name: 'many' });
  assert.equal(await statusError(client), 22);
});

test('a selection counts only for the export for which it was made', async (t) => {
  const client = await withContexts(t);
  await contexts(client, OPT.SET_META_CONTEXT, ['base:allocation']);
  await client.go({ name: 'exp' });
  assert.equal(await statusError(client), 22);
});

test('a selection does not survive the replacement of its export', async (t) => {
  const server = await start(t);
  const client = t.use(await WireClient.greeted(server.address));
  await client.option(OPT.STRUCTURED_REPLY);
  await client.option(OPT.SET_META_CONTEXT, metaData('exp', ['base:allocation']));
  await server.removeExport('exp', { drainMs: 0 });
  server.addExport({ name: 'exp', device: new ServerMemoryDevice({ sizeBytes: 4096 }) });
  await client.go({ name: 'exp' });
  assert.equal(await statusError(client), 22);
});

test('a client that closes while haggling leaves nothing behind', async (t) => {
  const server = await start(t);
  const client = await WireClient.greeted(server.address);
  await client.option(OPT.LIST);
  client.endInput();
  assert.equal((await client.readToEnd()).length, 0);
  client.close();
  const second = t.use(await WireClient.greeted(server.address));
  assert.equal(await second.optionType(OPT.GO, infoData('exp')), REP.ACK);
});
