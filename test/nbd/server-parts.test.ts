// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import fc from 'fast-check';
import { ByteAccess } from '../../appliance/nbd/server/byte-access.ts';
import { type BudgetWaiter, ByteBudget } from '../../appliance/nbd/server/byte-budget.ts';
import { ByteQueue } from '../../appliance/nbd/server/byte-queue.ts';
import { Outbox } from '../../appliance/nbd/server/outbox.ts';
import { utf8Prefix } from '../../appliance/nbd/server/reply-writer.ts';
import { SlabPool } from '../../appliance/nbd/server/slab-pool.ts';
import { suite } from '../support/suite.ts';
import { ServerMemoryDevice } from './server-memory-device.ts';

const test = suite('nbd server, parts');

test('a byte queue gives back what was put in, however it is cut', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('push' as const), bytes: fc.uint8Array({ maxLength: 40 }) }),
    fc.record({
      kind: fc.constantFrom('head' as const, 'take' as const, 'skip' as const, 'copy' as const),
      count: fc.nat(50),
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new ByteQueue();
      let model = Buffer.alloc(0);
      for (const each of steps) {
        if (each.kind === 'push') {
          queue.push(Buffer.from(each.bytes));
          model = Buffer.concat([model, each.bytes]);
          continue;
        }
        const there = Math.min(each.count, model.length);
        if (each.kind === 'head') {
          assert.equal(queue.hasHead(each.count), model.length >= each.count);
          if (model.length < each.count) continue;
          assert.deepEqual(
            queue.buffer.subarray(queue.offset, queue.offset + each.count),
            model.subarray(0, each.count),
          );
          continue;
        }
        if (each.kind === 'take') assert.deepEqual(queue.take(there), model.subarray(0, there));
        else if (each.kind === 'skip') assert.equal(queue.skip(each.count), there);
        else {
          const target = Buffer.alloc(each.count);
          assert.equal(queue.copyTo(target, 0), there);
          assert.deepEqual(target.subarray(0, there), model.subarray(0, there));
        }
        model = model.subarray(there);
        assert.equal(queue.length, model.length);
      }
    }),
    { numRuns: 500 },
  );
});

const DISK = 8192;
const access = fc.record({
  kind: fc.constantFrom('read' as const, 'write' as const, 'zero' as const, 'trim' as const),
  offset: fc.nat(DISK - 1),
  length: fc.integer({ min: 1, max: 3000 }),
  value: fc.integer({ min: 1, max: 255 }),
});

test('any access to a device with blocks equals that to a flat array', async () => {
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(1, 512, 4096), fc.array(access, { maxLength: 30 }), async (block, steps) => {
      const limits = { minimumBytes: block, preferredBytes: 4096, maximumBytes: 4096 };
      const device = new ServerMemoryDevice({ sizeBytes: DISK, limits });
      const subject = new ByteAccess(device);
      const model = Buffer.alloc(DISK);
      for (const { kind, offset, length: asked, value } of steps) {
        const length = Math.min(asked, DISK - offset);
        if (kind === 'write') {
          model.fill(value, offset, offset + length);
          await subject.write(offset, Buffer.alloc(length, value), { fua: value > 128 });
        } else if (kind === 'zero') {
          model.fill(0, offset, offset + length);
          await subject.zero({ offset, length }, { fua: value > 128 });
        } else if (kind === 'trim') {
          const from = Math.ceil(offset / block) * block;
          const to = Math.floor((offset + length) / block) * block;
          if (to > from) model.fill(0, from, to);
          await subject.trim({ offset, length }, {});
        } else {
          const into = Buffer.alloc(length);
          await subject.read(offset, into);
          assert.deepEqual(into, model.subarray(offset, offset + length));
        }
      }
      assert.ok(device.content.equals(model));
    }),
    { numRuns: 300 },
  );
});

