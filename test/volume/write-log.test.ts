// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { type FileSystem, type OpenFile, type OpenMode, realFileSystem } from '../../appliance/core/file-system.ts';
import { parseMachineId } from '../../appliance/core/ids.ts';
import { WriteLog } from '../../appliance/volume/write-log.ts';
import { SEGMENT_HEADER_BYTES } from '../../appliance/volume/write-log-format.ts';
import { segmentName } from '../../appliance/volume/write-log-segment.ts';
import { CrashingFileSystem, randomSource } from '../support/crashing-file-system.ts';
import { FaultPlan, FaultyFileSystem, systemError } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { append, DiskModel, fixedClock, KEY, openLog, randomStep, readDisk } from '../support/write-log-model.ts';

const test = suite('write log');

const SIZE = 300_000;

for (const key of [null, KEY]) {
  const how = key === null ? 'plain' : 'encrypted';

  test(`${how}: equals flat arrays through random changes and reopenings`, async () => {
    for (const seed of [1, 2, 3, 4]) {
      const random = randomSource(seed);
      const fileSystem = new CrashingFileSystem();
      const model = new DiskModel(3, SIZE);
      const setup = { directory: '/log', fileSystem, key, segmentBytes: 200_000 };
      let log = await openLog(setup);
      for (let step = 0; step < 120; step++) {
        const change = randomStep(random, model, random() < 0.1 ? 200_000 : 9_000);
        await append(log, change);
        model.apply(change);
        if (random() < 0.1) await log.flush();
        if (random() < 0.1) {
          if (random() < 0.5) await log.close();
          log = await openLog(setup);
          assert.equal(log.tornBytes, 0);
        }
        if (random() < 0.2) {
          assert.equal(await model.matching(log), model.states.length - 1);
          model.flushed();
        }
      }
      assert.equal(await model.matching(log), model.states.length - 1);
      await log.close();
    }
  });

  test(`${how}: a log that was cut at any byte has a prefix of its changes and goes on`, async () => {
    const { fileSystem, model, path, whole } = await oneSegment(key);
    for (let length = 0; length <= whole.length; length += length < 200 || length > whole.length - 200 ? 1 : 13) {
      const copy = fileSystem.survivingProcess();
      const file = await copy.open(path, 'update');
      await file.truncate(length);
      const log = await openLog({ directory: '/log', fileSystem: copy, key });
      const found = await model.matching(log);
      assert.ok(found >= 0, `cut at ${length}`);
      const isWhole = found === model.states.length - 1;
      assert.ok(length < whole.length || isWhole);
      await log.append({ disk: 0, offset: 0, data: Buffer.from('after') });
      await log.close();
      const again = await openLog({ directory: '/log', fileSystem: copy, key });
      assert.equal(again.tornBytes, 0);
      assert.equal((await readDisk(again, 0, SIZE)).toString('latin1', 0, 5), 'after');
      await again.close();
    }
  });

  test(`${how}: any flipped bit is an error or changes nothing, never wrong data`, async () => {
    const { fileSystem, model, path, whole } = await oneSegment(key);
    const outcomes = { refused: 0, harmless: 0 };
    for (let at = 0; at < whole.length; at += at < 700 ? 1 : 29) {
      const copy = fileSystem.survivingProcess();
      const file = await copy.open(path, 'update');
      await file.write(Buffer.from([(whole[at] ?? 0) ^ (1 << (at % 8))]), at);
      try {
        const log = await openLog({ directory: '/log', fileSystem: copy, key });
        assert.equal(await model.matching(log), model.states.length - 1, `byte ${at}`);
        outcomes.harmless += 1;
      } catch (error) {
        assert.ok(hasCode(error, 'WRITE_LOG_CORRUPT'), `byte ${at}: ${String(error)}`);
        outcomes.refused += 1;
      }
    }
    // Only the closing barrier may be lost: it holds no data.
    assert.ok(outcomes.harmless <= 64 + 16 + 8, JSON.stringify(outcomes));
    assert.ok(outcomes.refused > 700, JSON.stringify(outcomes));
  });

  test(`${how}: a bit that flips while the log is open is an error of the read that meets it`, async (t) => {
    const dir = join(await t.tempDir(), 'log');
    const log = t.use(await openLog({ directory: dir, fileSystem: realFileSystem, key }));
    await log.append({ disk: 0, offset: 0, data: Buffer.alloc(4096, 7) });
    await log.append({ disk: 0, offset: 4096, data: Buffer.alloc(4096, 8) });
    const path = join(dir, segmentName(1));
    const whole = await readFile(path);
    for (const at of [0, 4, 8, 24, 52, 60, 64, 80, 2000, 4159]) {
      const damaged = Buffer.from(whole);
      const position = SEGMENT_HEADER_BYTES + at;
      damaged[position] = (damaged[position] ?? 0) ^ 0x10;
      await writeFile(path, damaged);
      await assert.rejects(readDisk(log, 0, 4096), (error) => hasCode(error, 'WRITE_LOG_CORRUPT'), `byte ${at}`);
    }
    await writeFile(path, whole);
    assert.ok((await readDisk(log, 0, 4096)).equals(Buffer.alloc(4096, 7)));
  });
}

