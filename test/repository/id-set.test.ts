// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { IdSet } from '../../appliance/repository/id-set.ts';
import { suite } from '../support/suite.ts';

const MIB = 1024 * 1024;

function idOf(n: number): Buffer {
  return createHash('sha256').update(String(n)).digest();
}

const test = suite('id set');

for (const bytesPerId of [8, 16] as const) {
  test(`with ${bytesPerId} bytes an id, it behaves as a Set`, () => {
    fc.assert(
      fc.property(fc.array(fc.nat(300), { maxLength: 2_000 }), (numbers) => {
        const set = new IdSet(bytesPerId);
        const model = new Set<number>();
        for (const n of numbers) {
          assert.equal(set.add(idOf(n)), !model.has(n));
          model.add(n);
        }
        assert.equal(set.size, model.size);
        for (let n = 0; n <= 310; n++) assert.equal(set.has(idOf(n)), model.has(n));
      }),
      { numRuns: 50 },
    );
  });

  test(`with ${bytesPerId} bytes an id, 200,000 take at most ${bytesPerId * 3} bytes each`, () => {
    const set = new IdSet(bytesPerId);
    const ids = Buffer.alloc(32 * 200_000);
    for (let n = 0; n < 200_000; n++) idOf(n).copy(ids, n * 32);
    for (let n = 0; n < 200_000; n++) assert.ok(set.add(ids, n * 32));
    for (let n = 0; n < 200_000; n++) assert.ok(!set.add(ids, n * 32));
    assert.equal(set.size, 200_000);
    assert.ok(set.memoryBytes < bytesPerId * 3 * 200_000, `${set.memoryBytes / MIB} MiB`);
  });
}

test('ids that differ only in bytes that are not kept are taken for one, others never', () => {
  const set = new IdSet(16);
  const id = idOf(1);
  set.add(id);
  for (let at = 16; at < 32; at++) {
    const other = Buffer.from(id);
    other.writeUInt8(other.readUInt8(at) ^ 1, at);
    assert.ok(!set.has(other), `byte ${at}`);
  }
});

test('an id whose kept bytes are zero can be added once', () => {
  const set = new IdSet(8);
  assert.ok(set.add(Buffer.alloc(32)));
  assert.ok(!set.add(Buffer.alloc(32)));
  assert.equal(set.size, 1);
});
