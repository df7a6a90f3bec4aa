// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import fc from 'fast-check';
import type { BlockDevice } from '../../../appliance/block/block-device.ts';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import { changesSince, copyRanges, verifyRanges } from '../../../appliance/recover/standby/copy-back.ts';
import { loggedDevice } from '../../../appliance/volume/logged-device.ts';
import { WriteLog } from '../../../appliance/volume/write-log.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';
import { noise, readAll } from '../fixture.ts';

const test = suite('copying back what a spare wrote', { timeoutMs: 60_000 });
const SECTOR = 512;
const SECTORS = 256;
const SIZE_BYTES = SECTOR * SECTORS;
const { signal } = new AbortController();

async function device(content: Buffer): Promise<BlockDevice> {
  const made = memoryDevice({ sizeBytes: content.length });
  await made.write(0, content);
  return made;
}

async function openLog(t: TestContext): Promise<WriteLog> {
  const machineId = parseMachineId('5c1e5c1e-0000-4000-8000-00000000abcd');
  return t.use(await WriteLog.open(join(await t.tempDir(), 'log'), { key: null, machineId }));
}

const step = fc.record({
  kind: fc.constantFrom('write', 'zero', 'trim', 'round'),
  sector: fc.nat(SECTORS - 1),
  sectors: fc.integer({ min: 1, max: 40 }),
  seed: fc.nat(1000),
});

test('after any writes and rounds the target equals the spare, and rounds bring only what is new', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
      await using log = await openLog(t);
      const base = noise(SIZE_BYTES, 1);
      await using source = loggedDevice({ base: await device(base), log, disk: 0 });
      await using target = await device(base);
      let after = 0;
      const round = async (): Promise<number> => {
        const { data, zeroes, newest } = changesSince(log, 0, { sizeBytes: SIZE_BYTES, after });
        const copied = await copyRanges(source, target, { data, zeroes, signal });
        after = newest;
        return copied.data + copied.zeroes;
      };
      for (const { kind, sector, sectors, seed } of steps) {
        const offset = sector * SECTOR;
        const length = Math.min(sectors, SECTORS - sector) * SECTOR;
        if (kind === 'write') await source.write(offset, noise(length, seed));
        else if (kind === 'zero') await source.zero({ offset, length });
        else if (kind === 'trim') await source.trim({ offset, length });
        else await round();
      }
      await round();
      assert.ok((await readAll(target)).equals(await readAll(source)));
      assert.equal(await round(), 0);
    }),
    { numRuns: 40 },
  );
});

test('a byte that did not arrive is found', async (t) => {
  const log = await openLog(t);
  await using source = loggedDevice({ base: await device(Buffer.alloc(SIZE_BYTES)), log, disk: 0 });
  await using target = await device(Buffer.alloc(SIZE_BYTES));
  await source.write(SECTOR, noise(4096, 3));
  const { data, zeroes } = changesSince(log, 0, { sizeBytes: SIZE_BYTES, after: 0 });
  assert.deepEqual([data, zeroes], [[{ offset: SECTOR, length: 4096 }], []]);
  await copyRanges(source, target, { data, zeroes, signal });
  assert.equal(await verifyRanges(source, target, { ranges: data, disk: 'vda', signal }), 4096);
  await target.write(SECTOR + 1000, Buffer.from('x'));
  await assert.rejects(verifyRanges(source, target, { ranges: data, disk: 'vda', signal }), { code: 'VERIFY_FAILED' });
});