test('a log needs the key that it began with', async () => {
  const encrypted = new CrashingFileSystem();
  const plain = new CrashingFileSystem();
  for (const [fileSystem, key] of [
    [encrypted, KEY],
    [plain, null],
  ] as const) {
    const log = await openLog({ directory: '/log', fileSystem, key });
    await log.append({ disk: 0, offset: 0, data: Buffer.from('secret') });
    await log.close();
  }
  for (const [fileSystem, key] of [
    [encrypted, null],
    [encrypted, Buffer.alloc(32, 1)],
    [plain, KEY],
  ] as const) {
    await assert.rejects(openLog({ directory: '/log', fileSystem, key }), (error) => hasCode(error, 'REPOSITORY_KEY'));
  }
  assert.equal(encrypted.contentOf(`/log/${segmentName(1)}`).includes('secret'), false);
  assert.equal(plain.contentOf(`/log/${segmentName(1)}`).includes('secret'), true);
});

test('the same data twice is never encrypted to the same bytes', async () => {
  const fileSystem = new CrashingFileSystem();
  for (let round = 0; round < 2; round++) {
    const log = await openLog({ directory: '/log', fileSystem, key: KEY });
    for (let write = 0; write < 2; write++) await log.append({ disk: 0, offset: 0, data: Buffer.alloc(64, 1) });
    await log.close();
  }
  const blocks = new Set<string>();
  for (const number of [1, 2]) {
    const content = fileSystem.contentOf(`/log/${segmentName(number)}`);
    for (const record of [0, 1]) {
      const at = SEGMENT_HEADER_BYTES + record * 144 + 80;
      blocks.add(content.toString('hex', at, at + 64));
    }
  }
  assert.equal(blocks.size, 4);
});

test('a missing, exchanged or foreign segment is refused', async () => {
  const fileSystem = new CrashingFileSystem();
  const log = await openLog({ directory: '/log', fileSystem, key: null, segmentBytes: 5_000 });
  for (let write = 0; write < 6; write++) await log.append({ disk: 0, offset: 0, data: Buffer.alloc(4000, write) });
  await log.close();
  const name = (number: number): string => `/log/${segmentName(number)}`;
  const other = new CrashingFileSystem();
  await (async () => {
    const foreign = await openLog({ directory: '/log', fileSystem: other, key: null, segmentBytes: 5_000 });
    for (let write = 0; write < 6; write++) {
      await foreign.append({ disk: 0, offset: 0, data: Buffer.alloc(4000, write) });
    }
    await foreign.close();
  })();
  const damages: ((copy: CrashingFileSystem) => Promise<void>)[] = [
    (copy) => copy.unlink(name(1)),
    (copy) => copy.unlink(name(3)),
    async (copy) => {
      await copy.rename(name(2), '/log/x');
      await copy.rename(name(3), name(2));
      await copy.rename('/log/x', name(3));
    },
    async (copy) => {
      const file = await copy.open(name(2), 'update');
      await file.write(other.contentOf(name(2)), 0);
    },
    async (copy) => {
      const file = await copy.open(name(2), 'update');
      await file.truncate((await file.sizeBytes()) - 8);
    },
    async (copy) => {
      const file = await copy.open(name(2), 'update');
      await file.truncate(SEGMENT_HEADER_BYTES - 1);
    },
    async (copy) => {
      const file = await copy.open(name(2), 'update');
      await file.write(Buffer.alloc(8), await file.sizeBytes());
    },
  ];
  for (const [index, damage] of damages.entries()) {
    const copy = fileSystem.survivingProcess();
    await damage(copy);
    await assert.rejects(
      openLog({ directory: '/log', fileSystem: copy, key: null }),
      (error) => hasCode(error, 'WRITE_LOG_CORRUPT'),
      `damage ${index}`,
    );
  }
});

