// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  alignOutward,
  appendExtent,
  appendRange,
  type Extent,
  type ExtentKind,
  endOf,
  intersect,
  normalizeRanges,
  type Range,
  totalLength,
} from '../../appliance/core/extents.ts';
import { suite } from '../support/suite.ts';

/*
 * The oracle is an array with one element per byte of a small disk; what the algebra says about ranges must be what the
 * array says byte by byte.
 */

const DISK_BYTES = 200;

/** Ranges on a small disk, empty ones included, so that edges meet often. */
const smallRange: fc.Arbitrary<Range> = fc
  .tuple(fc.nat(DISK_BYTES), fc.nat(DISK_BYTES))
  .map(([a, b]) => ({ offset: Math.min(a, b), length: Math.abs(a - b) }));

function paint(ranges: Iterable<Range>): boolean[] {
  const bytes = Array.from({ length: DISK_BYTES }, () => false);
  for (const range of ranges) bytes.fill(true, range.offset, endOf(range));
  return bytes;
}

const test = suite('extents');

test('the intersection of two ranges holds exactly the bytes that both hold', () => {
  fc.assert(
    fc.property(smallRange, smallRange, (a, b) => {
      const [inA, inB] = [paint([a]), paint([b])];
      const common = intersect(a, b);
      assert.deepEqual(
        paint(common === undefined ? [] : [common]),
        inA.map((isInA, index) => isInA && inB[index] === true),
      );
      assert.ok(common === undefined || common.length > 0);
    }),
  );
});

test('normalized ranges hold the same bytes, sorted, apart from each other, and none is empty', () => {
  fc.assert(
    fc.property(fc.array(smallRange, { maxLength: 30 }), (ranges) => {
      const normal = normalizeRanges(ranges);
      assert.deepEqual(paint(normal), paint(ranges));
      for (const [index, range] of normal.entries()) {
        assert.ok(range.length > 0);
        const next = normal[index + 1];
        assert.ok(next === undefined || endOf(range) < next.offset);
      }
      assert.equal(totalLength(normal), paint(ranges).filter(Boolean).length);
    }),
  );
});

test('normalizing leaves its input alone, and normalizing twice changes nothing', () => {
  fc.assert(
    fc.property(fc.array(smallRange, { maxLength: 10 }), (ranges) => {
      const before = structuredClone(ranges);
      const once = normalizeRanges(ranges);
      assert.deepEqual(ranges, before);
      assert.deepEqual(normalizeRanges(once), once);
    }),
  );
});

test('aligning outward gives the smallest aligned range that covers the range, cut at the limit', () => {
  fc.assert(
    fc.property(smallRange, fc.integer({ min: 1, max: 64 }), (range, unitBytes) => {
      const aligned = alignOutward(range, unitBytes, DISK_BYTES);
      assert.equal(aligned.offset % unitBytes, 0);
      assert.ok(endOf(aligned) % unitBytes === 0 || endOf(aligned) === DISK_BYTES);
      assert.ok(aligned.offset <= range.offset && range.offset - aligned.offset < unitBytes);
      assert.ok(endOf(aligned) >= endOf(range) && endOf(aligned) - endOf(range) < unitBytes);
    }),
  );
});

test('offsets beyond 32 bits keep every digit', () => {
  const far = { offset: 2 ** 40 + 515, length: 1 };
  assert.deepEqual(alignOutward(far, 512), { offset: 2 ** 40 + 512, length: 512 });
  assert.deepEqual(intersect(far, { offset: 2 ** 40, length: 1_024 }), far);
});

test('appended ranges in order equal the normalized list', () => {
  fc.assert(
    fc.property(fc.array(smallRange, { maxLength: 20 }), (ranges) => {
      const disjoint = normalizeRanges(ranges);
      const halves = disjoint.flatMap(({ offset, length }) => {
        const first = Math.floor(length / 2);
        return [
          { offset, length: first },
          { offset: offset + first, length: length - first },
        ];
      });
      const appended: { offset: number; length: number }[] = [];
      for (const half of halves) appendRange(appended, half);
      assert.deepEqual(appended, disjoint);
    }),
  );
});

test('appended extents describe each byte once and merge only neighbours of one kind', () => {
  const kind = fc.constantFrom<ExtentKind>('data', 'zero', 'hole');
  const pieces = fc.array(fc.record({ length: fc.nat(20), kind }), { maxLength: 30 });
  fc.assert(
    fc.property(pieces, (list) => {
      const extents: { offset: number; length: number; kind: ExtentKind }[] = [];
      const bytes: ExtentKind[] = [];
      for (const piece of list) {
        appendExtent(extents, { offset: bytes.length, ...piece });
        bytes.push(...Array.from({ length: piece.length }, () => piece.kind));
      }
      assert.deepEqual(
        extents.flatMap((extent: Extent) => Array.from({ length: extent.length }, () => extent.kind)),
        bytes,
      );
      for (const [index, extent] of extents.entries()) {
        const next = extents[index + 1];
        assert.ok(next === undefined || (next.offset === endOf(extent) && next.kind !== extent.kind));
      }
    }),
  );
});

test('what is appended is a copy, so that merging never changes the argument', () => {
  const first: Range = { offset: 0, length: 4 };
  const ranges: { offset: number; length: number }[] = [];
  appendRange(ranges, first);
  appendRange(ranges, { offset: 4, length: 4 });
  assert.deepEqual(first, { offset: 0, length: 4 });
  const extent: Extent = { ...first, kind: 'data' };
  const extents: { offset: number; length: number; kind: ExtentKind }[] = [];
  appendExtent(extents, extent);
  appendExtent(extents, { offset: 4, length: 4, kind: 'data' });
  assert.deepEqual(extent, { offset: 0, length: 4, kind: 'data' });
});
