// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { BlockFeatures, BlockLimits } from '../../appliance/block/block-device.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { CHUNK, CMD, CMD_FLAG, INFO, NBD_ERRNO } from '../../appliance/nbd/protocol.ts';
import type { MetaContextSource } from '../../appliance/nbd/server/nbd-export.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';
import { type GoOptions, requestBytes, u32, WireClient, type WireRequest } from './server-wire.ts';

const test = suite('nbd server, transmission');
const SIZE = 1_048_576;
const FUA = CMD_FLAG.FUA;
const { EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN } = NBD_ERRNO;

interface Setup extends Partial<GoOptions> {
  readonly sizeBytes?: number;
  readonly limits?: BlockLimits;
  readonly features?: Partial<BlockFeatures>;
  readonly isReadOnly?: boolean;
  readonly extraContexts?: ReadonlyMap<string, MetaContextSource>;
}

interface Running {
  readonly server: NbdServer;
  readonly device: ServerMemoryDevice;
  readonly client: WireClient;
}

async function start(t: TestContext, setup: Setup = {}): Promise<Running> {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const { sizeBytes = SIZE, limits, features = {}, isReadOnly = false, extraContexts = new Map() } = setup;
  const device = new ServerMemoryDevice({ sizeBytes, features, ...(limits === undefined ? {} : { limits }) });
  for (let at = 0; at < sizeBytes; at++) device.content[at] = (at * 7 + (at >> 8)) & 0xff;
  server.addExport({ name: 'exp', device, isReadOnly, extraContexts });
  const client = t.use(await WireClient.transmitting(server.address, { name: 'exp', ...setup }));
  return { server, device, client };
}

async function simpleError(client: WireClient, request: WireRequest): Promise<number> {
  client.request({ cookie: 77n, ...request });
  return await client.readSimple(77n);
}

/** 0 when the request succeeded. */
async function chunkError(client: WireClient, request: WireRequest): Promise<number> {
  client.request({ cookie: 77n, ...request });
  const chunk = await client.readChunk();
  assert.equal(chunk.cookie, 77n);
  assert.equal(chunk.flags, 1);
  if (chunk.type !== CHUNK.ERROR) return 0;
  assert.equal(chunk.data.readUInt16BE(4), chunk.data.length - 6);
  return chunk.data.readUInt32BE(0);
}

test('a simple read gives its header and the bytes', async (t) => {
  const { client, device } = await start(t);
  client.request({ type: CMD.READ, cookie: 0x0123456789abcdefn, offset: 1001, length: 5000 });
  assert.equal(await client.readSimple(0x0123456789abcdefn), 0);
  assert.deepEqual(await client.read(5000), device.content.subarray(1001, 6001));
});

test('a structured read is one chunk that is done, with offset and bytes', async (t) => {
  const { client, device } = await start(t, { style: 'structured' });
  client.request({ type: CMD.READ, cookie: 5n, offset: 4096, length: 70_000, flags: CMD_FLAG.DF });
  const chunk = await client.readChunk();
  assert.deepEqual([chunk.flags, chunk.type, chunk.cookie], [1, CHUNK.OFFSET_DATA, 5n]);
  assert.equal(chunk.data.readBigUInt64BE(0), 4096n);
  assert.deepEqual(chunk.data.subarray(8), device.content.subarray(4096, 74_096));
});

test('a read of nothing succeeds without a data chunk', async (t) => {
  const { client } = await start(t, { style: 'structured' });
  client.request({ type: CMD.READ, cookie: 5n, length: 0 });
  const chunk = await client.readChunk();
  assert.deepEqual([chunk.flags, chunk.type, chunk.data.length], [1, CHUNK.NONE, 0]);
});

test('length 0 is fine for every other command too, block status excepted', async (t) => {
  const { client } = await start(t);
  for (const type of [CMD.WRITE, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, CMD.FLUSH, CMD.READ]) {
    assert.equal(await simpleError(client, { type, length: 0 }), 0);
  }
});

