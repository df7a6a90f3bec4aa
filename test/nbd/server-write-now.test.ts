// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { CMD, CMD_FLAG } from '../../appliance/nbd/protocol.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { requestBytes, WireClient } from './server-wire.ts';

const test = suite('nbd server, writes at once');

async function start(
  t: TestContext,
  writesNow: (offset: number) => boolean,
): Promise<{ device: ServerMemoryDevice; client: WireClient }> {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: 1_048_576, writesNow });
  server.addExport({ name: 'exp', device });
  return { device, client: t.use(await WireClient.transmitting(server.address, { name: 'exp' })) };
}

test('a write that is alone is offered to the device at once; what it leaves, and FUA, is written as ever', async (t) => {
  const { client, device } = await start(t, (offset) => offset !== 8192);
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

test('a write behind others is not written at once, and none is before its payload is there', async (t) => {
  const { client, device } = await start(t, () => true);
  const gate = Promise.withResolvers<void>();
  device.before = (operation) => (operation === 'flush' ? gate.promise : undefined);
  const data = Buffer.alloc(3000, 7);
  const bytes = requestBytes({ type: CMD.WRITE, cookie: 2n, offset: 4096, length: 3000, data });
  client.request({ type: CMD.FLUSH, cookie: 1n });
  client.send(bytes);
  assert.equal(await client.readSimple(2n), 0);
  gate.resolve();
  assert.equal(await client.readSimple(1n), 0);
  for (const part of [bytes.subarray(0, 28), bytes.subarray(28, 100), bytes.subarray(100)]) {
    client.send(part);
    // The server reads it as a part of its own.
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(await client.readSimple(2n), 0);
  assert.deepEqual(device.content.subarray(4096, 7096), data);
  assert.deepEqual(device.calls, ['flush 0+0', 'write 4096+3000', 'write now 4096+3000']);
});
