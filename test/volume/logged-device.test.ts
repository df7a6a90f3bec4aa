// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { readOnly } from '../../appliance/block/read-only-device.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { layeredDevice, loggedDevice } from '../../appliance/volume/logged-device.ts';
import { ReplaceableDevice } from '../../appliance/volume/replaceable-device.ts';
import type { WriteLog } from '../../appliance/volume/write-log.ts';
import { allExtents, blockDeviceConformance, patterned, readAll, readRange, writeRange } from '../block/conformance.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import { FaultyDevice } from '../support/faulty-device.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { KEY, openLog } from '../support/write-log-model.ts';

const KIB = 1024;

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';

  blockDeviceConformance(`logged, ${how}, all in the log`, async (t, content) => {
    const log = await realLog(t, key);
    const device = loggedDevice({ base: memoryDevice({ sizeBytes: 0 }), log, disk: 0, sizeBytes: content.length });
    await writeRange(device, 0, content);
    return device;
  });

  blockDeviceConformance(`logged, ${how}, half in a base of other size and block size`, async (t, content) => {
    const log = await realLog(t, key);
    const limits = { minimumBytes: 512, preferredBytes: 4096, maximumBytes: 65_536 };
    const base = memoryDevice({ sizeBytes: 512 * 1200, limits });
    for (let offset = 0; offset < base.sizeBytes; offset += 65_536) {
      await base.write(offset, content.subarray(offset, Math.min(offset + 65_536, base.sizeBytes)));
    }
    const device = loggedDevice({ base: readOnly(base), log, disk: 3, sizeBytes: content.length });
    for (let offset = 0; offset < content.length; offset += 20_000) {
      const piece = content.subarray(offset, offset + (offset >= 600_000 ? 20_000 : 7_001));
      await device.write(offset, piece);
    }
    return device;
  });
}

const test = suite('logged device');

test('the base is never written', async (t) => {
  const base = new FaultyDevice(memoryDevice({ sizeBytes: 256 * KIB }));
  const device = loggedDevice({ base, log: await realLog(t, null), disk: 0 });
  await device.write(1000, patterned(100_000), { fua: true });
  await device.zero({ offset: 0, length: 1000 }, { fua: true });
  await device.trim({ offset: 120_000, length: 1000 }, { fua: true });
  await device.flush();
  assert.deepEqual([base.counts.write, base.counts.zero, base.counts.trim, base.counts.flush], [0, 0, 0, 0]);
});

test('what was trimmed reads as zeroes, not as the base', async (t) => {
  const base = memoryDevice({ sizeBytes: 256 * KIB });
  await base.write(0, patterned(256 * KIB));
  const device = loggedDevice({ base, log: await realLog(t, null), disk: 0 });
  await device.trim({ offset: 100, length: 100_000 });
  assert.ok((await readRange(device, { offset: 100, length: 100_000 })).every((byte) => byte === 0));
});

test('a disk that is larger than its base goes on with zeroes', async (t) => {
  const base = memoryDevice({ sizeBytes: 1000 });
  await base.write(0, patterned(1000));
  const device = loggedDevice({ base, log: await realLog(t, null), disk: 0, sizeBytes: 5000 });
  const expected = Buffer.concat([patterned(1000), Buffer.alloc(4000)]);
  assert.ok((await readAll(device)).equals(expected));
  const extents = await allExtents(device, { offset: 0, length: 5000 });
  assert.deepEqual(extents, [
    { offset: 0, length: 1000, kind: 'data' },
    { offset: 1000, length: 4000, kind: 'hole' },
  ]);
});

test('extents are those of the log over those of the base', async (t) => {
  const base = memoryDevice({ sizeBytes: 640 * KIB });
  await base.write(128 * KIB, patterned(128 * KIB));
  const device = loggedDevice({ base, log: await realLog(t, null), disk: 0 });
  await device.write(64 * KIB, patterned(32 * KIB));
  await device.zero({ offset: 192 * KIB, length: 16 * KIB });
  await device.write(600 * KIB, patterned(4 * KIB));
  assert.deepEqual(await device.extents({ offset: 32 * KIB, length: 600 * KIB }), [
    { offset: 32 * KIB, length: 32 * KIB, kind: 'hole' },
    { offset: 64 * KIB, length: 32 * KIB, kind: 'data' },
    { offset: 96 * KIB, length: 32 * KIB, kind: 'hole' },
    { offset: 128 * KIB, length: 64 * KIB, kind: 'data' },
    { offset: 192 * KIB, length: 16 * KIB, kind: 'hole' },
    { offset: 208 * KIB, length: 48 * KIB, kind: 'data' },
    { offset: 256 * KIB, length: 344 * KIB, kind: 'hole' },
    { offset: 600 * KIB, length: 4 * KIB, kind: 'data' },
    { offset: 604 * KIB, length: 28 * KIB, kind: 'hole' },
  ]);
});

test('two devices of one log and disk see each other’s writes, disks do not mix', async (t) => {
  const log = await realLog(t, KEY);
  const open = (disk: number): BlockDevice => loggedDevice({ base: memoryDevice({ sizeBytes: 64 * KIB }), log, disk });
  const [first, second, other] = [open(0), open(0), open(1)];
  await first.write(5, Buffer.from('shared'));
  assert.equal((await readRange(second, { offset: 5, length: 6 })).toString(), 'shared');
  assert.ok((await readAll(other)).every((byte) => byte === 0));
});

