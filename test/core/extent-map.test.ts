// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { ExtentMap, type Slice } from '../../appliance/core/extent-map.ts';
import { suite } from '../support/suite.ts';

const test = suite('extent map');

const GAP = -1;

test('the newest entry wins and older ones are cut around it', () => {
  const map = new ExtentMap<string>();
  map.set({ offset: 0, length: 100 }, 'a');
  map.set({ offset: 40, length: 20 }, 'b', 7);
  map.delete({ offset: 90, length: 20 });
  assert.deepEqual(
    [...map.slices({ offset: 10, length: 110 })],
    [
      { offset: 10, length: 30, value: 'a', valueOffset: 10 },
      { offset: 40, length: 20, value: 'b', valueOffset: 7 },
      { offset: 60, length: 30, value: 'a', valueOffset: 60 },
      { offset: 90, length: 30, value: undefined, valueOffset: 0 },
    ],
  );
  assert.deepEqual([map.size, map.coveredBytes], [3, 90]);
});

test('an entry that continues its neighbours is merged with them', () => {
  const map = new ExtentMap<string>();
  map.set({ offset: 0, length: 10 }, 'a', 0);
  map.set({ offset: 20, length: 10 }, 'a', 20);
  map.set({ offset: 10, length: 10 }, 'a', 10);
  map.set({ offset: 30, length: 10 }, 'a', 99);
  assert.deepEqual(
    [...map.entries()],
    [
      { offset: 0, length: 30, value: 'a', valueOffset: 0 },
      { offset: 30, length: 10, value: 'a', valueOffset: 99 },
    ],
  );
});

test('changing the map while its slices are read is a defect that stops', () => {
  const map = new ExtentMap<number>();
  map.set({ offset: 0, length: 10 }, 1);
  map.set({ offset: 20, length: 10 }, 2);
  assert.throws(() => {
    for (const slice of map.slices({ offset: 0, length: 40 })) map.delete(slice);
  }, /does not change/);
});

test('retaining some values leaves gaps where the others were, and a map that goes on', () => {
  const map = new ExtentMap<number>();
  for (let index = 0; index < 3000; index++) map.set({ offset: index * 10, length: 10 }, index % 7);
  map.retain((value) => value === 3);
  const kept = Array.from({ length: 3000 }, (_, index) => index).filter((index) => index % 7 === 3);
  assert.deepEqual(
    [...map.entries()].map(({ offset, length, value }) => [offset, length, value]),
    kept.map((index) => [index * 10, 10, 3]),
  );
  assert.deepEqual([map.size, map.coveredBytes], [kept.length, kept.length * 10]);
  map.set({ offset: 0, length: 100 }, 9);
  assert.deepEqual(
    [...map.slices({ offset: 95, length: 10 })].map((slice) => slice.value),
    [9, 3],
  );
  map.retain(() => false);
  assert.deepEqual([map.size, map.coveredBytes, [...map.entries()].length], [0, 0, 0]);
});

test('offsets beyond 2^32 keep every bit', () => {
  const map = new ExtentMap<number>();
  const offset = 2 ** 52 + 515;
  map.set({ offset, length: 1024 }, 2 ** 50 + 1, 3);
  map.set({ offset: offset + 100, length: 1 }, 5);
  assert.deepEqual(
    [...map.entries()].map((entry) => [entry.offset - offset, entry.length, entry.value, entry.valueOffset]),
    [
      [0, 100, 2 ** 50 + 1, 3],
      [100, 1, 5, 0],
      [101, 923, 2 ** 50 + 1, 104],
    ],
  );
});

test('equals a flat array after any sequence of changes', () => {
  const range = fc.record({ offset: fc.nat(300), length: fc.nat(90) });
  const change = fc.record({ range, value: fc.integer({ min: GAP, max: 5 }), valueOffset: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 80 }), (changes) => {
      const map = new ExtentMap<number>();
      const flat = new Flat(400);
      for (const one of changes) {
        if (one.value === GAP) map.delete(one.range);
        else map.set(one.range, one.value, one.valueOffset);
        flat.set(one.range, one.value, one.valueOffset);
      }
      assertEqual(map, flat);
    }),
    { numRuns: 400 },
  );
});

