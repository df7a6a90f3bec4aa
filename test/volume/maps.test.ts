// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type ContentKey, keyAt, ZERO_KEY } from '../../appliance/core/content-id.ts';
import { InvariantViolation } from '../../appliance/core/invariant.ts';
import { MAP_LEVELS } from '../../appliance/repository/format.ts';
import { MAX_MAP_CHUNKS, newNode } from '../../appliance/repository/node.ts';
import { diffMaps } from '../../appliance/volume/map-diff.ts';
import { type EditedMap, MapEditor } from '../../appliance/volume/map-editor.ts';
import { MapReader } from '../../appliance/volume/map-reader.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { MemoryNodes } from './memory-nodes.ts';

/** Chunks of the model: more than one node of level 1. */
const CHUNKS = 9_000;

/** One change: a value for a chunk (0 is zero), or zeroes for a run. Gaps are from the end of the change before. */
type Change = { readonly gap: number; readonly value: number } | { readonly gap: number; readonly zeroes: number };

const gap = fc.oneof(
  { weight: 5, arbitrary: fc.nat(5) },
  { weight: 2, arbitrary: fc.nat(200) },
  { weight: 1, arbitrary: fc.nat(5_000) },
);
const change: fc.Arbitrary<Change> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ gap, value: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ gap, zeroes: fc.oneof(fc.nat(100), fc.nat(9_000)).map((n) => n + 1) }) },
);
const changes = fc.array(change, { maxLength: 120 });

function idOf(value: number): Buffer {
  return Buffer.alloc(32, value);
}

/** Applies the changes to a map and to a flat array of values. */
async function edit(nodes: MemoryNodes, base: EditedMap, model: number[], list: readonly Change[]): Promise<EditedMap> {
  const editor = new MapEditor(base.root, nodes, nodes);
  let chunk = 0;
  for (const one of list) {
    chunk += one.gap;
    const count = Math.min('zeroes' in one ? one.zeroes : 1, CHUNKS - chunk);
    if (count <= 0) break;
    if ('zeroes' in one) {
      await editor.setZero(chunk, count);
      model.fill(0, chunk, chunk + count);
    } else {
      await editor.set(chunk, idOf(one.value));
      model[chunk] = one.value;
    }
    chunk += count;
  }
  return editor.finish();
}

const EMPTY: EditedMap = { root: ZERO_KEY, dataChunks: 0 };

async function assertMap(nodes: MemoryNodes, map: EditedMap, model: readonly number[]): Promise<void> {
  const reader = new MapReader(map.root, nodes);
  for (let chunk = 0; chunk < CHUNKS; chunk += 1 + (chunk % 3)) {
    const expected = keyAt(idOf(model[chunk] ?? 0));
    if ((await reader.chunkKey(chunk)) !== expected) assert.fail(`chunk ${chunk}`);
  }
  const runs: boolean[] = [];
  let end = 0;
  for await (const run of reader.runs(0, CHUNKS)) {
    assert.equal(run.first, end);
    for (let n = 0; n < run.count; n++) runs.push(run.isData);
    end = run.first + run.count;
  }
  assert.equal(end, CHUNKS);
  assert.deepEqual(
    runs.findIndex((isData, n) => isData !== (model[n] !== 0)),
    -1,
  );
  assert.equal(map.dataChunks, model.filter((value) => value !== 0).length);
}

const test = suite('maps');

test('a map behaves as a flat array under any changes, one map after another', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(changes, { minLength: 1, maxLength: 4 }), fc.boolean(), async (rounds, isWarm) => {
      const nodes = new MemoryNodes();
      nodes.isWarm = isWarm;
      const model = Array.from({ length: CHUNKS }, () => 0);
      let map = EMPTY;
      for (const round of rounds) {
        map = await edit(nodes, map, model, round);
        await assertMap(nodes, map, model);
      }
    }),
    { numRuns: 60 },
  );
});

test('the same contents give the same root, whatever the way to them', async () => {
  await fc.assert(
    fc.asyncProperty(changes, changes, async (first, second) => {
      const nodes = new MemoryNodes();
      const model = Array.from({ length: CHUNKS }, () => 0);
      const inSteps = await edit(nodes, await edit(nodes, EMPTY, model, first), model, second);
      const editor = new MapEditor(ZERO_KEY, nodes, nodes);
      for (const [chunk, value] of model.entries()) if (value !== 0) await editor.set(chunk, idOf(value));
      assert.deepEqual(await editor.finish(), inSteps);
    }),
    { numRuns: 40 },
  );
});