test('under structured replies a failed read is an error chunk, never a simple reply', async (t) => {
  const { client, device } = await start(t, { style: 'structured' });
  assert.equal(await chunkError(client, { type: CMD.READ, offset: SIZE, length: 1 }), EINVAL);
  assert.equal(await chunkError(client, { type: CMD.READ, length: 1, flags: CMD_FLAG.NO_HOLE }), EINVAL);
  device.before = () => {
    throw new Error('a disk on fire');
  };
  client.request({ type: CMD.READ, length: 1 });
  const chunk = await client.readChunk();
  assert.equal(chunk.data.readUInt32BE(0), EIO);
  assert.equal(chunk.data.subarray(6).toString(), 'a disk on fire');
});

test('an error message is cut at 4096 bytes, between characters', async (t) => {
  const { client, device } = await start(t, { style: 'structured' });
  device.before = () => {
    throw new Error(`x${'ü'.repeat(5000)}`);
  };
  client.request({ type: CMD.READ, length: 1 });
  const { data } = await client.readChunk();
  assert.equal(data.readUInt16BE(4), 4095);
  assert.equal(data.subarray(6).toString(), `x${'ü'.repeat(2047)}`);
});

test('a rejected write has its payload consumed', async (t) => {
  const { client } = await start(t);
  for (const length of [1, 28, 4096, 300_000]) {
    const data = Buffer.alloc(length, 0xee);
    assert.equal(await simpleError(client, { type: CMD.WRITE, offset: SIZE - length + 1, length, data }), ENOSPC);
    assert.equal(await simpleError(client, { type: CMD.WRITE, flags: 0x8000, length, data }), EINVAL);
  }
  assert.equal(await simpleError(client, { type: CMD.READ, length: 0 }), 0);
});

test('writes, zeroes and trims of a read-only export get EPERM, the payload consumed', async (t) => {
  const { client, device } = await start(t, { isReadOnly: true });
  const data = Buffer.alloc(5000);
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 5000, data }), EPERM);
  assert.equal(await simpleError(client, { type: CMD.WRITE, offset: SIZE, length: 5000, data }), EPERM);
  assert.equal(await simpleError(client, { type: CMD.TRIM, length: 5000 }), EPERM);
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, length: 5000 }), EPERM);
  assert.equal(await simpleError(client, { type: CMD.FLUSH }), 0);
  assert.deepEqual(device.calls, ['flush 0+0']);
});

test('unknown commands and flags get EINVAL and the connection goes on', async (t) => {
  const { client } = await start(t);
  for (const type of [8, 9, 99, 0xffff]) assert.equal(await simpleError(client, { type, length: 512 }), EINVAL);
  for (const flag of [CMD_FLAG.DF, CMD_FLAG.REQ_ONE, CMD_FLAG.PAYLOAD_LEN, 0x40, 0x8000]) {
    assert.equal(await simpleError(client, { type: CMD.READ, length: 512, flags: flag }), EINVAL);
  }
  assert.equal(await simpleError(client, { type: CMD.BLOCK_STATUS, length: 512 }), EINVAL);
  assert.equal(await simpleError(client, { type: CMD.FLUSH }), 0);
});

test('a wrong request magic ends the connection', async (t) => {
  const { client } = await start(t);
  client.send(u32(0x12560953), Buffer.alloc(24));
  assert.equal((await client.readToEnd()).length, 0);
});

test('past the end: writes and zeroes get ENOSPC, everything else EINVAL', async (t) => {
  const { client } = await start(t);
  const cases = [
    { offset: SIZE, length: 1 },
    { offset: SIZE - 1, length: 2 },
    { offset: 0xffff_ffff_ffff_ffffn, length: 1 },
    { offset: 0x8000_0000_0000_0000n, length: 0xfffff },
    { offset: SIZE + 1, length: 0 },
  ];
  for (const { offset, length } of cases) {
    const data = Buffer.alloc(length);
    assert.equal(await simpleError(client, { type: CMD.WRITE, offset, length, data }), ENOSPC);
    assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, offset, length }), ENOSPC);
    for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE]) {
      assert.equal(await simpleError(client, { type, offset, length }), EINVAL);
    }
  }
});

