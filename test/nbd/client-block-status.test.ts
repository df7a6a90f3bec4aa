// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { NbdClientOptions } from '../../appliance/nbd/client/options.ts';
import { CHUNK } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';
import { type BadServerScript, u16, u32, u64 } from './support-bad-server.ts';
import { type Answer, EXTENDED, openScripted, rejects, STRUCTURED, status } from './support-client-rig.ts';

const test = suite('nbd client: block status', { timeoutMs: 10_000 });

const TWO_CONTEXTS: BadServerScript = {
  contexts: [
    [7, 'base:allocation'],
    [9, 'qemu:dirty-bitmap:b0'],
  ],
};
const WITH_CONTEXTS: NbdClientOptions = {
  ...STRUCTURED,
  metaContexts: ['base:allocation', 'qemu:dirty-bitmap:b0'],
};

test('each context of a block status may cover another length; both are cut and merged', async (t) => {
  const { device } = await openScripted(
    t,
    (c, r) => {
      c.chunk(r, false, CHUNK.BLOCK_STATUS, status(9, [512, 1], [512, 1], [0xffff0000, 0]));
      c.chunk(r, true, CHUNK.BLOCK_STATUS, status(7, [4096, 3], [1024, 0xfffffff0]));
    },
    WITH_CONTEXTS,
    TWO_CONTEXTS,
  );
  const all = await device.blockStatusAll({ offset: 0, length: 65_536 });
  assert.deepEqual(all.get('base:allocation'), [
    { length: 4096, flags: 3 },
    { length: 1024, flags: 0xfffffff0 },
  ]);
  assert.deepEqual(all.get('qemu:dirty-bitmap:b0'), [
    { length: 1024, flags: 1 },
    { length: 64_512, flags: 0 },
  ]);
});

test('HOLE without ZERO is data, and unknown bits are ignored', async (t) => {
  const extents = [0, 1, 2, 3, 0xfffffff1, 0xfffffffe, 0xffffffff].map((flags) => [512, flags] as const);
  const { device } = await openScripted(
    t,
    (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, status(1, ...extents)),
    { ...STRUCTURED, metaContexts: ['base:allocation'] },
    { contexts: [[1, 'base:allocation']] },
  );
  assert.deepEqual(await device.extents({ offset: 4096, length: 8192 }), [
    { offset: 4096, length: 1024, kind: 'data' },
    { offset: 5120, length: 512, kind: 'zero' },
    { offset: 5632, length: 512, kind: 'hole' },
    { offset: 6144, length: 512, kind: 'data' },
    { offset: 6656, length: 512, kind: 'zero' },
    { offset: 7168, length: 512, kind: 'hole' },
  ]);
});

test('an answer of a million extents is cut at 65,536 and never kept whole', async (t) => {
  const many = Buffer.alloc(4 + 8 * 2 ** 20);
  many.writeUInt32BE(1, 0);
  for (let index = 0; index < 2 ** 20; index++) {
    many.writeUInt32BE(512, 4 + 8 * index);
    many.writeUInt32BE(index % 2, 8 + 8 * index);
  }
  const { device } = await openScripted(
    t,
    (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, many),
    { ...STRUCTURED, metaContexts: ['x:y'] },
    { contexts: [[1, 'x:y']], sizeBytes: 2 ** 31 },
  );
  const extents = await device.blockStatus({ offset: 0, length: 2 ** 31 }, 'x:y');
  assert.equal(extents.length, 65_536);
  assert.deepEqual(extents.at(-1), { length: 512, flags: 1 });
});

