// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { exportInfo, listExports } from '../../appliance/nbd/client/list.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { blockDeviceConformance, patterned, readAll } from '../block/conformance.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { eventually } from './support-client-peers.ts';

const test = suite('nbd client: own server', { timeoutMs: 20_000 });
const MIB = 1024 * 1024;

for (const replies of ['simple', 'structured', 'extended'] as const) {
  blockDeviceConformance(`NBD over the own server with ${replies} replies`, async (t, content) => {
    const { uri } = await serve(t, content);
    return await connectNbd(uri, { replies });
  });
}

test('extended headers are agreed on, over TCP and several connections', async (t) => {
  const content = patterned(8 * MIB);
  content.fill(0, MIB, 2 * MIB);
  const { server, uri } = await serve(t, content, { kind: 'tcp', host: '127.0.0.1', port: 0 });
  const device = t.use(await connectNbd(uri, { connections: 4 }));
  assert.equal(device.replies, 'extended');
  assert.ok(device.features.isMultiConnSafe);
  await eventually('load opened more connections', async () => {
    const into = Buffer.alloc(content.length);
    const reads = [];
    for (let at = 0; at < into.length; at += 65_536) reads.push(device.read(at, into.subarray(at, at + 65_536)));
    await Promise.all(reads);
    assert.ok(into.equals(content));
    return device.connections > 1;
  });
  await device.zero({ offset: 0, length: device.sizeBytes });
  assert.ok((await readAll(device)).every((byte) => byte === 0));
  assert.equal((await exportInfo(uri)).replies, 'extended');
  assert.deepEqual(
    (await listExports(uri)).map((entry) => entry.name),
    server.exports().map((each) => each.name),
  );
});

async function serve(
  t: TestContext,
  content: Buffer,
  listen?: { readonly kind: 'tcp'; readonly host: string; readonly port: number },
): Promise<{ server: NbdServer; uri: string }> {
  const device = memoryDevice({ sizeBytes: content.length });
  for (let at = 0; at < content.length; at += MIB) await device.write(at, content.subarray(at, at + MIB));
  const address = listen ?? { kind: 'unix' as const, path: join(await t.tempDir(), 's') };
  const server = t.use(await NbdServer.listen({ listen: address }));
  server.addExport({ name: 'disk', device });
  const bound = server.address;
  const uri = bound.kind === 'tcp' ? `nbd://${bound.host}:${bound.port}/disk` : `nbd+unix:///disk?socket=${bound.path}`;
  return { server, uri };
}