test('a log of another machine or another version is refused', async () => {
  const fileSystem = new CrashingFileSystem();
  const log = await openLog({ directory: '/log', fileSystem, key: null });
  await log.append({ disk: 0, offset: 0, data: Buffer.from('x') });
  await log.close();
  const machineId = parseMachineId('ffffffff-7d3e-4f10-8a55-1c2d3e4f5a6b');
  await assert.rejects(WriteLog.open('/log', { fileSystem, key: null, machineId }), (error) =>
    hasCode(error, 'BAD_ARGUMENT'),
  );
});

test('concurrent appends are written together, and concurrent flushes share a sync', async () => {
  const plan = new FaultPlan();
  const counts = new Map<string, number>();
  const step = plan.step.bind(plan);
  plan.step = (operation, path) => {
    counts.set(operation, (counts.get(operation) ?? 0) + 1);
    return step(operation, path);
  };
  const fileSystem = new FaultyFileSystem(new CrashingFileSystem(), plan);
  const log = await openLog({ directory: '/log', fileSystem, key: null });
  await log.append({ disk: 0, offset: 0, data: Buffer.from('x') });
  counts.clear();
  const appends = Array.from({ length: 100 }, (_, index) =>
    log.append({ disk: 0, offset: index * 10, data: Buffer.alloc(10, index) }),
  );
  const appended = await Promise.all(appends);
  assert.deepEqual(
    appended.map((one) => one.sequence),
    Array.from({ length: 100 }, (_, index) => index + 2),
  );
  assert.equal(counts.get('write'), 1);
  await Promise.all(Array.from({ length: 50 }, () => log.flush()));
  await log.flush();
  assert.equal(counts.get('syncData'), 1);
  assert.equal(log.durableSequence, 101);
  await log.close();
});

test('an append at once keeps its place behind what waits, and one that fails is cut off by the next', async (t) => {
  const fileSystem = new FullFileSystem(new CrashingFileSystem());
  const log = t.use(await openLog({ directory: '/log', fileSystem, key: KEY }));
  const write = (text: string): { disk: number; offset: number; data: Buffer } => ({
    disk: 0,
    offset: 0,
    data: Buffer.from(text),
  });
  // There is no segment yet, and then something waits.
  assert.equal(log.appendNow(0, [write('first')]), undefined);
  const waiting = log.append(write('one'));
  assert.equal(log.appendNow(0, [write('two')]), undefined);
  await waiting;
  assert.equal(log.appendNow(0, [write('two'), write('three')])?.sequence, 3);
  fileSystem.roomBytes = 150;
  assert.equal(log.appendNow(0, [write('half'), write('half')]), undefined);
  fileSystem.roomBytes = Number.POSITIVE_INFINITY;
  assert.equal(log.appendNow(0, [write('not yet')]), undefined);
  assert.equal((await failure(log.append(write('half')))).code, 'NO_SPACE');
  assert.equal((await log.append(write('red'))).sequence, 4);
  assert.equal(log.appendNow(0, [write('blue')])?.sequence, 5);
  assert.equal((await readDisk(log, 0, 4)).toString('latin1'), 'blue');
  await log.close();
  assert.equal(log.appendNow(0, [write('late')]), undefined);
  const again = t.use(await openLog({ directory: '/log', fileSystem: fileSystem.inner.crash(1), key: KEY }));
  assert.equal(again.lastSequence, 5);
  assert.equal((await readDisk(again, 0, 4)).toString('latin1'), 'blue');
});

