// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { CMD, CMD_FLAG, INFO, OPT } from '../../appliance/nbd/protocol.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import {
  extendedRequestBytes,
  infoData,
  metaData,
  optionBytes,
  requestBytes,
  u32,
  u64,
  WireClient,
  type WireRequest,
} from './server-wire.ts';

const test = suite('nbd server, hostile clients', { timeoutMs: 60_000 });
const SIZE = 262_144;
const MIB = 1024 * 1024;

async function start(t: TestContext): Promise<NbdServer> {
  const path = `${await t.tempDir()}/s`;
  const limits = { maxTotalBytes: 64 * MIB, maxConnections: 128 };
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path }, limits }));
  addExport(server);
  return server;
}

function addExport(server: NbdServer): void {
  const extraContexts = new Map([['qemu:dirty-bitmap:b0', async () => [{ length: SIZE, status: 1 }]]]);
  server.addExport({ name: 'exp', device: new ServerMemoryDevice({ sizeBytes: SIZE }), extraContexts });
}

const FLAGS = u32(3);
const OPTIONS: readonly Buffer[] = [
  optionBytes(OPT.LIST),
  optionBytes(99, Buffer.from('unknown')),
  optionBytes(OPT.STARTTLS),
  optionBytes(OPT.INFO, infoData('exp', [INFO.BLOCK_SIZE, INFO.NAME])),
  optionBytes(OPT.LIST_META_CONTEXT, metaData('exp', [])),
  optionBytes(OPT.SET_META_CONTEXT, metaData('exp', ['base:allocation', 'qemu:dirty-bitmap:b0'])),
];

function commands(encode: (request: WireRequest) => Buffer, writeFlag: number): Buffer[] {
  const data = Buffer.from('some bytes');
  return [
    encode({ type: CMD.READ, cookie: 1n, offset: 10, length: 20 }),
    encode({ type: CMD.WRITE, cookie: 2n, offset: 100, length: data.length, data, flags: writeFlag | CMD_FLAG.FUA }),
    encode({ type: CMD.WRITE, cookie: 3n, offset: SIZE, length: data.length, data, flags: writeFlag }),
    encode({ type: CMD.WRITE_ZEROES, cookie: 4n, offset: 4096, length: 4096, flags: CMD_FLAG.NO_HOLE }),
    encode({ type: CMD.TRIM, cookie: 5n, offset: 8192, length: 8192 }),
    encode({ type: CMD.BLOCK_STATUS, cookie: 6n, length: SIZE }),
    encode({ type: CMD.CACHE, cookie: 7n, length: 4096 }),
    encode({ type: 200, cookie: 8n }),
    encode({ type: CMD.FLUSH, cookie: 9n }),
    encode({ type: CMD.READ, cookie: 10n, offset: 100, length: 5000 }),
    encode({ type: CMD.DISC, cookie: 11n }),
  ];
}

const SIMPLE = Buffer.concat([
  FLAGS,
  ...OPTIONS,
  optionBytes(OPT.EXPORT_NAME, Buffer.from('exp')),
  ...commands(requestBytes, 0),
]);
const STRUCTURED = Buffer.concat([
  FLAGS,
  optionBytes(OPT.STRUCTURED_REPLY),
  ...OPTIONS,
  optionBytes(OPT.GO, infoData('exp', [INFO.BLOCK_SIZE])),
  ...commands(requestBytes, 0),
]);
const NARROWED = Buffer.concat([u64(4096), u32(1)]);
const EXTENDED = Buffer.concat([
  FLAGS,
  optionBytes(OPT.EXTENDED_HEADERS),
  ...OPTIONS,
  optionBytes(OPT.GO, infoData('exp')),
  extendedRequestBytes({
    type: CMD.BLOCK_STATUS,
    flags: CMD_FLAG.PAYLOAD_LEN,
    length: NARROWED.length,
    data: NARROWED,
  }),
  ...commands(extendedRequestBytes, CMD_FLAG.PAYLOAD_LEN),
]);
const ABORTED = Buffer.concat([FLAGS, ...OPTIONS, optionBytes(OPT.ABORT)]);
const SESSIONS: Readonly<Record<string, Buffer>> = { SIMPLE, STRUCTURED, EXTENDED, ABORTED };

/** Everything that the server answers to these bytes, up to its close. */
async function answer(server: NbdServer, parts: readonly Buffer[]): Promise<Buffer> {
  const client = await WireClient.connect(server.address);
  try {
    for (const part of parts) {
      client.send(part);
      if (parts.length > 1) await new Promise((resolve) => setImmediate(resolve));
    }
    client.endInput();
    return await client.readToEnd();
  } finally {
    client.close();
  }
}