test('zeroes, trims and caches up to 4 GiB - 1 are one request', async (t) => {
  const sizeBytes = 5 * 1024 ** 3;
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: 4096 });
  const calls: string[] = [];
  const large = Object.assign(Object.create(device) as ServerMemoryDevice, {
    sizeBytes,
    zero: async (range: { offset: number; length: number }) => {
      calls.push(`zero ${range.offset}+${range.length}`);
    },
    trim: async (range: { offset: number; length: number }) => {
      calls.push(`trim ${range.offset}+${range.length}`);
    },
  });
  server.addExport({ name: 'big', device: large });
  const client = t.use(await WireClient.transmitting(server.address, { name: 'big' }));
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, offset: 7, length: 0xffffffff }), 0);
  assert.equal(await simpleError(client, { type: CMD.TRIM, offset: 2 ** 30, length: 0xffffffff }), 0);
  assert.deepEqual(calls, ['zero 7+4294967295', 'trim 1073741824+4294967295']);
});

test('a read above the maximum fails alone; a write above 32 MiB ends the connection', async (t) => {
  const { client, device } = await start(t, { sizeBytes: 40 * 1024 * 1024, style: 'structured' });
  const length = 33_554_433;
  assert.equal(await chunkError(client, { type: CMD.READ, length }), EOVERFLOW);
  client.request({ type: CMD.READ, length: length - 1 });
  const { data } = await client.readChunk();
  assert.ok(data.subarray(8).equals(device.content.subarray(0, length - 1)));
  client.request({ type: CMD.WRITE, length });
  assert.equal((await client.readToEnd()).length, 0);
});

test('requests above the maximum of the device are served in slices to clients that do not know it', async (t) => {
  const limits = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: 65_536 };
  const { client, device } = await start(t, { limits });
  const data = Buffer.alloc(200_000, 0x5a);
  assert.equal(await simpleError(client, { type: CMD.WRITE, offset: 100, length: 200_000, data }), 0);
  assert.deepEqual(device.content.subarray(100, 200_100), data);
  assert.equal(await simpleError(client, { type: CMD.READ, offset: 100, length: 200_000 }), 0);
  assert.deepEqual(await client.read(200_000), data);
});

test('clients that know the maximum must keep it', async (t) => {
  const limits = { minimumBytes: 512, preferredBytes: 4096, maximumBytes: 65_536 };
  const { client } = await start(t, { limits, infos: [INFO.BLOCK_SIZE] });
  const data = Buffer.alloc(66_048);
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 66_048, data }), EINVAL);
  assert.equal(await simpleError(client, { type: CMD.READ, length: 66_048 }), EINVAL);
  assert.equal(await simpleError(client, { type: CMD.READ, offset: 1, length: 512 }), EINVAL);
  assert.equal(await simpleError(client, { type: CMD.TRIM, offset: 512, length: 100 }), EINVAL);
});

test('FUA reaches the device on every kind of change and is harmless elsewhere', async (t) => {
  const { client, device } = await start(t);
  const data = Buffer.alloc(512);
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 512, data, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.TRIM, length: 4096, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, length: 4096, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.FLUSH, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.CACHE, length: 4096, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.READ, length: 0, flags: FUA }), 0);
  assert.deepEqual(device.calls, [
    'write fua 0+512',
    'trim fua 0+4096',
    'zero fua 0+4096',
    'flush 0+0',
    'cache 0+4096',
  ]);
});

test('on a device without FUA it is a flush behind the change', async (t) => {
  const { client, device } = await start(t, { features: { canFua: false } });
  const data = Buffer.alloc(512);
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 512, data, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, length: 512, flags: FUA }), 0);
  assert.equal(await simpleError(client, { type: CMD.TRIM, length: 512, flags: FUA }), 0);
  assert.deepEqual(device.calls, ['write 0+512', 'flush 0+0', 'zero 0+512', 'flush 0+0', 'trim 0+512', 'flush 0+0']);
});