test('a full disk fails the append alone, and the log goes on when there is room again', async (t) => {
  const fileSystem = new FullFileSystem(new CrashingFileSystem());
  const log = t.use(await openLog({ directory: '/log', fileSystem, key: KEY }));
  const model = new DiskModel(1, SIZE);
  const random = randomSource(5);
  for (let round = 0; round < 20; round++) {
    const change = randomStep(random, model, 9_000);
    fileSystem.roomBytes = round % 3 === 1 ? Math.floor(random() * 200) : Number.POSITIVE_INFINITY;
    if (round % 3 === 1) {
      await assert.rejects(
        append(log, { kind: 'write', disk: 0, offset: 0, data: Buffer.alloc(5_000, round) }),
        (error) => hasCode(error, 'NO_SPACE'),
      );
    } else {
      await append(log, change);
      model.apply(change);
    }
    assert.equal(await model.matching(log), model.states.length - 1);
  }
  fileSystem.roomBytes = Number.POSITIVE_INFINITY;
  await log.flush();
  const again = t.use(await openLog({ directory: '/log', fileSystem: fileSystem.inner.crash(1), key: KEY }));
  assert.equal(await model.matching(again), model.states.length - 1);
});

test('after a failed sync every append and flush fails with that first error, and reads go on', async (t) => {
  const disk = new CrashingFileSystem();
  const setup = await openLog({ directory: '/log', fileSystem: disk, key: null });
  await setup.append({ disk: 0, offset: 0, data: Buffer.from('before') });
  await setup.close();
  // Operations: sync of the old segment, create, header, sync, sync of the directory, append, sync.
  for (const code of ['EIO', 'ENOSPC'] as const) {
    const fileSystem = new FaultyFileSystem(disk.survivingProcess(), new FaultPlan({ kind: 'error', at: 8, code }));
    const log = t.use(await openLog({ directory: '/log', fileSystem, key: null }));
    await log.append({ disk: 0, offset: 100, data: Buffer.from('written') });
    const first = await failure(log.flush());
    assert.equal(fileSystem.plan.hit, `syncData /log/${segmentName(2)}`);
    assert.equal(first.code, code === 'EIO' ? 'IO_FAILED' : 'NO_SPACE');
    assert.equal(await failure(log.flush()), first);
    assert.equal(await failure(log.append({ disk: 0, offset: 0, data: Buffer.from('x') })), first);
    assert.equal(log.failedWith, first);
    assert.equal((await readDisk(log, 0, 200)).toString('latin1', 100, 107), 'written');
  }
});

test('marks and times stand in the log in order', async (t) => {
  const dir = join(await t.tempDir(), 'log');
  const log = t.use(await openLog({ directory: dir, fileSystem: realFileSystem, key: KEY }));
  await log.append({ disk: 1, offset: 65_530, data: Buffer.alloc(20, 1) });
  const mark = await log.appendMark('before the update ✓');
  await log.appendZero({ disk: 1, offset: 0, length: 2 ** 40 }, 'trim');
  const seen: unknown[] = [];
  await log.replay(({ header, payload }) => {
    const text = header.kind === 'mark' ? payload.toString('utf8') : '';
    seen.push([header.sequence, header.kind, header.offset, header.length, header.continues, text]);
  });
  assert.deepEqual(seen, [
    [1, 'write', 65_530, 6, true, ''],
    [2, 'write', 65_536, 14, false, ''],
    [3, 'mark', 0, 21, false, 'before the update ✓'],
    [4, 'trim', 0, 2 ** 40, false, ''],
  ]);
  assert.deepEqual(mark, { sequence: 3, timeUs: fixedClock.nowMs() * 1000 });
  await assert.rejects(log.appendMark('x'.repeat(4097)), (error) => hasCode(error, 'BAD_ARGUMENT'));
});

test('opening and closing without a change leaves the files as they are', async (t) => {
  const dir = join(await t.tempDir(), 'log');
  for (let round = 0; round < 3; round++) {
    const log = await openLog({ directory: dir, fileSystem: realFileSystem, key: null });
    if (round === 0) await log.append({ disk: 0, offset: 0, data: Buffer.from('x') });
    await log.flush();
    await log.close();
    await assert.rejects(log.append({ disk: 0, offset: 0, data: Buffer.from('x') }), (error) =>
      hasCode(error, 'CLOSED'),
    );
  }
  assert.deepEqual(await readdir(dir), [segmentName(1)]);
});

