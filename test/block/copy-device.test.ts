// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import fc from 'fast-check';
import type { BlockDevice } from '../../appliance/block/block-device.ts';
import { compareDevices, firstDifference } from '../../appliance/block/compare-devices.ts';
import { type CopyProgress, copyDevice } from '../../appliance/block/copy-device.ts';
import { createFileDevice } from '../../appliance/block/file-device.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { FaultyDevice, someTurns } from '../support/faulty-device.ts';
import { suite } from '../support/suite.ts';
import { patterned, readAll } from './conformance.ts';

const test = suite('copy and compare devices');

const MIB = 1024 * 1024;

test('a copy equals its source, and zeroes hide what the target held', async () => {
  const source = await sparseSource();
  const target = memoryDevice({ sizeBytes: source.sizeBytes });
  await target.write(0, patterned(source.sizeBytes, 9));
  const result = await copyDevice(source, target);
  assert.ok((await readAll(target)).equals(await readAll(source)));
  assert.deepEqual(result, { copiedBytes: 3 * MIB, zeroedBytes: 5 * MIB + 100, skippedBytes: 0 });
});

test('a target that is known to be zero is written only where there is data', async () => {
  const source = await sparseSource();
  const target = new FaultyDevice(memoryDevice({ sizeBytes: source.sizeBytes }));
  const result = await copyDevice(source, target, { isTargetZero: true });
  assert.ok((await readAll(target)).equals(await readAll(source)));
  assert.deepEqual(result, { copiedBytes: 3 * MIB, zeroedBytes: 0, skippedBytes: 5 * MIB + 100 });
  assert.deepEqual([target.counts.zero, target.bytes.write, target.counts.flush], [0, 3 * MIB, 1]);
});

test('a target that cannot zero gets zeroes written', async () => {
  const source = await sparseSource();
  const target = memoryDevice({ sizeBytes: source.sizeBytes, features: { canZero: false, canFastZero: false } });
  await target.write(0, patterned(source.sizeBytes, 9));
  await copyDevice(source, target, { requestBytes: 65_536 });
  assert.ok((await readAll(target)).equals(await readAll(source)));
});

test('block sizes of both sides are honoured', async () => {
  const limits = { minimumBytes: 4096, preferredBytes: 4096, maximumBytes: 131_072 };
  const source = memoryDevice({ sizeBytes: 65 * 4096, limits: { ...limits, minimumBytes: 512 } });
  for (let offset = 0; offset < source.sizeBytes; offset += 65_536) {
    await source.write(offset, patterned(Math.min(65_536, source.sizeBytes - offset), offset));
  }
  const target = memoryDevice({ sizeBytes: 80 * 4096, limits });
  await copyDevice(source, target);
  assert.ok((await readAll(target)).subarray(0, source.sizeBytes).equals(await readAll(source)));
});

test('a copy to a sparse file keeps its holes', async (t) => {
  const source = await sparseSource();
  const target = t.use(await createFileDevice(join(await t.tempDir(), 'disk'), source.sizeBytes));
  await copyDevice(source, target, { isTargetZero: true });
  assert.equal(await compareDevices(source, target), undefined);
  const kinds = (await target.extents({ offset: 0, length: target.sizeBytes })).map((extent) => extent.kind);
  assert.ok(kinds.includes('hole'), String(kinds));
});

test('progress grows to the whole and buffers stay within their bound', async () => {
  const source = new FaultyDevice(await sparseSource(), () => someTurns(1));
  const target = new FaultyDevice(memoryDevice({ sizeBytes: source.sizeBytes }), () => someTurns(1));
  const seen: CopyProgress[] = [];
  await copyDevice(source, target, {
    maxBytesInFlight: 4 * 65_536,
    requestBytes: 65_536,
    onProgress: (progress) => seen.push(progress),
  });
  const done = seen.map((progress) => progress.doneBytes);
  assert.deepEqual(
    done,
    [...done].sort((a, b) => a - b),
  );
  assert.deepEqual(seen.at(-1), { doneBytes: source.sizeBytes, totalBytes: source.sizeBytes, copiedBytes: 3 * MIB });
  assert.ok(source.mostRunning <= 5 && source.mostRunning >= 3, `${source.mostRunning}`);
  assert.ok(target.mostRunning <= 4, `${target.mostRunning}`);
});