test('a device that can neither is offered without FUA and FLUSH, and they get EINVAL', async (t) => {
  const features = { canFua: false, canFlush: false, canTrim: false, canZero: false, canCache: false };
  const { client } = await start(t, { features });
  const data = Buffer.alloc(512);
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 512, data, flags: FUA }), EINVAL);
  for (const type of [CMD.FLUSH, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
    assert.equal(await simpleError(client, { type, length: 512 }), EINVAL);
  }
  assert.equal(await simpleError(client, { type: CMD.WRITE, length: 512, data }), 0);
});

test('write zeroes passes NO_HOLE and FAST_ZERO on, and reads back as zeroes', async (t) => {
  const { client, device } = await start(t);
  const flags = CMD_FLAG.NO_HOLE | CMD_FLAG.FAST_ZERO;
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, length: 8192, flags }), 0);
  assert.deepEqual(device.calls, ['zero keep fast 0+8192']);
  assert.equal(await simpleError(client, { type: CMD.READ, length: 8192 }), 0);
  assert.deepEqual(await client.read(8192), Buffer.alloc(8192));
});

test('ENOTSUP is the answer to FAST_ZERO only; without its offer FAST_ZERO gets EINVAL', async (t) => {
  const { client, device } = await start(t);
  device.before = () => {
    throw new ApplianceError('NOT_SUPPORTED', 'not fast');
  };
  const zero = { type: CMD.WRITE_ZEROES, length: 512 };
  assert.equal(await simpleError(client, { ...zero, flags: CMD_FLAG.FAST_ZERO }), ENOTSUP);
  assert.equal(await simpleError(client, zero), EINVAL);
  const other = await start(t, { features: { canFastZero: false } });
  assert.equal(await simpleError(other.client, { ...zero, flags: CMD_FLAG.FAST_ZERO }), EINVAL);
});

test('every error of a device has its value on the wire', async (t) => {
  const { client, device } = await start(t);
  const cases: [unknown, number, number][] = [
    [new ApplianceError('READ_ONLY', 'x'), EPERM, EPERM],
    [new ApplianceError('OUT_OF_RANGE', 'x'), ENOSPC, EINVAL],
    [new ApplianceError('NO_SPACE', 'x'), ENOSPC, ENOSPC],
    [new ApplianceError('CLOSED', 'x'), ESHUTDOWN, ESHUTDOWN],
    [new ApplianceError('REPOSITORY_CORRUPT', 'x'), EIO, EIO],
    [Object.assign(new Error('x'), { code: 'ENOSPC' }), ENOSPC, ENOSPC],
    ['not even an error', EIO, EIO],
  ];
  for (const [error, onWrite, onRead] of cases) {
    device.before = async () => {
      throw error;
    };
    assert.equal(await simpleError(client, { type: CMD.WRITE, length: 1, data: Buffer.alloc(1) }), onWrite);
    assert.equal(await simpleError(client, { type: CMD.READ, length: 1 }), onRead);
  }
});

test('requests run at the same time, finish in any order, and keep their cookies', async (t) => {
  const { client, device } = await start(t);
  const slow = Promise.withResolvers<void>();
  device.before = (_operation, range) => (range.offset === 0 ? slow.promise : undefined);
  client.request({ type: CMD.READ, cookie: 1n, offset: 0, length: 4 });
  client.request({ type: CMD.READ, cookie: 2n, offset: 512, length: 4 });
  client.request({ type: CMD.READ, cookie: 2n, offset: 1024, length: 4 });
  assert.equal(await client.readSimple(2n), 0);
  assert.deepEqual(await client.read(4), device.content.subarray(512, 516));
  assert.equal(await client.readSimple(2n), 0);
  assert.deepEqual(await client.read(4), device.content.subarray(1024, 1028));
  slow.resolve();
  assert.equal(await client.readSimple(1n), 0);
  assert.deepEqual(await client.read(4), device.content.subarray(0, 4));
});