test('data of a guest that looks like a record is not taken for one', async (t) => {
  const dir = join(await t.tempDir(), 'log');
  const log = await openLog({ directory: dir, fileSystem: realFileSystem, key: null });
  await log.append({ disk: 0, offset: 0, data: Buffer.alloc(64, 1) });
  await log.flush();
  // The guest writes a copy of a record of another log that says that everything was durable.
  const forged = Buffer.alloc(256);
  forged.writeUInt32BE(0x5553574c, 0);
  forged.writeUInt32BE(0x5553574c, 128);
  await log.append({ disk: 0, offset: 64, data: forged });
  await log.close();
  const path = join(dir, segmentName(1));
  // Cut off the barrier and tear the second record: only its payload is left of what follows the damage.
  const whole = await readFile(path);
  await truncate(path, SEGMENT_HEADER_BYTES + 128 + 64 + 256);
  const torn = (await readFile(path)).fill(0, SEGMENT_HEADER_BYTES + 128, SEGMENT_HEADER_BYTES + 128 + 64);
  await writeFile(path, torn);
  const again = t.use(await openLog({ directory: dir, fileSystem: realFileSystem, key: null }));
  assert.equal(again.lastSequence, 1);
  assert.ok(whole.length > torn.length);
});

async function oneSegment(
  key: Buffer | null,
): Promise<{ fileSystem: CrashingFileSystem; model: DiskModel; path: string; whole: Buffer }> {
  const fileSystem = new CrashingFileSystem();
  const log = await openLog({ directory: '/log', fileSystem, key });
  const model = new DiskModel(2, SIZE);
  const random = randomSource(11);
  for (let step = 0; step < 25; step++) {
    const change = randomStep(random, model, 1_000);
    await append(log, change);
    model.apply(change);
  }
  await log.close();
  const path = `/log/${segmentName(1)}`;
  return { fileSystem, model, path, whole: fileSystem.contentOf(path) };
}

async function failure(promise: Promise<unknown>): Promise<ApplianceError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof ApplianceError, String(error));
    return error;
  }
  throw new Error('should have failed');
}

/** Lets writes in until the room is used up, as a full file system does: the write that does not fit is cut. */
class FullFileSystem implements FileSystem {
  roomBytes = Number.POSITIVE_INFINITY;
  readonly inner: CrashingFileSystem;
  readonly rename: FileSystem['rename'];
  readonly link: FileSystem['link'];
  readonly unlink: FileSystem['unlink'];
  readonly stat: FileSystem['stat'];
  readonly readDirectory: FileSystem['readDirectory'];
  readonly makeDirectory: FileSystem['makeDirectory'];
  readonly removeDirectory: FileSystem['removeDirectory'];
  readonly syncDirectory: FileSystem['syncDirectory'];

  constructor(inner: CrashingFileSystem) {
    this.inner = inner;
    this.rename = inner.rename.bind(inner);
    this.link = inner.link.bind(inner);
    this.unlink = inner.unlink.bind(inner);
    this.stat = inner.stat.bind(inner);
    this.readDirectory = inner.readDirectory.bind(inner);
    this.makeDirectory = inner.makeDirectory.bind(inner);
    this.removeDirectory = inner.removeDirectory.bind(inner);
    this.syncDirectory = inner.syncDirectory.bind(inner);
  }

  async open(path: string, mode: OpenMode): Promise<OpenFile> {
    const file = await this.inner.open(path, mode);
    const write = file.write.bind(file);
    const writeNow = file.writeNow?.bind(file);
    const fitting = (data: Buffer): Buffer => {
      const fits = data.subarray(0, Math.min(data.length, this.roomBytes));
      this.roomBytes -= fits.length;
      return fits;
    };
    const check = (data: Buffer, fits: Buffer): void => {
      if (fits.length < data.length) throw systemError('ENOSPC', 'write', path);
    };
    file.write = async (parts, position) => {
      const data = Buffer.isBuffer(parts) ? parts : Buffer.concat(parts);
      const fits = fitting(data);
      await write(fits, position);
      check(data, fits);
    };
    file.writeNow = (data, position) => {
      const fits = fitting(data);
      writeNow?.(fits, position);
      check(data, fits);
      return true;
    };
    return file;
  }
}