test('the flags of an extended block status have 64 bits', async (t) => {
  const extent = (length: bigint, flags: bigint): Buffer => Buffer.concat([u64(length), u64(flags)]);
  const { device } = await openScripted(
    t,
    (c, r) => {
      const extents = [extent(512n, 2n ** 40n + 1n), extent(2n ** 63n, 2n)];
      c.chunk(r, true, CHUNK.BLOCK_STATUS_EXT, Buffer.concat([u32(1), u32(2), ...extents]));
    },
    { ...EXTENDED, metaContexts: ['x:y'] },
    { contexts: [[1, 'x:y']] },
  );
  assert.deepEqual(await device.blockStatus({ offset: 0, length: 4096 }, 'x:y'), [
    { length: 512, flags: 2 ** 40 + 1 },
    { length: 3584, flags: 2 },
  ]);
});

const BROKEN_STATUS: Record<string, Answer> = {
  'a zero-length extent': (c, r) => {
    c.chunk(r, false, CHUNK.BLOCK_STATUS, status(7, [0, 0]));
    c.chunk(r, true, CHUNK.BLOCK_STATUS, status(9, [512, 0]));
  },
  'no extent': (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, u32(7)),
  'half an extent': (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, Buffer.concat([status(7, [512, 0]), u32(0)])),
  'a context twice': (c, r) => {
    c.chunk(r, false, CHUNK.BLOCK_STATUS, status(7, [512, 0]));
    c.chunk(r, true, CHUNK.BLOCK_STATUS, status(7, [512, 0]));
  },
  'a context that was not selected': (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, status(8, [512, 0])),
  'only one of two contexts': (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS, status(7, [512, 0])),
  'no context at all': (c, r) => c.chunk(r, true, CHUNK.NONE),
  'the extended type without extended headers': (c, r) =>
    c.chunk(r, true, CHUNK.BLOCK_STATUS_EXT, Buffer.concat([u32(7), u32(1), u64(512), u64(0)])),
  'more than 2^20 extents': (c, r) =>
    c.raw(Buffer.concat([u32(0x668e33ef), u16(1), u16(5), u64(r.cookie), u32(2 ** 24)])),
};

for (const [name, answer] of Object.entries(BROKEN_STATUS)) {
  test(`${name} in a block status is a protocol error`, async (t) => {
    const { device } = await openScripted(t, answer, WITH_CONTEXTS, TWO_CONTEXTS);
    await rejects(device.blockStatusAll({ offset: 0, length: 4096 }), 'NBD_PROTOCOL');
    await rejects(device.read(0, Buffer.alloc(512)), 'NBD_PROTOCOL');
  });
}

test('a block status with extended headers must count its extents rightly', async (t) => {
  const { device } = await openScripted(
    t,
    (c, r) => c.chunk(r, true, CHUNK.BLOCK_STATUS_EXT, Buffer.concat([u32(1), u32(2), u64(512), u64(0)])),
    { ...EXTENDED, metaContexts: ['x:y'] },
    { contexts: [[1, 'x:y']] },
  );
  await rejects(device.blockStatus({ offset: 0, length: 4096 }, 'x:y'), 'NBD_PROTOCOL');
});

test('extents that are not on blocks take the careful state of each block', async (t) => {
  const { device } = await openScripted(
    t,
    (c, r) => {
      c.chunk(r, false, CHUNK.BLOCK_STATUS, status(7, [4096, 3], [100, 3], [6000, 0], [5000, 3]));
      c.chunk(r, true, CHUNK.BLOCK_STATUS, status(9, [4095, 0], [1, 1], [8192, 0], [4096 + 7, 0]));
    },
    WITH_CONTEXTS,
    { ...TWO_CONTEXTS, blockSize: [4096, 4096, 2 ** 20] },
  );
  const all = await device.blockStatusAll({ offset: 0, length: 65_536 });
  assert.deepEqual(all.get('base:allocation'), [
    { length: 4096, flags: 3 },
    { length: 12_288, flags: 0 },
  ]);
  assert.deepEqual(all.get('qemu:dirty-bitmap:b0'), [
    { length: 4096, flags: 1 },
    { length: 12_288, flags: 0 },
    { length: 4096, flags: 1 },
  ]);
});
