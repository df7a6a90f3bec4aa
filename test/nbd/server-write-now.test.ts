// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { DataWrite } from '../../appliance/block/block-device.ts';
import { CMD, CMD_FLAG } from '../../appliance/nbd/protocol.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { requestBytes, WireClient } from './server-wire.ts';

const test = suite('nbd server, writes at once');

async function start(
  t: TestContext,
  writesNow: (writes: readonly DataWrite[]) => boolean,
): Promise<{ device: ServerMemoryDevice; client: WireClient }> {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: 1_048_576, writesNow });
  server.addExport({ name: 'exp', device });
  return { device, client: t.use(await WireClient.transmitting(server.address, { name: 'exp' })) };
}

test('a write is offered to the device at once; what it leaves, and FUA, is written as ever', async (t) => {
  const { client, device } = await start(t, ([first]) => first?.offset !== 8192);
  const write = async (offset: number, flags: number): Promise<void> => {
    const data = Buffer.alloc(5000, 1 + (offset >> 12));
    client.request({ type: CMD.WRITE, cookie: 3n, offset, length: 5000, data, flags });
    assert.equal(await client.readSimple(3n), 0);
    assert.deepEqual(device.content.subarray(offset, offset + 5000), data);
  };
  await write(0, 0);
  await write(8192, 0);
  await write(16_384, CMD_FLAG.FUA);
  assert.deepEqual(device.calls, ['write now 0+5000', 'write 8192+5000', 'write fua 16384+5000']);
});

test('writes that arrive together are done together, in order with other changes', async (t) => {
  const { client, device } = await start(t, () => true);
  const request = (type: number, cookie: number, offset: number, flags = 0): Buffer => {
    const data = type === CMD.WRITE ? { data: Buffer.alloc(1000, cookie) } : {};
    return requestBytes({ type, cookie: BigInt(cookie), offset, length: 1000, flags, ...data });
  };
  client.send(
    request(CMD.WRITE, 1, 0),
    request(CMD.WRITE, 2, 500),
    request(CMD.WRITE_ZEROES, 3, 0),
    request(CMD.WRITE, 4, 4000),
    request(CMD.WRITE, 5, 2000, CMD_FLAG.FUA),
  );
  const cookies = [];
  for (let reply = 0; reply < 5; reply++) {
    const header = await client.read(16);
    assert.equal(header.readUInt32BE(4), 0);
    cookies.push(Number(header.readBigUInt64BE(8)));
  }
  assert.deepEqual(
    cookies.toSorted((a, b) => a - b),
    [1, 2, 3, 4, 5],
  );
  assert.deepEqual(device.calls, [
    'write now 0+1000, 500+1000',
    'zero 0+1000',
    'write now 4000+1000',
    'write fua 2000+1000',
  ]);
  assert.ok(device.content.subarray(1000, 1500).every((byte) => byte === 2));
  assert.ok(device.content.subarray(0, 1000).every((byte) => byte === 0));
});

test('many writes are cut into parts of at most 96 KiB, and a longer one is written as ever', async (t) => {
  const { client, device } = await start(t, () => true);
  const lengths = [40_000, 40_000, 40_000, 98_305];
  for (const [index, length] of lengths.entries()) {
    client.request({
      type: CMD.WRITE,
      cookie: BigInt(index),
      offset: index * 100_000,
      length,
      data: Buffer.alloc(length, 9),
    });
  }
  for (const _ of lengths) assert.equal((await client.read(16)).readUInt32BE(4), 0);
  for (const call of device.calls) {
    const bytes = [...call.matchAll(/\+([0-9]+)/g)].reduce((sum, found) => sum + Number(found[1]), 0);
    assert.equal(call.startsWith('write now'), bytes <= 98_304, call);
  }
  for (const [index, length] of lengths.entries()) {
    assert.ok(device.content.subarray(index * 100_000, index * 100_000 + length).every((byte) => byte === 9));
  }
});

test('nothing is written before its payload is there', async (t) => {
  const { client, device } = await start(t, () => true);
  const data = Buffer.alloc(3000, 7);
  const bytes = requestBytes({ type: CMD.WRITE, cookie: 2n, offset: 4096, length: 3000, data });
  for (const part of [bytes.subarray(0, 28), bytes.subarray(28, 100), bytes.subarray(100)]) {
    client.send(part);
    // The server reads it as a part of its own.
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(await client.readSimple(2n), 0);
  assert.deepEqual(device.content.subarray(4096, 7096), data);
  assert.deepEqual(device.calls, ['write now 4096+3000']);
});
