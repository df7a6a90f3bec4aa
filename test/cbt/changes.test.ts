// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { dirtyExtents } from '../../appliance/cbt/changes.ts';
import { suite } from '../support/suite.ts';

const test = suite('dirty extents');

interface Run {
  readonly length: number;
  readonly flags: number;
}

const runs = (flags: number): fc.Arbitrary<Run[]> =>
  fc.array(fc.record({ length: fc.integer({ min: 1, max: 9 }), flags: fc.integer({ min: 0, max: flags }) }), {
    minLength: 1,
    maxLength: 12,
  });

function flagsAt(list: readonly Run[], position: number): number | undefined {
  let end = 0;
  for (const { length, flags } of list) {
    end += length;
    if (position < end) return flags;
  }
  return undefined;
}

test('each byte is dirty data, an explicit zero, or left out, whatever the two lists are cut into', () => {
  fc.assert(
    fc.property(runs(3), runs(7), fc.integer({ min: 0, max: 1000 }), (dirty, allocation, start) => {
      const { extents, covered } = dirtyExtents(start, dirty, allocation);
      const total = (list: readonly Run[]): number => list.reduce((sum, { length }) => sum + length, 0);
      assert.equal(covered, Math.min(total(dirty), total(allocation)), 'the shorter list decides');
      for (let position = 0; position < covered; position++) {
        const isDirty = (flagsAt(dirty, position) ?? 0) % 2 === 1;
        // NBD: bit 1 promises zeroes; a hole (bit 0) alone has undefined content.
        const isZero = ((flagsAt(allocation, position) ?? 0) & 2) !== 0;
        const found = extents.filter(
          ({ offset, length }) => offset <= start + position && start + position < offset + length,
        );
        assert.deepEqual(
          found.map(({ kind }) => kind),
          isDirty ? [isZero ? 'zero' : 'data'] : [],
        );
      }
    }),
  );
});

test('a hole that does not promise zeroes is read', () => {
  const { extents } = dirtyExtents(0, [{ length: 10, flags: 1 }], [{ length: 10, flags: 1 }]);
  assert.deepEqual(extents, [{ offset: 0, length: 10, kind: 'data' }]);
});

test('dirty and zero is an explicit zero, not nothing', () => {
  const { extents } = dirtyExtents(
    0,
    [{ length: 10, flags: 1 }],
    [
      { length: 4, flags: 3 },
      { length: 6, flags: 2 },
    ],
  );
  assert.deepEqual(extents, [{ offset: 0, length: 10, kind: 'zero' }]);
});