test('two maps differ exactly where their arrays do, and shared subtrees are not read', async () => {
  await fc.assert(
    fc.asyncProperty(changes, changes, async (first, second) => {
      const nodes = new MemoryNodes();
      const before = Array.from({ length: CHUNKS }, () => 0);
      const a = await edit(nodes, EMPTY, before, first);
      const after = [...before];
      const b = await edit(nodes, a, after, second);
      const expected = after.flatMap((value, chunk) => (value === before[chunk] ? [] : [chunk]));
      const actual: number[] = [];
      for await (const run of diffMaps(a.root, b.root, nodes)) {
        assert.notEqual(run.first, (actual.at(-1) ?? -2) + 1, 'runs are merged');
        for (let n = 0; n < run.count; n++) actual.push(run.first + n);
      }
      assert.deepEqual(actual, expected);
    }),
    { numRuns: 40 },
  );
  const nodes = new MemoryNodes();
  const model = Array.from({ length: CHUNKS }, () => 0);
  const many = Array.from({ length: 2_000 }, () => ({ gap: 3, value: 1 }));
  const a = await edit(nodes, EMPTY, model, many);
  const b = await edit(nodes, a, model, [{ gap: 5_000, value: 2 }]);
  nodes.reads = 0;
  for await (const run of diffMaps(a.root, b.root, nodes)) assert.deepEqual(run, { first: 5_000, count: 1 });
  assert.equal(nodes.reads, 2 * MAP_LEVELS);
});

test('an incremental stores one path of nodes, and shares all others', async () => {
  const nodes = new MemoryNodes();
  const model = Array.from({ length: CHUNKS }, () => 0);
  const many = Array.from({ length: CHUNKS }, () => ({ gap: 0, value: 1 }));
  const full = await edit(nodes, EMPTY, model, many);
  nodes.puts = 0;
  await edit(nodes, full, model, [{ gap: 4_321, value: 2 }]);
  assert.equal(nodes.puts, MAP_LEVELS);
});

test('changes that change nothing give the base again', async () => {
  const nodes = new MemoryNodes();
  const model = Array.from({ length: CHUNKS }, () => 0);
  const base = await edit(nodes, EMPTY, model, [
    { gap: 10, value: 1 },
    { gap: 7_000, value: 2 },
  ]);
  nodes.puts = 0;
  assert.deepEqual(
    await edit(nodes, base, model, [
      { gap: 10, value: 1 },
      { gap: 100, zeroes: 50 },
    ]),
    base,
  );
  assert.equal(nodes.puts, 0);
});

test('a map whose last data becomes zero is the zero map', async () => {
  const nodes = new MemoryNodes();
  const model = Array.from({ length: CHUNKS }, () => 0);
  const base = await edit(nodes, EMPTY, model, [{ gap: 8_999, value: 1 }]);
  assert.deepEqual(await edit(nodes, base, model, [{ gap: 0, zeroes: CHUNKS }]), EMPTY);
});

test('the last chunk of the largest map can be set, and found without walking the rest', async () => {
  const nodes = new MemoryNodes();
  const editor = new MapEditor(ZERO_KEY, nodes, nodes);
  await editor.set(0, idOf(1));
  await editor.set(MAX_MAP_CHUNKS - 1, idOf(2));
  const map = await editor.finish();
  const reader = new MapReader(map.root, nodes);
  assert.equal(await reader.chunkKey(MAX_MAP_CHUNKS - 1), keyAt(idOf(2)));
  nodes.reads = 0;
  const runs: { first: number; count: number; isData: boolean }[] = [];
  for await (const run of reader.runs(0, MAX_MAP_CHUNKS)) runs.push(run);
  assert.deepEqual(runs, [
    { first: 0, count: 1, isData: true },
    { first: 1, count: MAX_MAP_CHUNKS - 2, isData: false },
    { first: MAX_MAP_CHUNKS - 1, count: 1, isData: true },
  ]);
  assert.ok(nodes.reads < 3_000, `${nodes.reads} reads`);
});

test('changes that go backwards are refused', async () => {
  const nodes = new MemoryNodes();
  const editor = new MapEditor(ZERO_KEY, nodes, nodes);
  await editor.set(5, idOf(1));
  await assert.rejects(editor.set(5, idOf(2)), InvariantViolation);
  await assert.rejects(editor.setZero(4, 1), InvariantViolation);
});

test('a node that cannot be stored fails the edit, with the first cause', async () => {
  const nodes = new MemoryNodes();
  let puts = 0;
  const sink = {
    putNode: (node: Buffer): Promise<Buffer> => {
      puts += 1;
      return puts === 3 ? Promise.reject(new Error('no room')) : nodes.putNode(node);
    },
  };
  const editor = new MapEditor(ZERO_KEY, nodes, sink);
  for (let chunk = 0; chunk < 6_400; chunk += 10) await editor.set(chunk, idOf(1));
  await assert.rejects(editor.finish(), /no room/);
});

test('a node of another level, or with a reserved byte set, is refused', async () => {
  const nodes = new MemoryNodes();
  const wrongLevel = keyAt(await nodes.putNode(newNode(2)));
  await rejectsWith(new MapReader(wrongLevel, nodes).chunkKey(0), 'REPOSITORY_CORRUPT');
  const reserved = newNode(MAP_LEVELS - 1);
  reserved.writeUInt8(1, 7);
  const key: ContentKey = keyAt(await nodes.putNode(reserved));
  await rejectsWith(new MapReader(key, nodes).chunkKey(0), 'REPOSITORY_CORRUPT');
});
