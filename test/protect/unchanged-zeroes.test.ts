// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { dirtyExtents } from '../../appliance/cbt/changes.ts';
import { keyFromHex } from '../../appliance/core/content-id.ts';
import { UnchangedZeroes } from '../../appliance/protect/unchanged-zeroes.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { suite } from '../support/suite.ts';

const test = suite('zeroes that a tracker calls unchanged');
const CHUNK = 64 * 1024;

test('what is clean and zero is told, what is dirty or only a hole is not', () => {
  const dirty = [
    { length: 10, flags: 0 },
    { length: 10, flags: 1 },
    { length: 20, flags: 0 },
  ];
  const allocation = [
    { length: 5, flags: 3 },
    { length: 3, flags: 2 },
    { length: 12, flags: 3 },
    { length: 5, flags: 1 },
    { length: 15, flags: 2 },
  ];
  assert.deepEqual(dirtyExtents(100, dirty, allocation).unchangedZeroes, [
    { offset: 100, length: 10 },
    { offset: 125, length: 15 },
  ]);
});

test('a chunk that is zero as a whole must be zero in the base; parts of chunks prove nothing', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  // Chunks 0 and 3 hold data, the last is a part of one.
  const sizeBytes = 4 * CHUNK - 512;
  const disk = memoryDevice({ sizeBytes });
  await disk.write(100, Buffer.alloc(100, 1));
  await disk.write(sizeBytes - 100, Buffer.alloc(100, 1));
  const point = await fixture.addPoint({ disks: { vda: disk } });
  const lieAfter = async (offset: number, length: number): Promise<number | undefined> => {
    const root = keyFromHex(point.disks[0]?.root ?? '');
    const zeroes = new UnchangedZeroes(root, fixture.repository.reader, { chunkBytes: CHUNK, sizeBytes });
    await zeroes.see({ offset, length });
    return zeroes.lie;
  };
  assert.equal(await lieAfter(CHUNK, 2 * CHUNK), undefined);
  assert.equal(await lieAfter(512, 3 * CHUNK - 1024), undefined, 'chunk 0 is covered in part');
  assert.equal(await lieAfter(0, CHUNK), 0);
  assert.equal(await lieAfter(2 * CHUNK, sizeBytes - 2 * CHUNK), 3, 'the last chunk is whole where the disk ends');
  assert.equal(await lieAfter(2 * CHUNK, sizeBytes - 2 * CHUNK - 512), undefined);
});
