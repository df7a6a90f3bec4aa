// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { BlockDevice, BlockFeatures } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { type UpdateResult, updateDevice } from '../../appliance/recover/update-device.ts';
import { suite } from '../support/suite.ts';
import { readAll } from './fixture.ts';

const test = suite('update of a device');
const KIB = 1024;
const UNIT = 64 * KIB;
const UNITS = 24;

/** What each unit of a disk holds: a byte repeated, or nothing (a hole). */
type Units = readonly (number | null)[];

async function diskOf(units: Units, features: Partial<BlockFeatures> = {}, tailBytes = 0): Promise<BlockDevice> {
  const limits = { minimumBytes: 512, preferredBytes: 4096, maximumBytes: 1024 * KIB };
  const device = memoryDevice({ sizeBytes: units.length * UNIT + tailBytes, limits, features });
  for (const [index, byte] of units.entries()) {
    if (byte !== null) await device.write(index * UNIT, Buffer.alloc(UNIT, byte));
  }
  return device;
}

function update(source: BlockDevice, target: BlockDevice): Promise<UpdateResult> {
  return updateDevice(source, target, { signal: new AbortController().signal, onProgress: () => undefined });
}

const units: fc.Arbitrary<Units> = fc.array(fc.constantFrom(null, 0, 1, 2), { minLength: UNITS, maxLength: UNITS });

test('afterwards the target reads like the source, and only what differed was written', async () => {
  await fc.assert(
    fc.asyncProperty(units, units, fc.boolean(), async (wanted, found, canZero) => {
      const source = await diskOf(wanted);
      const target = await diskOf(found, { canZero });
      const { writtenBytes, zeroedBytes } = await update(source, target);
      assert.ok((await readAll(target)).equals(await readAll(source)));
      const differing = wanted.filter((byte, index) => byte !== null && byte !== (found[index] ?? 0)).length;
      assert.equal(writtenBytes, differing * UNIT);
      const zeroed = wanted.filter((byte, index) => byte === null && found[index] !== null).length;
      assert.equal(zeroedBytes, zeroed * UNIT);
    }),
    { numRuns: 60 },
  );
});

test('a longer target ends in zeroes', async () => {
  const source = await diskOf([1, null, 2]);
  const target = await diskOf([1, 1, 1, 1], {}, 512);
  await target.write(4 * UNIT, Buffer.alloc(512, 9));
  await update(source, target);
  const bytes = await readAll(target);
  assert.ok(bytes.subarray(0, 3 * UNIT).equals(await readAll(source)));
  assert.ok(bytes.subarray(3 * UNIT).equals(Buffer.alloc(UNIT + 512)));
});

test('an error of the target ends the update with that error', async () => {
  const source = await diskOf([1, 2, 1, 2]);
  const target = await diskOf([2, 1, 2, 1]);
  target.write = () => Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' }));
  await assert.rejects(update(source, target), { code: 'EIO' });
});
