// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { CHUNK, CMD, CMD_FLAG, FLAG, NBD_ERRNO, OPT, REP } from '../../appliance/nbd/protocol.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { infoData, u32, u64, WireClient, type WireRequest } from './server-wire.ts';

const test = suite('nbd server, extended headers');
const SIZE = 65_536;
const { EINVAL, ENOSPC } = NBD_ERRNO;
const PAYLOAD = CMD_FLAG.PAYLOAD_LEN;

async function start(
  t: TestContext,
  contexts?: readonly string[],
): Promise<{ client: WireClient; device: ServerMemoryDevice; server: NbdServer }> {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: SIZE });
  for (let at = 0; at < SIZE; at++) device.content[at] = at % 251;
  const extraContexts = new Map([['x-test:it', async () => [{ length: 0x1_0000_0000, status: 5 }]]]);
  server.addExport({ name: 'exp', device, extraContexts });
  const go = { name: 'exp', style: 'extended' as const, ...(contexts === undefined ? {} : { contexts }) };
  const client = t.use(await WireClient.transmitting(server.address, go));
  return { client, device, server };
}

async function errorOf(client: WireClient, request: WireRequest): Promise<number> {
  client.extendedRequest({ cookie: 8n, ...request });
  const chunk = await client.readExtendedChunk();
  assert.deepEqual([chunk.cookie, chunk.flags], [8n, 1]);
  assert.equal(chunk.offset, BigInt(request.offset ?? 0));
  if (chunk.type !== CHUNK.ERROR) return 0;
  return chunk.data.readUInt32BE(0);
}

test('the bytes of an extended read are those of the specification', async (t) => {
  const { client } = await start(t);
  client.send(
    Buffer.from('21e41c71' + '0000' + '0000' + '0102030405060708' + '0000000000000100' + '0000000000000004', 'hex'),
  );
  const expected =
    '6e8a278c' + '0001' + '0001' + '0102030405060708' + '0000000000000100' + '000000000000000c' + '0000000000000100';
  assert.equal((await client.read(44)).toString('hex'), `${expected}05060708`);
});

test('success without data is a NONE chunk that is done, also for writes', async (t) => {
  const { client, device } = await start(t);
  client.extendedRequest({ type: CMD.WRITE, flags: PAYLOAD, offset: 10, length: 3, data: Buffer.from('abc') });
  const chunk = await client.readExtendedChunk();
  assert.deepEqual([chunk.type, chunk.flags, chunk.offset, chunk.data.length], [CHUNK.NONE, 1, 10n, 0]);
  assert.equal(device.content.toString('latin1', 10, 13), 'abc');
});

test('a write without PAYLOAD_LEN is taken, because QEMU never sets it', async (t) => {
  const { client, device } = await start(t);
  const { FUA } = CMD_FLAG;
  assert.equal(await errorOf(client, { type: CMD.WRITE, offset: 7, length: 5, data: Buffer.from('abcde') }), 0);
  assert.equal(
    await errorOf(client, { type: CMD.WRITE, flags: FUA, offset: 12, length: 2, data: Buffer.from('fg') }),
    0,
  );
  assert.equal(device.content.toString('latin1', 7, 14), 'abcdefg');
  assert.equal(await errorOf(client, { type: CMD.FLUSH }), 0);
});

test('PAYLOAD_LEN where no payload belongs is consumed and refused', async (t) => {
  const { client } = await start(t);
  const data = Buffer.alloc(600);
  for (const type of [CMD.READ, CMD.TRIM, CMD.FLUSH, CMD.BLOCK_STATUS, 99]) {
    assert.equal(await errorOf(client, { type, flags: PAYLOAD, length: 600, data }), EINVAL);
  }
  assert.equal(await errorOf(client, { type: CMD.FLUSH }), 0);
  client.extendedRequest({ type: CMD.READ, flags: PAYLOAD, length: 2n ** 40n });
  assert.equal((await client.readToEnd()).length, 0);
});

test('64-bit lengths are checked and not wrapped', async (t) => {
  const { client } = await start(t);
  for (const length of [0x1_0000_0000n, 0xffff_ffff_ffff_ffffn, 2n ** 53n]) {
    assert.equal(await errorOf(client, { type: CMD.READ, length }), EINVAL);
    assert.equal(await errorOf(client, { type: CMD.WRITE_ZEROES, offset: 0xffff_ffff_ffff_f000n, length }), ENOSPC);
  }
});

