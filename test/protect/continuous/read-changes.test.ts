// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { BlockDevice } from '../../../appliance/block/block-device.ts';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import type { BackupSource, SourceDisk } from '../../../appliance/cbt/source.ts';
import { type Extent, endOf, normalizeRanges, type Range } from '../../../appliance/core/extents.ts';
import type { CycleWish } from '../../../appliance/protect/continuous/ports.ts';
import { readChanges, withRecorded } from '../../../appliance/protect/continuous/read-changes.ts';
import { patterned, readAll } from '../../block/conformance.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';

const test = suite('reading what changed');
const KIB = 1024;
const SIZE = 1024 * KIB;
const CATCH_UP: CycleWish = { kind: 'catch-up', isAfterBreak: true };

async function* each(extents: readonly Extent[]): AsyncGenerator<Extent, void, void> {
  yield* extents;
}

/** A source of one disk, which calls just these extents changed and the others zero. */
function sourceOf(
  device: BlockDevice,
  changed: readonly Extent[],
  more: { readonly kind?: SourceDisk['kind']; readonly unchangedZeroes?: readonly Range[] } = {},
): BackupSource {
  const disk: SourceDisk = {
    name: 'vda',
    device,
    kind: more.kind ?? 'incremental',
    reason: 'the checkpoint is gone',
    identity: {},
    changes: async function* (witness) {
      for (const range of more.unchangedZeroes ?? []) await witness?.(range);
      yield* changed;
    },
  };
  return { disks: [disk] } as unknown as BackupSource;
}

interface Case {
  readonly source: BackupSource;
  readonly volume: BlockDevice;
  readonly recorded?: readonly Range[];
  readonly wish?: CycleWish;
}

function read({ source, volume, recorded = [], wish = CATCH_UP }: Case): Promise<number> {
  const { signal } = new AbortController();
  return readChanges({ source, volume: () => volume, recorded: new Map([['vda', recorded]]), wish, signal });
}

async function deviceOf(content: Buffer): Promise<BlockDevice> {
  const device = memoryDevice({ sizeBytes: content.length });
  await device.write(0, content);
  return device;
}

test('extents and recorded ranges together cover both, in order, and nothing twice', async () => {
  const ranges = fc
    .array(fc.record({ offset: fc.nat(200), length: fc.integer({ min: 1, max: 20 }) }), { maxLength: 12 })
    .map(normalizeRanges);
  await fc.assert(
    fc.asyncProperty(ranges, ranges, async (changed, recorded) => {
      const extents = changed.map((range) => ({ ...range, kind: 'zero' as const }));
      const covered = new Uint8Array(256);
      let position = 0;
      for await (const { offset, length, kind } of withRecorded(each(extents), recorded)) {
        assert.ok(offset >= position);
        position = offset + length;
        covered.fill(kind === 'zero' ? 1 : 2, offset, position);
      }
      const wanted = new Uint8Array(256);
      for (const range of recorded) wanted.fill(2, range.offset, endOf(range));
      for (const range of changed) wanted.fill(1, range.offset, endOf(range));
      assert.deepEqual(covered, wanted);
    }),
  );
});

test('a disk that is an older copy with an older account is read where the journal has written since', async () => {
  const older = patterned(SIZE, 1);
  const held = Buffer.from(older);
  held.fill(0xee, 128 * KIB, 192 * KIB);
  const volume = await deviceOf(held);
  const source = sourceOf(await deviceOf(older), []);
  await read({ source, volume, recorded: [{ offset: 128 * KIB, length: 64 * KIB }] });
  assert.ok((await readAll(volume)).equals(older));
});

test('what is called unchanged and reads as zeroes is zero afterwards: the disk was shrunk and grown back', async () => {
  const now = patterned(SIZE, 1);
  now.fill(0, SIZE / 2);
  const volume = await deviceOf(patterned(SIZE, 1));
  const unchangedZeroes = [{ offset: SIZE / 2, length: SIZE / 2 }];
  await read({ source: sourceOf(await deviceOf(now), [], { unchangedZeroes }), volume });
  assert.ok((await readAll(volume)).equals(now));
});

test('a tracker without an account is no base of a catch-up, and one that lies is found out', async () => {
  const device = await deviceOf(patterned(SIZE, 2));
  const whole: Extent[] = [{ offset: 0, length: SIZE, kind: 'data' }];
  const volume = await deviceOf(patterned(SIZE, 3));
  await rejectsWith(read({ source: sourceOf(device, whole, { kind: 'full-scan' }), volume }), 'TRACKER_FAILED');
  await rejectsWith(read({ source: sourceOf(device, []), volume }), 'TRACKER_FAILED');
  const wish: CycleWish = { kind: 'interval', isAfterBreak: true };
  assert.equal(await read({ source: sourceOf(device, whole, { kind: 'full-scan' }), volume, wish }), SIZE);
  assert.ok((await readAll(volume)).equals(patterned(SIZE, 2)));
});
