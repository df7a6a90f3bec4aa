// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { copyDevice } from '../../appliance/block/copy-device.ts';
import { createFileDevice, openFileDevice } from '../../appliance/block/file-device.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';
import { allExtents, patterned } from './conformance.ts';

const test = suite('file device');

const MIB = 1024 * 1024;

test('a new file is sparse, of its whole size, and refused when the name is taken', async (t) => {
  const path = join(await t.tempDir(), 'disk');
  const device = t.use(await createFileDevice(path, 2 ** 40));
  assert.deepEqual(await device.extents({ offset: 0, length: 2 ** 40 }), [
    { offset: 0, length: 2 ** 40, kind: 'hole' },
  ]);
  const found = await stat(path);
  assert.deepEqual([found.size, found.blocks], [2 ** 40, 0]);
  await assert.rejects(createFileDevice(path, 5), (error) => hasCode(error, 'TARGET_EXISTS'));
  assert.equal((await stat(path)).size, 2 ** 40);
});

test('a missing file is an error that names it', async (t) => {
  const path = join(await t.tempDir(), 'missing');
  await assert.rejects(openFileDevice(path, 'read-only'), (error) => {
    assert.ok(error instanceof ApplianceError);
    assert.deepEqual([error.code, error.details], ['IO_FAILED', { path, systemCode: 'ENOENT' }]);
    return true;
  });
});

test('holes are found and zeroing frees storage, at the size it had', async (t) => {
  const path = join(await t.tempDir(), 'disk');
  const device = t.use(await createFileDevice(path, 8 * MIB + 100));
  await device.write(MIB, patterned(2 * MIB));
  await device.write(8 * MIB, patterned(100));
  await device.flush();
  assert.deepEqual(
    (await allExtents(device, { offset: 0, length: 8 * MIB + 100 })).map((extent) => [extent.offset, extent.kind]),
    [
      [0, 'hole'],
      [MIB, 'data'],
      [3 * MIB, 'hole'],
      [8 * MIB, 'data'],
    ],
  );
  const before = (await stat(path)).blocks;
  await device.zero({ offset: MIB, length: 2 * MIB }, { fua: true });
  const after = await stat(path);
  assert.ok(after.blocks < before, `${after.blocks} of ${before}`);
  assert.equal(after.size, 8 * MIB + 100);
  assert.ok((await readFile(path)).subarray(0, 8 * MIB).every((byte) => byte === 0));
});

test('a file that has become shorter fails the read instead of giving zeroes', async (t) => {
  const path = join(await t.tempDir(), 'disk');
  await writeFile(path, patterned(10_000));
  const device = t.use(await openFileDevice(path, 'read-only'));
  await truncate(path, 5_000);
  await assert.rejects(device.read(4_000, Buffer.alloc(2_000)), (error) => hasCode(error, 'IO_FAILED'));
  await device.read(4_000, Buffer.alloc(1_000));
});

test('a copy of many small extents is exact', async (t) => {
  const dir = await t.tempDir();
  const source = t.use(await createFileDevice(join(dir, 'a'), 6000 * 8192));
  for (let index = 0; index < 3000; index++) await source.write(index * 16_384, patterned(4096, index));
  const target = t.use(await createFileDevice(join(dir, 'b'), source.sizeBytes));
  const result = await copyDevice(source, target, { isTargetZero: true });
  assert.equal(result.copiedBytes + result.skippedBytes, source.sizeBytes);
  assert.ok((await readFile(join(dir, 'a'))).equals(await readFile(join(dir, 'b'))));
});