test('a request with the compact magic ends the connection', async (t) => {
  const { client } = await start(t);
  client.request({ type: CMD.READ, length: 4, data: Buffer.alloc(4) });
  assert.equal((await client.readToEnd()).length, 0);
});

test('block status always has the extended form', async (t) => {
  const { client } = await start(t, ['base:allocation']);
  client.extendedRequest({ type: CMD.BLOCK_STATUS, offset: 4096, length: 8192 });
  const chunk = await client.readExtendedChunk();
  assert.equal(chunk.type, CHUNK.BLOCK_STATUS_EXT);
  assert.equal(chunk.data.toString('hex'), Buffer.concat([u32(1), u32(1), u64(8192), u64(3)]).toString('hex'));
});

test('block status can be narrowed to some contexts and a length by its payload', async (t) => {
  const { client } = await start(t, ['base:allocation', 'x-test:it']);
  const data = Buffer.concat([u64(6000), u32(2)]);
  client.extendedRequest({ type: CMD.BLOCK_STATUS, flags: PAYLOAD, length: data.length, data });
  const chunk = await client.readExtendedChunk();
  assert.equal(chunk.flags, 1);
  assert.equal(chunk.data.toString('hex'), Buffer.concat([u32(2), u32(1), u64(6000), u64(5)]).toString('hex'));
});

test('a status payload with unknown, doubled or no ids, or a range too long, is refused', async (t) => {
  const { client } = await start(t, ['base:allocation', 'x-test:it']);
  const bad = [
    Buffer.concat([u64(512), u32(3)]),
    Buffer.concat([u64(512), u32(1), u32(1)]),
    u64(512),
    Buffer.concat([u64(512), u32(1), Buffer.alloc(1)]),
    Buffer.concat([u64(SIZE + 1), u32(1)]),
    Buffer.concat([u64(2n ** 63n), u32(1)]),
    Buffer.concat([u64(0), u32(1)]),
    Buffer.alloc(5000),
    Buffer.alloc(1),
  ];
  for (const data of bad) {
    const request = { type: CMD.BLOCK_STATUS, flags: PAYLOAD, length: data.length, data };
    assert.equal(await errorOf(client, request), EINVAL, data.toString('hex', 0, 20));
  }
  assert.equal(await errorOf(client, { type: CMD.BLOCK_STATUS, flags: PAYLOAD, length: 0 }), EINVAL);
  assert.equal(await errorOf(client, { type: CMD.FLUSH }), 0);
});

test('the option takes no data, works alone, and rules out the older ones', async (t) => {
  const { server } = await start(t);
  const client = t.use(await WireClient.greeted(server.address));
  assert.equal(await client.optionType(OPT.EXTENDED_HEADERS, Buffer.from('x')), REP.ERR_INVALID);
  assert.equal(await client.optionType(OPT.EXTENDED_HEADERS), REP.ACK);
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY), REP.ERR_EXT_HEADER_REQD);
  assert.equal(await client.optionType(OPT.EXTENDED_HEADERS), REP.ERR_INVALID);
  client.sendOption(OPT.EXPORT_NAME, Buffer.from('exp'));
  assert.equal((await client.readToEnd()).length, 0);
});

test('extended headers may follow structured replies', async (t) => {
  const { server } = await start(t);
  const client = t.use(await WireClient.greeted(server.address));
  assert.equal(await client.optionType(OPT.STRUCTURED_REPLY), REP.ACK);
  assert.equal(await client.optionType(OPT.EXTENDED_HEADERS), REP.ACK);
  await client.go({ name: 'exp' });
  assert.equal(await errorOf(client, { type: CMD.FLUSH }), 0);
});

test('BLOCK_STATUS_PAYLOAD is offered only with extended headers and a selected context', async (t) => {
  const { server } = await start(t);
  for (const [style, contexts, isOffered] of [
    ['structured', ['base:allocation'], false],
    ['extended', [], false],
    ['extended', ['base:allocation'], true],
  ] as const) {
    const client = t.use(await WireClient.greeted(server.address));
    const [info] = await client.go({ name: 'exp', style, contexts });
    assert.equal(((info?.data.readUInt16BE(10) ?? 0) & FLAG.BLOCK_STATUS_PAYLOAD) !== 0, isOffered);
  }
  const plain = t.use(await WireClient.greeted(server.address));
  assert.equal(await plain.optionType(OPT.GO, infoData('exp')), REP.ACK);
});