test('equals a flat array when the same blocks are written again and again, whatever their neighbours hold', () => {
  const change = fc.record({
    block: fc.nat(12),
    value: fc.integer({ min: GAP, max: 2 }),
    valueOffset: fc.constantFrom(0, 10, 20),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 150 }), (changes) => {
      const map = new ExtentMap<number>();
      const flat = new Flat(140);
      for (const { block, value, valueOffset } of changes) {
        const range = { offset: block * 10, length: 10 };
        if (value === GAP) map.delete(range);
        else map.set(range, value, valueOffset);
        flat.set(range, value, valueOffset);
      }
      assertEqual(map, flat);
    }),
    { numRuns: 400 },
  );
});

test('equals a flat array through splits and removals of many leaves', () => {
  for (const seed of [1, 2, 3]) {
    const random = seeded(seed);
    const map = new ExtentMap<number>();
    const flat = new Flat(20_000);
    for (let round = 0; round < 30_000; round++) {
      const isWide = random() < 0.002;
      const offset = Math.floor(random() * 19_000);
      const length = 1 + Math.floor(random() * (isWide ? 6_000 : 3));
      const clipped = { offset, length: Math.min(length, 20_000 - offset) };
      const value = random() < 0.05 ? GAP : Math.floor(random() * 1000);
      if (value === GAP) map.delete(clipped);
      else map.set(clipped, value, offset % 7);
      flat.set(clipped, value, offset % 7);
      if (round % 5_000 === 4_999) assertEqual(map, flat);
    }
  }
});

test('appending in order fills leaves, from both ends', () => {
  const up = new ExtentMap<number>();
  const down = new ExtentMap<number>();
  for (let index = 0; index < 5_000; index++) {
    up.set({ offset: index * 10, length: 5 }, index);
    down.set({ offset: (4_999 - index) * 10, length: 5 }, 4_999 - index);
  }
  assert.deepEqual([...up.entries()], [...down.entries()]);
  assert.equal(up.size, 5_000);
});

/** The oracle: a value and a value byte for each byte. */
class Flat {
  readonly values: Int32Array;
  readonly bytes: Int32Array;

  constructor(sizeBytes: number) {
    this.values = new Int32Array(sizeBytes).fill(GAP);
    this.bytes = new Int32Array(sizeBytes);
  }

  set(range: { offset: number; length: number }, value: number, valueOffset: number): void {
    for (let index = 0; index < range.length; index++) {
      this.values[range.offset + index] = value;
      this.bytes[range.offset + index] = value === GAP ? 0 : valueOffset + index;
    }
  }
}

function assertEqual(map: ExtentMap<number>, flat: Flat): void {
  const read = new Flat(flat.values.length);
  let offset = 0;
  let covered = 0;
  let previous: Slice<number> | undefined;
  let hits = 0;
  for (const slice of map.slices({ offset: 0, length: flat.values.length })) {
    assert.equal(slice.offset, offset);
    assert.ok(slice.length > 0);
    offset += slice.length;
    read.set(slice, slice.value ?? GAP, slice.valueOffset);
    if (slice.value !== undefined) {
      covered += slice.length;
      hits += 1;
    }
    const isMerged = !(
      previous !== undefined &&
      previous.value === slice.value &&
      (slice.value === undefined || previous.valueOffset + previous.length === slice.valueOffset)
    );
    assert.ok(isMerged, 'neighbours that continue each other are merged');
    previous = slice;
  }
  assert.equal(offset, flat.values.length);
  assert.deepEqual(read, flat);
  assert.deepEqual([map.coveredBytes, map.size], [covered, hits]);
}

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 4_294_967_296;
  };
}
