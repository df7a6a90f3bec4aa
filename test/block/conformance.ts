// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { type BlockDevice, MAX_EXTENTS_PER_QUERY, type WriteOptions } from '../../appliance/block/block-device.ts';
import type { ErrorCode } from '../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { type Extent, endOf, type Range } from '../../appliance/core/extents.ts';
import { randomSource } from '../support/crashing-file-system.ts';
import { suite, type TestOptions } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

export interface ConformanceOptions extends TestOptions {
  /** Size of the devices; default 1,060,352, a multiple of 512 and of nothing larger. */
  readonly sizeBytes?: number;
  /** Steps of the random comparison; lower it for slow peers. */
  readonly steps?: number;
}

/** Makes a device that holds exactly `content`, open, and registers what must be cleaned up with `t.use`. */
export type MakeDevice = (t: TestContext, content: Buffer) => Promise<BlockDevice>;

const DEFAULT_SIZE_BYTES = 2071 * 512;
const DEFAULT_STEPS = 300;

/**
 * The contract of `BlockDevice`, run by every implementation. Each test makes its own device. What a device does not
 * claim is checked to be refused; a read-only device is checked to stay so. Call it at the top level of a test file.
 */
export function blockDeviceConformance(name: string, make: MakeDevice, options: ConformanceOptions = {}): void {
  const test = suite(`block device: ${name}`, options);
  const sizeBytes = options.sizeBytes ?? DEFAULT_SIZE_BYTES;
  const open = async (t: TestContext, content: Buffer = patterned(sizeBytes)): Promise<BlockDevice> => {
    const device = t.use(await make(t, content));
    assert.equal(device.sizeBytes, content.length);
    return device;
  };

  test('claims limits that are powers of two in order', async (t) => {
    const { limits } = await open(t);
    for (const bytes of [limits.minimumBytes, limits.preferredBytes, limits.maximumBytes]) {
      assert.ok(bytes >= 1 && Number.isInteger(Math.log2(bytes)), `${bytes}`);
    }
    assert.ok(limits.minimumBytes <= limits.preferredBytes && limits.preferredBytes <= limits.maximumBytes);
  });

  test('reads what it holds, at every alignment it takes', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const unit = device.limits.minimumBytes;
    for (const length of new Set([unit, 512, 4096, 65_536, 65_536 + unit, 262_144])) {
      if (length % unit !== 0) continue;
      for (const offset of [0, unit, 65_536 - unit, 65_536, sizeBytes - length]) {
        const range = { offset, length };
        assert.ok((await readRange(device, range)).equals(sub(content, range)), JSON.stringify(range));
      }
    }
    assert.ok((await readAll(device)).equals(content));
  });

  test('fills a buffer on shared memory and touches nothing around it', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const whole = Buffer.from(new SharedArrayBuffer(3 * 4096)).fill(0xee);
    await device.read(8192, whole.subarray(4096, 8192));
    assert.ok(whole.subarray(4096, 8192).equals(content.subarray(8192, 12_288)));
    for (const outside of [whole.subarray(0, 4096), whole.subarray(8192)]) {
      assert.ok(outside.every((byte) => byte === 0xee));
    }
  });

  test('answers many reads at the same time, each with its own bytes', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const random = randomSource(7);
    const ranges = Array.from({ length: 200 }, () => randomRange(random, device, 32_768));
    const read = await Promise.all(ranges.map((range) => readRange(device, range)));
    for (const [index, range] of ranges.entries()) assert.ok(read[index]?.equals(sub(content, range)), `${index}`);
  });

  test('what it reads at once is what it reads, and nothing once it is closed', async (t) => {
    const content = patterned(sizeBytes);
    content.fill(0, 131_072, 262_144);
    const device = await open(t, content);
    if (device.readCached === undefined) return;
    const unit = device.limits.minimumBytes;
    const ranges = [131_072 - unit, 131_072, 140_000 - (140_000 % unit), 0, sizeBytes - 4096].flatMap((offset) => [
      { offset, length: 4096 },
      { offset, length: unit },
    ]);
    for (const round of [0, 1]) {
      for (const range of ranges) {
        const into = Buffer.alloc(range.length, 0xcc);
        if (device.readCached(range.offset, into)) assert.ok(into.equals(sub(content, range)), JSON.stringify(range));
        assert.ok((await readRange(device, range)).equals(sub(content, range)), `${round}`);
      }
    }
    await device.close();
    assert.equal(device.readCached(0, Buffer.alloc(4096)), false);
  });

  test('what it writes at once is read at once, and nothing is written once it is closed', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (device.writeNow === undefined) return;
    const unit = device.limits.minimumBytes;
    const data = Buffer.alloc(4096, 0x5a);
    for (const offset of [0, 65_536 - unit, 131_072, sizeBytes - 4096]) {
      const copy = Buffer.from(data);
      if (!device.writeNow([{ offset, data: copy }])) await device.write(offset, copy);
      copy.fill(0xee);
      data.copy(content, offset);
      assert.ok((await readAll(device)).equals(content), `${offset}`);
    }
    assert.equal(
      device.writeNow([
        { offset: 0, data },
        { offset: sizeBytes, data },
      ]),
      false,
    );
    assert.equal(device.writeNow([{ offset: -4096, data }]), false);
    assert.ok((await readAll(device)).equals(content));
    await device.close();
    assert.equal(device.writeNow([{ offset: 0, data }]), false);
  });

  test('settles requests of length 0, also at the end', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const { features } = device;
    for (const offset of [0, sizeBytes]) {
      await device.read(offset, Buffer.alloc(0));
      assert.deepEqual(await device.extents({ offset, length: 0 }), []);
      if (features.canCache) await device.cache({ offset, length: 0 });
      if (features.isReadOnly) continue;
      await device.write(offset, Buffer.alloc(0));
      if (features.canZero) await device.zero({ offset, length: 0 });
      if (features.canTrim) await device.trim({ offset, length: 0 });
    }
    assert.ok((await readAll(device)).equals(content));
  });

  test('refuses what lies outside, is not aligned, or is no range', async (t) => {
    const device = await open(t);
    const unit = device.limits.minimumBytes;
    const bad: [Range, ErrorCode][] = [
      [{ offset: sizeBytes, length: unit }, 'OUT_OF_RANGE'],
      [{ offset: sizeBytes - unit, length: 2 * unit }, 'OUT_OF_RANGE'],
      [{ offset: 2 ** 52, length: unit }, 'OUT_OF_RANGE'],
      [{ offset: -unit, length: unit }, 'BAD_ARGUMENT'],
      [{ offset: 0.5, length: unit }, 'BAD_ARGUMENT'],
      [{ offset: 2 ** 53, length: unit }, 'BAD_ARGUMENT'],
      [{ offset: Number.NaN, length: unit }, 'BAD_ARGUMENT'],
    ];
    if (unit > 1) {
      bad.push([{ offset: 1, length: unit }, 'BAD_ARGUMENT'], [{ offset: 0, length: unit - 1 }, 'BAD_ARGUMENT']);
    }
    const { features } = device;
    for (const [range, code] of bad) {
      await rejects(device.read(range.offset, Buffer.alloc(range.length)), code);
      await rejects(device.extents(range), code);
      if (features.isReadOnly) continue;
      await rejects(device.write(range.offset, Buffer.alloc(range.length)), code);
      if (features.canZero) await rejects(device.zero(range), code);
      if (features.canTrim) await rejects(device.trim(range), code);
    }
  });

  test('keeps its claims: what it does not claim is refused', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const { features, limits } = device;
    const range = { offset: 0, length: limits.minimumBytes };
    const data = Buffer.alloc(range.length, 0xaa);
    if (!features.canFlush) await rejects(device.flush(), 'NOT_SUPPORTED');
    if (!features.canCache) await rejects(device.cache(range), 'NOT_SUPPORTED');
    if (!features.canExtents) assert.deepEqual(await device.extents(range), [{ ...range, kind: 'data' }]);
    if (features.isReadOnly) {
      assert.deepEqual(
        [features.canFua, features.canTrim, features.canZero, features.canFastZero],
        Array(4).fill(false),
      );
      await rejects(device.write(0, data), 'READ_ONLY');
      await rejects(device.zero(range), 'READ_ONLY');
      await rejects(device.trim(range), 'READ_ONLY');
    } else {
      if (!features.canFua) await rejects(device.write(0, data, { fua: true }), 'NOT_SUPPORTED');
      if (!features.canZero) await rejects(device.zero(range), 'NOT_SUPPORTED');
      if (!features.canTrim) await rejects(device.trim(range), 'NOT_SUPPORTED');
      if (!features.canFastZero) {
        await rejects(device.zero(range, { fastOnly: true }), 'NOT_SUPPORTED');
      }
    }
    assert.ok((await readAll(device)).equals(content));
  });

  test('refuses a payload beyond its maximum', async (t) => {
    const device = await open(t);
    const { maximumBytes, minimumBytes } = device.limits;
    if (maximumBytes + minimumBytes > sizeBytes) return;
    await rejects(device.read(0, Buffer.alloc(maximumBytes + minimumBytes)), 'BAD_ARGUMENT');
  });

  test('extents cover a range in order and what they call zero reads as zeroes', async (t) => {
    const content = patterned(sizeBytes);
    content.fill(0, 131_072, 524_288);
    const device = await open(t, content);
    const unit = device.limits.minimumBytes;
    for (const range of [
      { offset: 0, length: sizeBytes },
      { offset: 65_536 + unit, length: sizeBytes - 2 * 65_536 },
      { offset: sizeBytes - unit, length: unit },
    ]) {
      for (const extent of await allExtents(device, range)) {
        const expected = sub(content, extent);
        assert.ok((await readRange(device, extent)).equals(expected));
        if (extent.kind !== 'data') assert.ok(isZero(expected), JSON.stringify(extent));
      }
    }
  });

  test('a written area reads back at once and its neighbours are unchanged', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (device.features.isReadOnly) return;
    const unit = device.limits.minimumBytes;
    for (const range of [
      { offset: 0, length: unit },
      { offset: 65_536 - unit, length: 2 * unit },
      { offset: sizeBytes - unit, length: unit },
      { offset: 200_704, length: 131_072 + unit * 3 },
    ]) {
      const data = patterned(range.length, 99);
      await writeRange(device, range.offset, data);
      data.copy(content, range.offset);
      assert.ok((await readAll(device)).equals(content), JSON.stringify(range));
    }
  });

  test('a buffer is the caller’s again once the write has settled', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (device.features.isReadOnly) return;
    const data = patterned(8192, 3);
    const before = Buffer.from(data);
    await device.write(4096, data);
    assert.ok(data.equals(before), 'the device does not change what it writes');
    data.fill(0xdd);
    assert.ok((await readRange(device, { offset: 4096, length: 8192 })).equals(before));
  });

  test('writes to different places at the same time are all kept', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (device.features.isReadOnly) return;
    const unit = Math.max(device.limits.minimumBytes, 16);
    const writes: Promise<void>[] = [];
    // Neighbours inside one block, so that read-modify-write beneath would lose some of them.
    for (let index = 0; index < 300; index++) {
      const data = Buffer.alloc(unit, index % 251);
      data.copy(content, index * unit);
      writes.push(device.write(index * unit, data));
    }
    await Promise.all(writes);
    assert.ok((await readAll(device)).equals(content));
  });

  test('equals a flat array through random writes, zeroes, trims and flushes', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (device.features.isReadOnly) return;
    const random = randomSource(options.steps ?? DEFAULT_STEPS);
    for (let step = 0; step < (options.steps ?? DEFAULT_STEPS); step++) await randomStep(device, content, random);
    assert.ok((await readAll(device)).equals(content));
    for (const extent of await allExtents(device, { offset: 0, length: sizeBytes })) {
      if (extent.kind !== 'data') assert.ok(isZero(sub(content, extent)), JSON.stringify(extent));
    }
  });

  test('fast zeroing zeroes, or refuses and changes nothing', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    if (!device.features.canFastZero) return;
    for (const range of [
      { offset: 131_072, length: 262_144 },
      { offset: 0, length: device.limits.minimumBytes },
    ]) {
      try {
        await device.zero(range, { fastOnly: true });
        content.fill(0, range.offset, endOf(range));
      } catch (error) {
        assert.ok(error instanceof ApplianceError && error.code === 'NOT_SUPPORTED', String(error));
      }
      assert.ok((await readAll(device)).equals(content));
    }
  });

  test('closing is idempotent, waits for requests, and everything after it is CLOSED', async (t) => {
    const content = patterned(sizeBytes);
    const device = await open(t, content);
    const reads = Array.from({ length: 20 }, async (_, index) => {
      const range = { offset: index * 4096, length: 4096 };
      try {
        assert.ok((await readRange(device, range)).equals(sub(content, range)));
      } catch (error) {
        assert.ok(error instanceof ApplianceError && error.code === 'CLOSED', String(error));
      }
    });
    const closes = [device.close(), device.close()];
    await Promise.all([...reads, ...closes]);
    await device.close();
    await rejects(device.read(0, Buffer.alloc(4096)), 'CLOSED');
    await rejects(device.read(0, Buffer.alloc(0)), 'CLOSED');
    await rejects(device.extents({ offset: 0, length: 4096 }), 'CLOSED');
    if (!device.features.isReadOnly) await rejects(device.write(0, Buffer.alloc(4096)), 'CLOSED');
    if (device.features.canFlush) await rejects(device.flush(), 'CLOSED');
  });
}

