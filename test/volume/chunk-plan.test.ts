// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { Extent } from '../../appliance/core/extents.ts';
import { InvariantViolation } from '../../appliance/core/invariant.ts';
import { type PlannedRun, planChunks } from '../../appliance/volume/chunk-plan.ts';
import { suite } from '../support/suite.ts';

const CHUNK = 16;

interface Layout {
  readonly sizeBytes: number;
  readonly extents: readonly Extent[];
}

/** Sorted, disjoint extents of any alignment, with gaps, neighbours of one kind not merged. */
const layout: fc.Arbitrary<Layout> = fc
  .tuple(
    fc.integer({ min: 1, max: 40 * CHUNK }),
    fc.array(
      fc.record({
        gap: fc.oneof(fc.constant(0), fc.nat(40)),
        length: fc.oneof(
          fc.integer({ min: 1, max: 40 }),
          fc.integer({ min: 1, max: 8 }).map((n) => n * CHUNK),
        ),
        kind: fc.constantFrom('data' as const, 'zero' as const, 'hole' as const),
      }),
      { maxLength: 40 },
    ),
  )
  .map(([sizeBytes, pieces]) => {
    const extents: Extent[] = [];
    let at = 0;
    for (const { gap, length, kind } of pieces) {
      const offset = at + gap;
      if (offset >= sizeBytes) break;
      extents.push({ offset, length: Math.min(length, sizeBytes - offset), kind });
      at = offset + length;
    }
    return { sizeBytes, extents };
  });

async function plan({ sizeBytes, extents }: Layout): Promise<PlannedRun[]> {
  const runs: PlannedRun[] = [];
  for await (const run of planChunks(extents, CHUNK, sizeBytes)) runs.push(run);
  return runs;
}

/** What becomes of each chunk, byte by byte: read when any byte may be data or is not told of, zero when all are zero. */
function expectedActions({ sizeBytes, extents }: Layout): string[] {
  const bytes = Array.from({ length: sizeBytes }, () => 'same');
  for (const { offset, length, kind } of extents)
    bytes.fill(kind === 'data' ? 'data' : 'zero', offset, offset + length);
  return Array.from({ length: Math.ceil(sizeBytes / CHUNK) }, (_, chunk) => {
    const part = bytes.slice(chunk * CHUNK, (chunk + 1) * CHUNK);
    if (part.every((byte) => byte === 'same')) return 'same';
    return part.every((byte) => byte === 'zero') ? 'zero' : 'read';
  });
}

const test = suite('chunk plan');

test('each chunk is read, zeroed or left as its bytes say', async () => {
  await fc.assert(
    fc.asyncProperty(layout, async (one) => {
      const actions = Array.from({ length: Math.ceil(one.sizeBytes / CHUNK) }, () => 'same');
      for (const { first, count, action } of await plan(one)) actions.fill(action, first, first + count);
      assert.deepEqual(actions, expectedActions(one));
    }),
    { numRuns: 2_000 },
  );
});

test('runs come in order, do not overlap, and neighbours of one action are merged', async () => {
  await fc.assert(
    fc.asyncProperty(layout, async (one) => {
      let before: PlannedRun | undefined;
      for (const run of await plan(one)) {
        const end = before === undefined ? 0 : before.first + before.count;
        assert.ok(run.first >= end && run.count > 0);
        assert.ok(before === undefined || run.first > end || run.action !== before.action);
        before = run;
      }
    }),
    { numRuns: 500 },
  );
});

test('a last chunk that is cut by the end of the disk is zero when all of its bytes are', async () => {
  assert.deepEqual(await plan({ sizeBytes: 20, extents: [{ offset: 16, length: 4, kind: 'hole' }] }), [
    { first: 1, count: 1, action: 'zero' },
  ]);
});

test('extents out of order or beyond the disk are a defect of the caller', async () => {
  const second: Extent = { offset: 8, length: 4, kind: 'data' };
  const overlapping: Extent = { offset: 10, length: 4, kind: 'data' };
  await assert.rejects(plan({ sizeBytes: 32, extents: [second, overlapping] }), InvariantViolation);
  await assert.rejects(plan({ sizeBytes: 10, extents: [second] }), InvariantViolation);
});
