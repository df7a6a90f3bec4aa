// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { BlockDevice } from '../../../appliance/block/block-device.ts';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import { readOnly } from '../../../appliance/block/read-only-device.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { realFileSystem } from '../../../appliance/core/file-system.ts';
import { AppendLatency } from '../../../appliance/protect/continuous/append-latency.ts';
import { JournalTarget } from '../../../appliance/protect/continuous/journal-target.ts';
import { MirrorTarget } from '../../../appliance/protect/continuous/mirror-target.ts';
import { type KnownContent, seedingTarget } from '../../../appliance/protect/continuous/seeding-target.ts';
import { loggedDevice } from '../../../appliance/volume/logged-device.ts';
import type { WriteSink } from '../../../appliance/volume/write-layer.ts';
import type { WriteLog } from '../../../appliance/volume/write-log.ts';
import { blockDeviceConformance, patterned, readAll } from '../../block/conformance.ts';
import { randomSource } from '../../support/crashing-file-system.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';
import { fixedClock, openLog } from '../../support/write-log-model.ts';

const KIB = 1024;
const SIZE = 1024 * KIB + 512;

async function realLog(t: TestContext): Promise<WriteLog> {
  const directory = join(await t.tempDir(), 'log');
  return t.use(await openLog({ directory, fileSystem: realFileSystem, key: null }));
}

/** A volume with a base that holds `content` where it is not zero, chunk by chunk. */
async function volumeOf(log: WriteLog, content: Buffer): Promise<BlockDevice> {
  const base = memoryDevice({ sizeBytes: content.length });
  for (let offset = 0; offset < content.length; offset += 64 * KIB) {
    const chunk = content.subarray(offset, offset + 64 * KIB);
    if (chunk.some((byte) => byte !== 0)) await base.write(offset, chunk);
  }
  return loggedDevice({ base: readOnly(base), log, disk: 0 });
}

blockDeviceConformance('seeding target', async (t, content) => {
  const before = Buffer.from(content);
  before.fill(0x77, 100_000, 300_000);
  const { device } = seedingTarget(await volumeOf(await realLog(t), before));
  await device.zero({ offset: 0, length: content.length });
  await device.write(0, content);
  return device;
});

blockDeviceConformance('mirror target over the journal', async (t, content) => {
  const log = await realLog(t);
  const volume = await volumeOf(log, content);
  const target = mirrorTarget(volume, () => undefined);
  const { sizeBytes } = volume;
  target.release(new JournalTarget({ log, disk: 0, sizeBytes, durability: 'write', volume: () => volume }));
  return target.device;
});

const test = suite('targets of a mirror');

test('after a seeding in any order, with changes at the same time, the volume holds what was written last', async (t) => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = randomSource(seed);
    const log = await realLog(t);
    const held = patterned(SIZE, seed);
    held.fill(0, 300 * KIB, 500 * KIB);
    const volume = await volumeOf(log, held);
    // Some of it is known to be held, without reading it.
    const known: KnownContent = {
      chunkBytes: 64 * KIB,
      holds: async (offset, data) =>
        seed % 3 !== 0 && offset % (128 * KIB) === 0 && data.equals(await readAt(volume, offset, data.length)),
    };
    const { target, device } = seedingTarget(volume, known);
    const disk = Buffer.from(held);
    for (let change = 0; change < 6; change++) mutate(random, disk);
    await device.zero({ offset: 0, length: SIZE });
    // Each worker owns every fourth block, so that the last write of a place is known; their requests overlap nowhere else.
    const worker = async (index: number): Promise<void> => {
      for (let step = 0; step < 60; step++) {
        const block = index + 4 * Math.floor((random() * SIZE) / (4 * 16 * KIB));
        const offset = Math.min(block * 16 * KIB, SIZE - 1) + Math.floor(random() * 3) * 700;
        const length = Math.min(1 + Math.floor(random() * 14_000), SIZE - offset);
        if (length <= 0) continue;
        const kind = random();
        if (kind < 0.3) {
          disk.fill(0, offset, offset + length);
          await (kind < 0.15 ? device.zero({ offset, length }) : device.trim({ offset, length }));
        } else if (kind < 0.6) {
          const data = patterned(length, seed + step);
          data.copy(disk, offset);
          await device.write(offset, data);
        } else await device.write(offset, Buffer.from(disk.subarray(offset, offset + length)));
      }
    };
    await Promise.all([0, 1, 2, 3].map(worker));
    const settling = seed % 2 === 0 ? target.settle() : undefined;
    for (let offset = 0; offset < SIZE; offset += 100_000) {
      await device.write(offset, Buffer.from(disk.subarray(offset, Math.min(SIZE, offset + 100_000))));
    }
    await settling;
    await target.settle();
    assert.ok((await readAll(volume)).equals(disk), `seed ${seed}`);
    assert.ok((await readAll(device)).equals(disk), `seed ${seed}`);
  }
});

