// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { Coverage } from '../../appliance/nbd/client/coverage.ts';
import { Request, type StatusExtent } from '../../appliance/nbd/client/request.ts';
import { alignStatus } from '../../appliance/nbd/client/status-alignment.ts';
import { WriteLedger } from '../../appliance/nbd/client/write-ledger.ts';
import { CMD, CMD_FLAG } from '../../appliance/nbd/protocol.ts';
import { suite } from '../support/suite.ts';

const test = suite('nbd client: units');

test('coverage agrees with an array of bits', () => {
  const range = fc.tuple(fc.nat({ max: 39 }), fc.integer({ min: 1, max: 12 }));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), (ranges) => {
      const coverage = new Coverage();
      const bits = new Uint8Array(64);
      for (const [start, length] of ranges) {
        const end = Math.min(start + length, 40);
        const isNew = bits.subarray(start, end).every((bit) => bit === 0);
        // A refused range ends the connection: nothing is added after it.
        assert.equal(coverage.add(start, end), isNew);
        if (!isNew) return;
        bits.fill(1, start, end);
        assert.equal(
          coverage.isComplete(40),
          bits.subarray(0, 40).every((bit) => bit === 1),
        );
      }
    }),
    { numRuns: 3000 },
  );
});

test('coverage by a random permutation of pieces is complete at the end and not before', () => {
  const pieces = fc.shuffledSubarray(
    Array.from({ length: 40 }, (_, index) => index),
    { minLength: 40 },
  );
  fc.assert(
    fc.property(pieces, (order) => {
      const coverage = new Coverage();
      for (const [count, piece] of order.entries()) {
        assert.equal(coverage.isComplete(400), false, `after ${count}`);
        assert.ok(coverage.add(piece * 10, piece * 10 + 10));
      }
      assert.ok(coverage.isComplete(400));
      assert.equal(coverage.isComplete(401), false);
    }),
    { numRuns: 300 },
  );
});

test('coverage gives up on more pieces than any honest server needs', () => {
  const coverage = new Coverage();
  let added = 0;
  while (coverage.add(2 * added + 1, 2 * added + 2)) added += 1;
  assert.equal(added, 32_768);
});

test('aligned status never calls dirty clean nor data zero, and covers whole blocks', () => {
  const extent = fc.record({ length: fc.integer({ min: 1, max: 40 }), flags: fc.nat({ max: 3 }) });
  fc.assert(
    fc.property(fc.array(extent, { minLength: 1, maxLength: 20 }), (extents) => {
      const told = extents.reduce((sum, { length }) => sum + length, 0);
      for (const context of ['base:allocation', 'qemu:dirty-bitmap:b']) {
        const aligned = alignStatus(
          extents.map((e) => ({ ...e })),
          16,
          context,
        );
        const flags = expand(aligned);
        assert.ok(aligned.every(({ length }) => length % 16 === 0));
        assert.equal(flags.length, Math.ceil(told / 16) * 16);
        for (const [index, raw] of expand(extents).entries()) {
          const block = flags[index] ?? 0;
          if (context === 'base:allocation') assert.equal(block & ~raw, 0, 'claims only what every byte has');
          else assert.equal(raw & ~block, 0, 'keeps what any byte has');
        }
      }
    }),
    { numRuns: 500 },
  );
});

test('flags whose meaning is unknown are not joined', () => {
  const extents = [{ length: 8, flags: 1 }];
  assert.deepEqual(alignStatus([{ length: 32, flags: 7 }], 16, 'x:y'), [{ length: 32, flags: 7 }]);
  assert.throws(
    () => alignStatus(extents, 16, 'x:y'),
    (error) => hasCode(error, 'NBD_PROTOCOL'),
  );
});

test('the ledger lets a flush wait for earlier writes only', async () => {
  const ledger = new WriteLedger();
  const [first, second] = [write(), write()];
  ledger.begin(first);
  const order: string[] = [];
  const waiting = ledger.settled().then((upTo) => order.push(`settled ${upTo}`));
  ledger.begin(second);
  await Promise.resolve();
  order.push('first ends');
  ledger.end(first, true);
  await waiting;
  assert.deepEqual(order, ['first ends', 'settled 1']);
  ledger.end(second, true);
  assert.equal(await ledger.settled(), 2);
});

test('the ledger remembers a loss exactly when unflushed or unanswered writes were there', async () => {
  const loss = new ApplianceError('NBD_CONNECTION_LOST', 'gone');
  const clean = new WriteLedger();
  const durable = write(CMD_FLAG.FUA);
  clean.begin(durable);
  clean.end(durable, true);
  const flushed = write();
  clean.begin(flushed);
  clean.end(flushed, true);
  clean.flushed(await clean.settled());
  const failed = write();
  clean.begin(failed);
  clean.end(failed, false);
  clean.connectionLost(loss, [new Request(CMD.READ, { offset: 0, length: 1 })]);
  assert.equal(clean.failure, undefined);
  const unflushed = new WriteLedger();
  const acknowledged = write();
  unflushed.begin(acknowledged);
  unflushed.end(acknowledged, true);
  unflushed.connectionLost(loss, []);
  assert.equal(unflushed.failure, loss);
  const unanswered = new WriteLedger();
  unanswered.connectionLost(loss, [write()]);
  unanswered.connectionLost(new ApplianceError('TIMED_OUT', 'later'), [write()]);
  assert.equal(unanswered.failure, loss);
});

function write(flags: number = 0): Request {
  return new Request(CMD.WRITE, { offset: 0, length: 1, flags });
}

function expand(extents: readonly StatusExtent[]): number[] {
  return extents.flatMap(({ length, flags }) => Array.from({ length }, () => flags));
}