/** Bytes that differ at every place and between seeds; never zero. */
export function patterned(length: number, seed: number = 1): Buffer {
  const random = randomSource(seed);
  const bytes = Buffer.allocUnsafe(length);
  for (let index = 0; index < length; index++) bytes[index] = 1 + Math.floor(random() * 255);
  return bytes;
}

/** The bytes of a range, in requests that the device takes. */
export async function readRange(device: BlockDevice, range: Range): Promise<Buffer> {
  const bytes = Buffer.alloc(range.length, 0xcc);
  for (let done = 0; done < range.length; done += device.limits.maximumBytes) {
    await device.read(range.offset + done, bytes.subarray(done, done + device.limits.maximumBytes));
  }
  return bytes;
}

/** Writes in requests that the device takes. */
export async function writeRange(
  device: BlockDevice,
  offset: number,
  data: Buffer,
  options: WriteOptions = {},
): Promise<void> {
  const { maximumBytes } = device.limits;
  for (let done = 0; done < data.length; done += maximumBytes) {
    await device.write(offset + done, data.subarray(done, done + maximumBytes), options);
  }
}

export async function readAll(device: BlockDevice): Promise<Buffer> {
  return await readRange(device, { offset: 0, length: device.sizeBytes });
}

/** All extents of a range; asserts what every answer must keep. */
export async function allExtents(device: BlockDevice, range: Range): Promise<Extent[]> {
  const all: Extent[] = [];
  for (let { offset } = range; offset < endOf(range); ) {
    const answer = await device.extents({ offset, length: endOf(range) - offset });
    assert.ok(answer.length > 0 && answer.length <= MAX_EXTENTS_PER_QUERY, `${answer.length} extents`);
    for (const [index, extent] of answer.entries()) {
      assert.equal(extent.offset, offset);
      assert.ok(extent.length > 0 && endOf(extent) <= endOf(range), JSON.stringify(extent));
      assert.notEqual(extent.kind, answer[index - 1]?.kind, 'neighbours of one kind are merged');
      offset = endOf(extent);
    }
    all.push(...answer);
  }
  return all;
}