test('what the volume holds already is not logged, nor are zeroes where it has none', async (t) => {
  const log = await realLog(t);
  const held = patterned(SIZE);
  held.fill(0, 256 * KIB, 512 * KIB);
  const { target, device } = seedingTarget(await volumeOf(log, held));
  await device.zero({ offset: 0, length: SIZE });
  await device.trim({ offset: 300 * KIB, length: 100 * KIB });
  for (let offset = 0; offset < SIZE; offset += 70_000) {
    const end = Math.min(SIZE, offset + 70_000);
    if (end <= 256 * KIB || offset >= 512 * KIB) await device.write(offset, held.subarray(offset, end));
  }
  await device.write(200 * KIB, held.subarray(200 * KIB, 256 * KIB));
  await device.write(512 * KIB, held.subarray(512 * KIB, 600 * KIB));
  await target.settle();
  assert.equal(log.lastSequence, 0);
  assert.equal(target.counts.differing, 0);
});

test('overlapping requests of the copy and of the guest leave one of them whole, the same at every read', async (t) => {
  const log = await realLog(t);
  const volume = await volumeOf(log, patterned(SIZE));
  const { target, device } = seedingTarget(volume);
  const ones = Buffer.alloc(200 * KIB, 1);
  const twos = Buffer.alloc(200 * KIB, 2);
  for (let round = 0; round < 20; round++) {
    await Promise.all([device.write(0, ones), device.write(0, twos), device.zero({ offset: 0, length: 200 * KIB })]);
    await target.settle();
    const now = (await readAll(volume)).subarray(0, 200 * KIB);
    assert.equal(new Set(now).size, 1, `round ${round}`);
  }
});

test('a failed change refuses all that come after it, and is told before it is answered', async (t) => {
  const log = await realLog(t);
  const volume = await volumeOf(log, Buffer.alloc(SIZE));
  const told: string[] = [];
  const target = mirrorTarget(volume, (error) => told.push(error.message));
  let isFull = false;
  const full: WriteSink = {
    append: (write) => (isFull ? Promise.reject(new ApplianceError('NO_SPACE', 'full')) : log.append(write)),
    appendZero: (range, kind) => log.appendZero(range, kind),
    flush: () => log.flush(),
  };
  target.release(new JournalTarget({ log: full, disk: 0, sizeBytes: SIZE, durability: 'group', volume: () => volume }));
  await target.device.write(0, Buffer.from('first'));
  isFull = true;
  await rejectsWith(target.device.write(0, Buffer.from('second')), 'NO_SPACE');
  assert.deepEqual(told, ['full']);
  isFull = false;
  await rejectsWith(target.device.write(0, Buffer.from('third')), 'CLOSED');
  await rejectsWith(target.device.zero({ offset: 0, length: 1 }), 'CLOSED');
  assert.equal(log.lastSequence, 1);
  assert.deepEqual(told, ['full']);
});

test('the change to the journal waits for what runs, and what comes meanwhile goes to the journal', async (t) => {
  const log = await realLog(t);
  const volume = await volumeOf(log, Buffer.alloc(SIZE));
  const slow = Promise.withResolvers<void>();
  const order: string[] = [];
  const seeding: BlockDevice = Object.assign(Object.create(volume), {
    write: async () => {
      await slow.promise;
      order.push('seeding');
    },
  });
  const target = mirrorTarget(seeding, () => undefined);
  const first = target.write(0, Buffer.from('a'));
  const held = target.hold().then(() => order.push('held'));
  const second = target.write(0, Buffer.from('b')).then(() => order.push('journal'));
  slow.resolve();
  await held;
  target.release(new JournalTarget({ log, disk: 0, sizeBytes: SIZE, durability: 'group', volume: () => volume }));
  await Promise.all([first, second]);
  assert.deepEqual(order, ['seeding', 'held', 'journal']);
  assert.equal(log.lastSequence, 1);
});

test('a log that is slow for a while, or stuck, is found out', () => {
  const latency = new AppendLatency({ limitMs: 10, hardLimitMs: 500, windowMs: 1000, seedingLimitMs: 5000 });
  assert.equal(latency.verdict(0), undefined);
  const change = (fromMs: number, tookMs: number): void => latency.end(latency.begin(fromMs), fromMs + tookMs);
  for (let at = 0; at < 20; at++) change(at, at < 10 ? 50 : 1);
  assert.equal(latency.verdict(1000), undefined, 'half of them');
  for (let at = 1000; at < 1020; at++) change(at, at < 1011 ? 50 : 1);
  assert.equal(latency.verdict(2000), '11 of 20 writes took longer than 10 ms');
  assert.equal(latency.verdict(3000), undefined);
  latency.begin(3000);
  assert.equal(latency.verdict(3400), undefined);
  assert.equal(latency.verdict(3600), 'a write waited 600 ms for the log');
});

function mutate(random: () => number, disk: Buffer): void {
  const offset = Math.floor(random() * (disk.length - 20_000));
  patterned(20_000, Math.floor(random() * 1000)).copy(disk, offset);
}

function mirrorTarget(seeding: BlockDevice, onFailure: (error: Error) => void): MirrorTarget {
  return new MirrorTarget({ name: 'vda', seeding, clock: fixedClock, latency: new AppendLatency(), onFailure });
}

async function readAt(volume: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const content = Buffer.alloc(length);
  await volume.read(offset, content);
  return content;
}