test('a target that is too small or read-only is refused before anything is read', async () => {
  const source = new FaultyDevice(await sparseSource());
  const small = memoryDevice({ sizeBytes: source.sizeBytes - 1 });
  await assert.rejects(copyDevice(source, small), (error) => hasCode(error, 'TARGET_TOO_SMALL'));
  const fixed = memoryDevice({ sizeBytes: source.sizeBytes, features: { isReadOnly: true } });
  await assert.rejects(copyDevice(source, fixed), (error) => hasCode(error, 'READ_ONLY'));
  assert.equal(source.counts.read + source.counts.extents, 0);
});

test('an error of either side ends the copy with that error, and nothing runs afterwards', async () => {
  for (const side of ['source', 'target'] as const) {
    for (const operation of side === 'source'
      ? (['read', 'extents'] as const)
      : (['write', 'zero', 'flush'] as const)) {
      const fail = (request: { operation: string }): Promise<void> => {
        if (request.operation === operation) throw new Error(`planned ${operation}`);
        return someTurns(3);
      };
      const inner = await sparseSource();
      const source = new FaultyDevice(inner, side === 'source' ? fail : () => someTurns(2));
      const target = new FaultyDevice(
        memoryDevice({ sizeBytes: inner.sizeBytes }),
        side === 'target' ? fail : () => someTurns(2),
      );
      await assert.rejects(copyDevice(source, target, { requestBytes: 65_536 }), { message: `planned ${operation}` });
      assert.deepEqual([source.running, target.running], [0, 0]);
      const counts = [{ ...source.counts }, { ...target.counts }];
      await someTurns(10);
      assert.deepEqual([source.counts, target.counts], counts);
    }
  }
});

test('an aborted copy rejects with ABORTED when nothing of it runs any more, and writes nothing further', async () => {
  for (let after = 0; after < 12; after++) {
    const abort = new AbortController();
    let writes = 0;
    const source = new FaultyDevice(await sparseSource(), () => someTurns(2));
    const target = new FaultyDevice(memoryDevice({ sizeBytes: source.sizeBytes }), async () => {
      assert.equal(abort.signal.aborted, false, 'no write starts after the abort');
      if (++writes > after) abort.abort();
      await someTurns(3);
    });
    if (after === 0) abort.abort();
    const copy = copyDevice(source, target, { signal: abort.signal, requestBytes: 65_536, maxBytesInFlight: 262_144 });
    await assert.rejects(copy, (error) => hasCode(error, 'ABORTED'));
    assert.deepEqual([source.running, target.running], [0, 0]);
  }
});

test('compare finds the first byte that differs', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.nat(3 * MIB - 1), { minLength: 1, maxLength: 5 }), async (offsets) => {
      const a = memoryDevice({ sizeBytes: 3 * MIB });
      const b = memoryDevice({ sizeBytes: 3 * MIB });
      for (const offset of offsets) await b.write(offset, Buffer.from([7]));
      assert.equal(await compareDevices(a, b), Math.min(...offsets));
      assert.equal(await compareDevices(b, a), Math.min(...offsets));
    }),
    { numRuns: 20 },
  );
});

test('compare takes a shorter device as followed by zeroes', async () => {
  const a = memoryDevice({ sizeBytes: MIB + 10 });
  const b = memoryDevice({ sizeBytes: 3 * MIB });
  await a.write(5, Buffer.from([1]));
  await b.write(5, Buffer.from([1]));
  assert.equal(await compareDevices(a, b), undefined);
  await b.write(2 * MIB, Buffer.from([1]));
  assert.equal(await compareDevices(a, b), 2 * MIB);
  assert.equal(await compareDevices(b, a), 2 * MIB);
});

test('compare does not read what both sides report as zero', async () => {
  const a = new FaultyDevice(memoryDevice({ sizeBytes: 2 ** 40 }));
  const b = memoryDevice({ sizeBytes: 2 ** 40 });
  await b.write(2 ** 39, Buffer.alloc(65_536));
  assert.equal(await compareDevices(a, b), undefined);
  assert.equal(a.bytes.read, 65_536);
});

test('the first difference of two buffers is found wherever it lies', () => {
  const a = patterned(1000);
  for (const index of [0, 1, 499, 500, 998, 999]) {
    const b = Buffer.from(a);
    b[index] = (b[index] ?? 0) ^ 1;
    b[999] = 0;
    assert.equal(firstDifference(a, b), index);
  }
  assert.equal(firstDifference(a, Buffer.from(a)), undefined);
});

/** 8 MiB and 100 bytes: 1 MiB of data, 2 MiB of nothing, 2 MiB of data, nothing. */
async function sparseSource(): Promise<BlockDevice> {
  const device = memoryDevice({ sizeBytes: 8 * MIB + 100 });
  await device.write(0, patterned(MIB, 1));
  await device.write(3 * MIB, patterned(2 * MIB, 2));
  return device;
}