test('a disconnect waits for what runs, then closes without a reply', async (t) => {
  const { client, device } = await start(t);
  const slow = Promise.withResolvers<void>();
  device.before = () => slow.promise;
  const data = Buffer.alloc(512, 1);
  client.send(
    requestBytes({ type: CMD.WRITE, cookie: 3n, length: 512, data }),
    requestBytes({ type: CMD.DISC, cookie: 4n, offset: 99, length: 99 }),
    requestBytes({ type: CMD.READ, cookie: 5n, length: 512 }),
  );
  setImmediate(() => slow.resolve());
  assert.equal(await client.readSimple(3n), 0);
  assert.equal((await client.readToEnd()).length, 0);
  assert.deepEqual(device.content.subarray(0, 512), data);
});

test('a client that only closes its sending side still gets all its replies', async (t) => {
  const { client, device } = await start(t);
  const count = 700;
  for (let index = 0; index < count; index++) {
    client.request({ type: CMD.READ, cookie: BigInt(index), offset: index, length: 1000 });
  }
  client.endInput();
  const all = await client.readToEnd();
  assert.equal(all.length, count * 1016);
  assert.deepEqual(all.subarray(-1000), device.content.subarray(count - 1, count + 999));
});

test('block status has one chunk per context, merged extents, nothing beyond the range', async (t) => {
  const source: MetaContextSource = async () => [
    { length: 1000, status: 1 },
    { length: 24, status: 1 },
    { length: 0, status: 9 },
    { length: 512, status: 0 },
    { length: 0xffffffff, status: 7 },
  ];
  const extraContexts = new Map([['qemu:dirty-bitmap:b', source]]);
  const contexts = ['base:allocation', 'qemu:dirty-bitmap:b'];
  const { client, device } = await start(t, { style: 'structured', extraContexts, contexts });
  await device.write(8192, Buffer.alloc(4096, 1));
  await device.zero({ offset: 12_288, length: 4096 }, { keepAllocated: true });
  client.request({ type: CMD.BLOCK_STATUS, cookie: 6n, offset: 4096, length: 16_384 });
  const first = await client.readChunk();
  const second = await client.readChunk();
  const hex = (...words: number[]): string => Buffer.concat(words.map(u32)).toString('hex');
  assert.deepEqual([first.flags, first.type, first.cookie], [0, CHUNK.BLOCK_STATUS, 6n]);
  assert.equal(first.data.toString('hex'), hex(1, 4096, 3, 4096, 0, 4096, 2, 4096, 3));
  assert.deepEqual([second.flags, second.type, second.cookie], [1, CHUNK.BLOCK_STATUS, 6n]);
  assert.equal(second.data.toString('hex'), hex(2, 1024, 1, 512, 0, 14_848, 7));
});

test('REQ_ONE gives exactly one extent', async (t) => {
  const { client, device } = await start(t, { style: 'structured', contexts: ['base:allocation'] });
  await device.write(4096, Buffer.alloc(4096, 1));
  client.request({ type: CMD.BLOCK_STATUS, offset: 1000, length: 20_000, flags: CMD_FLAG.REQ_ONE });
  assert.equal((await client.readChunk()).data.toString('hex'), '0000000100000c1800000003');
});

test('block status without a context, of nothing, or past the end is EINVAL', async (t) => {
  const none = await start(t, { style: 'structured' });
  assert.equal(await chunkError(none.client, { type: CMD.BLOCK_STATUS, length: 512 }), EINVAL);
  const { client } = await start(t, { style: 'structured', contexts: ['base:allocation'] });
  assert.equal(await chunkError(client, { type: CMD.BLOCK_STATUS, length: 0 }), EINVAL);
  assert.equal(await chunkError(client, { type: CMD.BLOCK_STATUS, offset: 1, length: SIZE }), EINVAL);
});