test('disjoint changes at the same time never lose bytes of a shared block', async () => {
  const cuts = fc.uniqueArray(fc.integer({ min: 1, max: DISK - 1 }), { minLength: 1, maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(cuts, fc.infiniteStream(fc.nat(3)), async (points, delays) => {
      const limits = { minimumBytes: 1024, preferredBytes: 4096, maximumBytes: 4096 };
      const device = new ServerMemoryDevice({ sizeBytes: DISK, limits });
      device.content.fill(0xff);
      device.before = async () => {
        const turns = delays.next().value ?? 0;
        for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      };
      const subject = new ByteAccess(device);
      const edges = [0, ...points.sort((a, b) => a - b), DISK];
      const model = Buffer.alloc(DISK);
      await Promise.all(
        edges.slice(0, -1).map(async (offset, index) => {
          const length = (edges[index + 1] ?? DISK) - offset;
          if (index % 3 === 0) return await subject.zero({ offset, length }, {});
          model.fill(index + 1, offset, offset + length);
          return await subject.write(offset, Buffer.alloc(length, index + 1), {});
        }),
      );
      assert.ok(device.content.equals(model));
    }),
    { numRuns: 100 },
  );
});

test('a fast zero that is refused in the middle has changed nothing at the edges', async () => {
  const limits = { minimumBytes: 512, preferredBytes: 512, maximumBytes: 4096 };
  const device = new ServerMemoryDevice({ sizeBytes: DISK, limits });
  device.content.fill(1);
  device.before = (operation) => {
    if (operation.startsWith('zero')) throw new Error('not fast');
  };
  await assert.rejects(new ByteAccess(device).zero({ offset: 100, length: 2000 }, { fastOnly: true }));
  assert.ok(device.content.equals(Buffer.alloc(DISK, 1)));
});

test('a byte budget serves the first in the queue first', async () => {
  const budget = new ByteBudget(100);
  const order: string[] = [];
  const waiter = (name: string, bytes: number): BudgetWaiter => {
    const self: BudgetWaiter = {
      onBudgetFreed: () => {
        if (budget.tryTake(bytes, self)) order.push(name);
      },
    };
    return self;
  };
  const first = waiter('holder', 90);
  assert.equal(budget.tryTake(90, first), true);
  const large = waiter('large', 80);
  const small = waiter('small', 5);
  assert.equal(budget.tryTake(80, large), false);
  assert.equal(budget.tryTake(5, small), false);
  budget.give(90);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, ['large', 'small']);
  assert.equal(budget.usedBytes, 85);
  budget.give(85);
  assert.equal(budget.hasWaiters, false);
});

test('replies that become complete in one turn leave as one write, in order of completion', async () => {
  const writes: Buffer[] = [];
  const stream = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      writes.push(Buffer.from(chunk));
      done();
    },
  });
  let gone = 0;
  const outbox = new Outbox(stream, new SlabPool(1024), {
    onRepliesGone: (replies) => {
      gone += replies;
    },
  });
  const pieces = ['a', 'b', 'c'].map((text) => {
    const piece = outbox.reserve(3);
    piece.slab.buffer.fill(text, piece.start, piece.end);
    return piece;
  });
  for (const piece of pieces) outbox.push(piece, 3);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(writes.map(String), ['aaabbbccc']);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(gone, 3);
  assert.equal(outbox.isEmpty, true);
});

test('a closed outbox accounts for everything once', () => {
  const stream = new Writable({ write: () => undefined });
  let gone = 0;
  const outbox = new Outbox(stream, new SlabPool(1024), {
    onRepliesGone: (_replies, costBytes) => {
      gone += costBytes;
    },
  });
  const late = outbox.reserve(10);
  outbox.push(outbox.reserve(10), 1);
  outbox.flush();
  outbox.push(outbox.reserve(10), 10);
  outbox.close();
  outbox.push(late, 100);
  outbox.close();
  assert.equal(gone, 111);
});

test('a slab that is taken again is the one that was given last, up to the limit', () => {
  const pool = new SlabPool(300 * 1024);
  const slabs = [pool.take(10), pool.take(10), pool.take(10)];
  for (const slab of slabs) pool.give(slab);
  assert.equal(pool.take(10), slabs[1]);
  assert.equal(pool.take(10), slabs[0]);
  assert.ok(!slabs.includes(pool.take(10)));
  assert.ok(pool.take(5_000_000).buffer.length >= 5_000_000);
});

test('a message is cut between characters', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }), fc.nat(60), (text, limit) => {
      const cut = utf8Prefix(text, limit);
      assert.ok(cut.length <= limit);
      assert.ok(text.replaceAll('\0', '').startsWith(cut.toString('utf8')));
    }),
  );
});