test('flushed writes of concurrent clients survive a power failure', async () => {
  for (let seed = 1; seed <= 10; seed++) {
    const random = randomSource(seed);
    const fileSystem = new CrashingFileSystem();
    const log = await openLog({
      directory: '/log',
      fileSystem,
      key: seed % 2 === 0 ? KEY : null,
      segmentBytes: 100_000,
    });
    const device = loggedDevice({ base: memoryDevice({ sizeBytes: 640 * KIB }), log, disk: 0 });
    const flushed = Buffer.alloc(640 * KIB);
    const client = async (index: number): Promise<void> => {
      const area = index * 64 * KIB;
      for (let round = 0; round < 15; round++) {
        const data = patterned(1 + Math.floor(random() * 9_000), seed * 1000 + index * 100 + round);
        const offset = area + Math.floor(random() * 50_000);
        await device.write(offset, data, { fua: round % 5 === 4 });
        if (round % 5 !== 4) await device.flush();
        data.copy(flushed, offset);
      }
    };
    await Promise.all(Array.from({ length: 10 }, (_, index) => client(index)));
    const survivor = await openLog({
      directory: '/log',
      fileSystem: fileSystem.crash(seed),
      key: seed % 2 === 0 ? KEY : null,
    });
    const again = loggedDevice({ base: memoryDevice({ sizeBytes: 640 * KIB }), log: survivor, disk: 0 });
    assert.ok((await readAll(again)).equals(flushed), `seed ${seed}`);
    await Promise.all([log.close(), survivor.close()]);
  }
});

test('a failing base fails the read, and reads from the log alone go on', async (t) => {
  const base = new FaultyDevice(memoryDevice({ sizeBytes: 64 * KIB }), ({ operation }) => {
    if (operation === 'read') throw new Error('planned');
  });
  const device = loggedDevice({ base, log: await realLog(t, null), disk: 0 });
  await device.write(0, patterned(4096));
  assert.ok((await readRange(device, { offset: 0, length: 4096 })).equals(patterned(4096)));
  await assert.rejects(readRange(device, { offset: 4000, length: 4096 }), { message: 'planned' });
});

test('the read-only form shows base and layer, and takes no write', async (t) => {
  const log = await realLog(t, KEY);
  const base = memoryDevice({ sizeBytes: 64 * KIB });
  await base.write(0, patterned(64 * KIB));
  await log.append({ disk: 0, offset: 1000, data: Buffer.from('layer') });
  await log.appendZero({ disk: 0, offset: 2000, length: 100 });
  const device = layeredDevice({ base, layer: log, disk: 0 });
  const expected = patterned(64 * KIB);
  expected.write('layer', 1000);
  expected.fill(0, 2000, 2100);
  assert.ok((await readAll(device)).equals(expected));
  await assert.rejects(device.write(0, Buffer.from('x')), (error) => hasCode(error, 'READ_ONLY'));
  await assert.rejects(device.trim({ offset: 0, length: 1 }), (error) => hasCode(error, 'READ_ONLY'));
});

test('what is dropped from the index, zeroes included, comes from the base', async (t) => {
  const log = await realLog(t, null);
  const base = memoryDevice({ sizeBytes: 64 * KIB });
  await base.write(0, patterned(64 * KIB));
  const device = loggedDevice({ base, log, disk: 0 });
  await device.write(0, Buffer.alloc(4096, 1));
  await device.zero({ offset: 8192, length: 4096 });
  const boundary = Math.max(
    ...log.slices({ disk: 0, offset: 0, length: 64 * KIB }).map((slice) => Math.abs(slice.value ?? 0)),
  );
  await device.zero({ offset: 2048, length: 1024 });
  await device.write(9000, Buffer.alloc(10, 2));
  log.dropThrough(boundary);
  const expected = patterned(64 * KIB);
  expected.fill(0, 2048, 3072);
  expected.fill(2, 9000, 9010);
  assert.ok((await readAll(device)).equals(expected));
  assert.equal(log.indexedRanges, 2);
});

test('what is folded while extents are asked for is data all the same', async (t) => {
  const log = await realLog(t, null);
  const [old, next] = [memoryDevice({ sizeBytes: 64 * KIB }), memoryDevice({ sizeBytes: 64 * KIB })];
  await next.write(4096, Buffer.alloc(4096, 1));
  const base = new ReplaceableDevice(readOnly(old));
  const device = loggedDevice({ base, log, disk: 0 });
  await device.write(4096, Buffer.alloc(4096, 1));
  const asked = device.extents({ offset: 0, length: 64 * KIB });
  // In the turn after the question, before its answer: the index drops what the new base holds.
  log.dropThrough(Number.MAX_SAFE_INTEGER);
  base.replace(readOnly(next));
  const isData = (await asked).some(({ offset, length, kind }) => kind === 'data' && offset <= 4096 && length >= 4096);
  assert.equal(isData, true);
  assert.deepEqual(await readAll(device), await readAll(next));
});

async function realLog(t: TestContext, key: Buffer | null): Promise<WriteLog> {
  const directory = join(await t.tempDir(), 'log');
  return t.use(await openLog({ directory, fileSystem: realFileSystem, key, segmentBytes: 300_000 }));
}