async function randomStep(device: BlockDevice, content: Buffer, random: () => number): Promise<void> {
  const { features } = device;
  const range = randomRange(random, device, random() < 0.1 ? 200_000 : 9_000);
  const fua = features.canFua && random() < 0.1 ? { fua: true } : {};
  const choice = random();
  if (choice < 0.4) {
    const data = patterned(range.length, Math.floor(random() * 1e9));
    await writeRange(device, range.offset, data, fua);
    data.copy(content, range.offset);
  } else if (choice < 0.55 && features.canZero) {
    await device.zero(range, { ...fua, keepAllocated: random() < 0.3 });
    content.fill(0, range.offset, endOf(range));
  } else if (choice < 0.65 && features.canTrim) {
    await device.trim(range, fua);
    const after = await readRange(device, range);
    const before = sub(content, range);
    for (const [index, byte] of after.entries()) assert.ok(byte === 0 || byte === before[index], 'zero or unchanged');
    assert.ok((await readRange(device, range)).equals(after), 'the same at every read');
    after.copy(content, range.offset);
  } else if (choice < 0.7 && features.canFlush) await device.flush();
  else assert.ok((await readRange(device, range)).equals(sub(content, range)), JSON.stringify(range));
}

function randomRange(random: () => number, device: BlockDevice, maximum: number): Range {
  const unit = device.limits.minimumBytes;
  const units = Math.floor(device.sizeBytes / unit);
  const offset = Math.floor(random() * units);
  const length = 1 + Math.floor(random() * Math.min(Math.ceil(maximum / unit), units - offset));
  return { offset: offset * unit, length: Math.min(length, units - offset) * unit };
}

function sub(content: Buffer, range: Range): Buffer {
  return content.subarray(range.offset, endOf(range));
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

async function rejects(promise: Promise<unknown>, code: ErrorCode): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof ApplianceError, String(error));
    assert.equal(error.code, code);
    return true;
  });
}