test('a context that answers nonsense is an error of that request only', async (t) => {
  const answers = [[], [{ length: 0, status: 0 }], [{ length: -5, status: 0 }], [{ length: 5, status: 2 ** 40 }]];
  let asked = -1;
  const extraContexts = new Map([['x-test:it', async () => answers[asked] ?? []]]);
  const { client } = await start(t, { style: 'structured', extraContexts, contexts: ['x-test:it'] });
  for (asked = 0; asked < answers.length; asked++) {
    assert.equal(await chunkError(client, { type: CMD.BLOCK_STATUS, length: 512 }), EIO);
  }
});

const BLOCKS: BlockLimits = { minimumBytes: 4096, preferredBytes: 4096, maximumBytes: 65_536 };

test('unaligned access of clients that do not know the block size is served in place', async (t) => {
  const { client, device } = await start(t, { limits: BLOCKS });
  const model = Buffer.from(device.content);
  for (const [offset, length] of [
    [1, 1],
    [4095, 2],
    [100, 200],
    [4000, 9000],
    [8192, 5],
    [3, 150_000],
    [SIZE - 3, 3],
  ] as const) {
    const data = Buffer.alloc(length, offset & 0xff);
    data.copy(model, offset);
    assert.equal(await simpleError(client, { type: CMD.WRITE, offset, length, data }), 0);
    assert.equal(await simpleError(client, { type: CMD.READ, offset, length }), 0);
    assert.deepEqual(await client.read(length), data);
  }
  assert.equal(await simpleError(client, { type: CMD.WRITE_ZEROES, offset: 4000, length: 9000 }), 0);
  model.fill(0, 4000, 13_000);
  assert.equal(await simpleError(client, { type: CMD.TRIM, offset: 20_000, length: 10_000 }), 0);
  model.fill(0, 20_480, 28_672);
  assert.ok(device.content.equals(model));
});

test('unaligned writes into one block at the same time lose nothing', async (t) => {
  const { client, device } = await start(t, { limits: BLOCKS });
  device.before = () => new Promise((resolve) => setImmediate(resolve));
  device.content.fill(0);
  const requests: Buffer[] = [];
  for (let index = 0; index < 64; index++) {
    const data = Buffer.alloc(100, index + 1);
    requests.push(requestBytes({ type: CMD.WRITE, cookie: BigInt(index), offset: index * 100, length: 100, data }));
  }
  client.send(...requests);
  for (let index = 0; index < 64; index++) assert.equal(await client.readSimple(), 0);
  for (let at = 0; at < 6400; at++) assert.equal(device.content[at], Math.floor(at / 100) + 1);
});

test('a read from the cache of the device never reaches its slow path', async (t) => {
  const path = `${await t.tempDir()}/s`;
  const server = t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  const device = new ServerMemoryDevice({ sizeBytes: SIZE, isCached: true });
  device.before = () => {
    throw new Error('the slow path');
  };
  device.content.fill('abc');
  server.addExport({ name: 'exp', device });
  const client = t.use(await WireClient.transmitting(server.address, { name: 'exp' }));
  for (const length of [1, 512, 100_000]) {
    assert.equal(await simpleError(client, { type: CMD.READ, offset: 3, length }), 0);
    assert.deepEqual(await client.read(length), device.content.subarray(3, 3 + length));
  }
});

test('the statistics of an export count what went through it', async (t) => {
  const { client, server } = await start(t);
  await simpleError(client, { type: CMD.WRITE, length: 512, data: Buffer.alloc(512) });
  await simpleError(client, { type: CMD.READ, length: 1000 });
  await client.read(1000);
  await simpleError(client, { type: CMD.READ, offset: SIZE, length: 1 });
  assert.deepEqual(server.exports()[0]?.statistics, {
    connections: 1,
    requests: 2,
    errors: 1,
    bytesRead: 1000,
    bytesWritten: 512,
  });
});