async function assertServes(server: NbdServer): Promise<void> {
  const client = await WireClient.transmitting(server.address, { name: 'exp', style: 'structured' });
  client.request({ type: CMD.READ, cookie: 1n, length: 512 });
  assert.equal((await client.readChunk()).data.length, 520);
  client.close();
}

async function inParallel<T>(items: readonly T[], lanes: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      for (const item of queue) await work(item);
    }),
  );
}

for (const [name, session] of Object.entries(SESSIONS)) {
  test(`${name}: one byte at a time and all at once give the same answer`, async (t) => {
    const server = await start(t);
    const whole = await answer(server, [session]);
    assert.ok(whole.length > 300, `${whole.length} bytes`);
    await server.removeExport('exp', { drainMs: 0 });
    addExport(server);
    const single = Array.from(session, (_byte, index) => session.subarray(index, index + 1));
    // Replies may overtake each other, so their bytes are compared without their order.
    assert.ok((await answer(server, single)).sort().equals(whole.sort()));
  });

  test(`${name}: cut off after any byte, the server closes and goes on`, async (t) => {
    const server = await start(t);
    const offsets = Array.from({ length: session.length }, (_value, index) => index);
    await inParallel(offsets, 40, async (offset) => {
      await answer(server, [session.subarray(0, offset)]);
    });
    await assertServes(server);
    assert.equal(server.bytesInFlight, 0);
  });
}

interface Mutation {
  readonly kind: 'set' | 'insert' | 'remove' | 'repeat';
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** Bytes that hurt more often than random ones: extremes and the protocol's own numbers. */
const NASTY: readonly Uint8Array[] = [
  Buffer.from('ffffffff', 'hex'),
  Buffer.from('7fffffff', 'hex'),
  Buffer.from('80000000', 'hex'),
  Buffer.from('00000000', 'hex'),
  Buffer.from('ffffffffffffffff', 'hex'),
  Buffer.from('0000000002000001', 'hex'),
  Buffer.from('25609513', 'hex'),
  Buffer.from('21e41c71', 'hex'),
  Buffer.from('49484156454f5054', 'hex'),
];

const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom('set' as const, 'insert' as const, 'remove' as const, 'repeat' as const),
  at: fc.nat(2000),
  bytes: fc.oneof(fc.constantFrom(...NASTY), fc.uint8Array({ minLength: 1, maxLength: 40 })),
});

function mutate(session: Buffer, mutations: readonly Mutation[]): Buffer {
  let result = Buffer.from(session);
  for (const { kind, at, bytes } of mutations) {
    const offset = at % (result.length + 1);
    const head = result.subarray(0, offset);
    const tail = result.subarray(offset);
    if (kind === 'insert') result = Buffer.concat([head, bytes, tail]);
    else if (kind === 'remove') result = Buffer.concat([head, tail.subarray(bytes.length)]);
    else if (kind === 'repeat') result = Buffer.concat([head, tail.subarray(0, 64), tail]);
    else result.set(bytes.subarray(0, result.length - offset), offset);
  }
  return result;
}

test('mutated sessions are answered or cut off, and never hurt the server', async (t) => {
  const server = await start(t);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(SIMPLE, STRUCTURED, EXTENDED, ABORTED),
      fc.array(mutation, { minLength: 1, maxLength: 6 }),
      async (session, mutations) => {
        await answer(server, [mutate(session, mutations)]);
        assert.equal(server.bytesInFlight, 0);
      },
    ),
    { numRuns: 1500 },
  );
  await assertServes(server);
});

test('random bytes behind a good handshake are answered or cut off', async (t) => {
  const server = await start(t);
  const handshake = [FLAGS, optionBytes(OPT.STRUCTURED_REPLY), optionBytes(OPT.GO, infoData('exp'))];
  const request = fc.record({
    type: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.nat(0xffff)),
    flags: fc.oneof(fc.constant(0), fc.nat(0xffff)),
    cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    offset: fc.oneof(fc.nat(SIZE), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
    length: fc.oneof(fc.nat(SIZE), fc.nat(0xffffffff)),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(request, { maxLength: 30 }), async (requests) => {
      const bytes = requests.map((each) =>
        requestBytes(
          each.type === CMD.WRITE && each.length <= SIZE ? { ...each, data: Buffer.alloc(each.length) } : each,
        ),
      );
      await answer(server, [Buffer.concat([...handshake, ...bytes])]);
      assert.equal(server.bytesInFlight, 0);
    }),
    { numRuns: 400 },
  );
  await assertServes(server);
});
