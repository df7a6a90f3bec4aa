// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import { systemClock } from '../../../appliance/core/clock.ts';
import { keyFromHex } from '../../../appliance/core/content-id.ts';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import type { CyclePosition } from '../../../appliance/protect/continuous/cycle-position.ts';
import type { PointSources } from '../../../appliance/protect/continuous/point-storage.ts';
import { PointStorage } from '../../../appliance/protect/continuous/point-storage.ts';
import type { SessionDisk, SessionMoment } from '../../../appliance/protect/continuous/ports.ts';
import type { PointDisk, RecoveryPoint } from '../../../appliance/repository/manifest.ts';
import { Journal } from '../../../appliance/volume/journal.ts';
import { layeredDevice } from '../../../appliance/volume/logged-device.ts';
import { PointDevice } from '../../../appliance/volume/point-device.ts';
import { patterned, readAll } from '../../block/conformance.ts';
import { randomSource } from '../../support/crashing-file-system.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const MACHINE = parseMachineId('0b1c2d3e-4f50-4617-8899-aabbccddeeff');
const SIZE = 512 * 1024;
const none = new AbortController().signal;

/** A machine whose disks are in memory, its repository, and its journal. */
interface Scene {
  readonly directory: string;
  readonly fixture: FixtureRepository;
  readonly journal: Journal;
  readonly storage: PointStorage;
  readonly sources: PointSources;
  disks: { readonly disk: SessionDisk; readonly content: Buffer }[];
}

function sessionDisk(name: string, sizeBytes: number = SIZE): SessionDisk {
  return { name, sizeBytes, identity: { source: `file:/${name}`, format: 'qcow2' } };
}

async function openJournal(t: TestContext, directory: string): Promise<Journal> {
  return t.use(await Journal.open(join(directory, 'journal'), { key: null, machineId: MACHINE }));
}

async function makeScene(t: TestContext): Promise<Scene> {
  const directory = await t.tempDir();
  const fixture = t.use(await FixtureRepository.create(directory));
  const journal = await openJournal(t, directory);
  const made: { current: Scene | undefined } = { current: undefined };
  const position: { current: CyclePosition | undefined } = { current: undefined };
  const sources: PointSources = {
    backUp: async (place) => {
      const content: Record<string, ReturnType<typeof memoryDevice>> = {};
      const identities: Record<string, SessionDisk['identity']> = {};
      for (const { disk, content: bytes } of made.current?.disks ?? []) {
        const device = memoryDevice({ sizeBytes: bytes.length });
        await device.write(0, bytes);
        content[disk.name] = device;
        identities[disk.name] = disk.identity;
      }
      const point = await fixture.addPoint({ disks: content, identities });
      const journal = place(point.disks, systemClock.nowMs());
      await fixture.repository.manifests.purge({ machineId: MACHINE, pointId: point.id });
      const placed: RecoveryPoint = { ...point, journal };
      await fixture.repository.manifests.put(placed);
      await fixture.catalog.putPoint(placed);
      return placed;
    },
    exclusively: async (work) => work(undefined),
    openCycle: () => Promise.reject(new Error('no cycles here')),
    attachments: () => Promise.resolve([{ name: 'domain.xml', bytes: Buffer.from('<domain/>') }]),
    loadPosition: () => Promise.resolve(position.current),
    savePosition: async (given) => {
      position.current = given;
    },
    forgetPosition: async () => {
      position.current = undefined;
    },
    newPosition: () => Promise.resolve(undefined),
    dropPositionsBut: () => Promise.resolve(),
    release: () => Promise.resolve(),
    onWait: () => undefined,
  };
  const { repository, catalog } = fixture;
  const parts = { repository, catalog, clock: systemClock, machineId: MACHINE, journal, sources };
  const disks = ['vda', 'vdb'].map((name, seed) => ({ disk: sessionDisk(name), content: patterned(SIZE, seed) }));
  made.current = { directory, fixture, journal, storage: t.use(new PointStorage(parts)), sources, disks };
  return made.current;
}

function wanted({ disks }: Scene): SessionDisk[] {
  return disks.map(({ disk }) => disk);
}

async function contentOf(scene: Scene, disk: PointDisk): Promise<Buffer> {
  const { reader, chunkBytes } = scene.fixture.repository;
  return readAll(new PointDevice({ reader, chunkBytes, root: keyFromHex(disk.root), sizeBytes: disk.sizeBytes }));
}

const test = suite('recovery points beneath a journal');

test('a fold is the state at its moment, whatever was written meanwhile, and the next base', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage } = scene;
  assert.equal(await storage.hasBase(wanted(scene)), false);
  await storage.makeBase(wanted(scene), none);
  await journal.beginStretch('writes');
  const random = randomSource(5);
  const mutate = async (steps: number): Promise<void> => {
    for (let step = 0; step < steps; step++) {
      const which = scene.disks[Math.floor(random() * 2)];
      assert.ok(which !== undefined);
      const disk = storage.logDiskOf(which.disk.name);
      const offset = Math.floor(random() * (SIZE - 20_000));
      const length = 1 + Math.floor(random() * 20_000);
      if (random() < 0.3) {
        which.content.fill(0, offset, offset + length);
        await journal.appendZero({ disk, offset, length });
      } else {
        const data = patterned(length, step);
        data.copy(which.content, offset);
        await journal.append({ disk, offset, data });
      }
    }
  };
  for (let round = 0; round < 5; round++) {
    await mutate(30);
    const then = scene.disks.map(({ content }) => Buffer.from(content));
    const upTo = journal.newest;
    const folding = storage.fold(upTo, 'folded from the journal', none);
    await mutate(10);
    const point = await folding;
    assert.ok(point?.journal !== undefined);
    assert.deepEqual([point.journal.sequence, point.journal.timeUs], [upTo.sequence, upTo.timeUs]);
    for (const [index, disk] of point.disks.entries()) {
      assert.ok((await contentOf(scene, disk)).equals(then[index] ?? Buffer.alloc(0)), `${disk.name}, round ${round}`);
    }
    assert.equal(storage.base, point);
    assert.equal(journal.foldedSequence, upTo.sequence);
    for (const { disk, content } of scene.disks) {
      assert.ok((await readAll(storage.volume(disk.name))).equals(content), `${disk.name} now, round ${round}`);
    }
    assert.deepEqual(
      point.attachments.map(({ name }) => name),
      ['domain.xml'],
    );
  }
});

test('nothing to fold makes no point', async (t) => {
  const scene = await makeScene(t);
  const base = await scene.storage.makeBase(wanted(scene), none);
  await scene.journal.beginStretch('interval');
  await scene.journal.markMoment();
  assert.equal(await scene.storage.fold(scene.journal.newest, 'x', none), undefined);
  assert.deepEqual(
    (await scene.fixture.catalog.points()).map(({ id }) => id),
    [base.id],
  );
});

test('after a restart the newest fold is the base, and the volume reads as before', async (t) => {
  const scene = await makeScene(t);
  await scene.storage.makeBase(wanted(scene), none);
  await scene.journal.beginStretch('writes');
  await scene.journal.append({ disk: scene.storage.logDiskOf('vda'), offset: 100, data: Buffer.from('folded') });
  const fold = await scene.storage.fold(scene.journal.newest, 'x', none);
  await scene.journal.append({ disk: scene.storage.logDiskOf('vdb'), offset: 0, data: Buffer.from('not folded') });
  await scene.journal.close();
  const journal = await openJournal(t, scene.directory);
  const { repository, catalog } = scene.fixture;
  const { sources } = scene;
  using storage = new PointStorage({ repository, catalog, clock: systemClock, machineId: MACHINE, journal, sources });
  assert.ok(await storage.hasBase(wanted(scene)));
  assert.equal(storage.base?.id, fold?.id);
  scene.disks[0]?.content.write('folded', 100);
  scene.disks[1]?.content.write('not folded', 0);
  for (const { disk, content } of scene.disks) assert.ok((await readAll(storage.volume(disk.name))).equals(content));
});

test('a disk that was resized or replaced gets another number, and one that stayed keeps its own', async (t) => {
  const scene = await makeScene(t);
  await scene.storage.makeBase(wanted(scene), none);
  const numbers = (): number[] => wanted(scene).map(({ name }) => scene.storage.logDiskOf(name));
  assert.deepEqual(numbers(), [0, 1]);
  scene.disks[0] = { disk: sessionDisk('vda', 2 * SIZE), content: patterned(2 * SIZE) };
  assert.equal(await scene.storage.hasBase(wanted(scene)), false);
  await scene.storage.makeBase(wanted(scene), none);
  assert.deepEqual(numbers(), [2, 1]);
  scene.disks.pop();
  await scene.storage.makeBase(wanted(scene), none);
  assert.deepEqual(numbers(), [2]);
  scene.disks.push({ disk: { ...sessionDisk('vdb'), identity: { source: 'file:/other' } }, content: patterned(SIZE) });
  await scene.storage.makeBase(wanted(scene), none);
  assert.deepEqual(numbers(), [2, 3]);
});

test('a base that was deleted is no base, and a backup with other disks than asked for is refused', async (t) => {
  const scene = await makeScene(t);
  const base = await scene.storage.makeBase(wanted(scene), none);
  await scene.fixture.repository.manifests.delete({ machineId: MACHINE, pointId: base.id }, 0);
  const { repository, catalog } = scene.fixture;
  const { journal, sources } = scene;
  using storage = new PointStorage({ repository, catalog, clock: systemClock, machineId: MACHINE, journal, sources });
  assert.equal(await storage.hasBase(wanted(scene)), false);
  await rejectsWith(storage.makeBase([sessionDisk('vdc')], none), 'SOURCE_CHANGED');
});

test('a base whose process died before the journal knew it is the base of the moments that follow, and no older one', async (t) => {
  const scene = await makeScene(t);
  await scene.storage.makeBase(wanted(scene), none);
  await scene.journal.beginStretch('writes');
  await scene.journal.append({ disk: scene.storage.logDiskOf('vda'), offset: 0, data: Buffer.from('mirrored') });
  await scene.journal.endStretch('the connection of vda was cut');
  scene.disks[0]?.content.write('mirrored, and what came in the gap');
  // The point is made, and the process dies before the journal is told.
  const { repository, catalog } = scene.fixture;
  const { sources, journal } = scene;
  const dying = {
    ...sources,
    backUp: async (...args: Parameters<PointSources['backUp']>): Promise<RecoveryPoint> => {
      await sources.backUp(...args);
      throw new Error('killed');
    },
  };
  using killed = new PointStorage({
    repository,
    catalog,
    clock: systemClock,
    machineId: MACHINE,
    journal,
    sources: dying,
  });
  await assert.rejects(killed.makeBase(wanted(scene), none), /killed/);
  await journal.close();

  const next = await openJournal(t, scene.directory);
  using storage = new PointStorage({
    repository,
    catalog,
    clock: systemClock,
    machineId: MACHINE,
    journal: next,
    sources,
  });
  assert.ok(await storage.hasBase(wanted(scene)));
  for (const { disk, content } of scene.disks) assert.ok((await readAll(storage.volume(disk.name))).equals(content));
  await next.beginStretch('writes');
  const { sequence } = await next.append({ disk: storage.logDiskOf('vdb'), offset: 0, data: Buffer.from('later') });
  scene.disks[1]?.content.write('later');
  const fold = next.folds.findLast((one) => one.sequence <= sequence);
  assert.equal(fold?.pointId, storage.base?.id);
  const base = (await catalog.points()).find(({ id }) => id === fold?.pointId);
  assert.ok(base?.journal !== undefined);
  await using layer = await next.openView(base.journal.sequence, sequence);
  for (const [index, disk] of base.disks.entries()) {
    const root = keyFromHex(disk.root);
    const point = new PointDevice({
      reader: repository.reader,
      chunkBytes: repository.chunkBytes,
      root,
      sizeBytes: SIZE,
    });
    const device = layeredDevice({ base: point, layer, disk: base.journal.disks[disk.name] ?? -1 });
    assert.ok((await readAll(device)).equals(scene.disks[index]?.content ?? Buffer.alloc(0)), disk.name);
  }
});

test('two folds at once, and a fold while a base is made, come one after the other', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage } = scene;
  await storage.makeBase(wanted(scene), none);
  await journal.beginStretch('writes');
  const write = async (text: string): Promise<SessionMoment> => {
    await journal.append({ disk: storage.logDiskOf('vda'), offset: 0, data: Buffer.from(text) });
    scene.disks[0]?.content.write(text);
    return journal.newest;
  };
  const [first, second] = [await write('first'), await write('second')];
  const made = await Promise.all([storage.fold(second, 'newer', none), storage.fold(first, 'older', none)]);
  assert.deepEqual(
    made.map((point) => point?.journal?.sequence),
    [second.sequence, undefined],
  );
  const third = await write('third');
  await journal.endStretch('the disks changed');
  const [base, late] = await Promise.all([storage.makeBase(wanted(scene), none), storage.fold(third, 'late', none)]);
  assert.equal(late, undefined, 'the base has all of it');
  assert.deepEqual([storage.base?.id, journal.lastFold?.pointId], [base.id, base.id]);
  for (const { disk, content } of scene.disks) assert.ok((await readAll(storage.volume(disk.name))).equals(content));
});

test('a fold is tracked from a position that it holds, not from one of an interval that came after it', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage, sources } = scene;
  const base = await storage.makeBase(wanted(scene), none);
  const { logId } = journal;
  const write = async (text: string): Promise<SessionMoment> => {
    await journal.append({ disk: storage.logDiskOf('vda'), offset: 0, data: Buffer.from(text) });
    return journal.newest;
  };
  await journal.beginStretch('interval');
  const first = await write('first');
  const at = (sequence: number, checkpoint: string): CyclePosition => ({
    tracker: { checkpoint },
    disks: base.disks,
    journal: { logId, sequence },
  });
  await sources.savePosition(at(first.sequence, 'first'));
  const second = await write('second');
  await sources.savePosition(at(second.sequence, 'second'));
  const early = await storage.fold(first, 'of the first, while the second came', none);
  assert.deepEqual(early?.tracker, base.tracker);
  const late = await storage.fold(second, 'of the second', none);
  assert.deepEqual(late?.tracker, { checkpoint: 'second' });
});

test('a journal that was put back from a copy has no position, also when it has come as far again', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage, sources } = scene;
  await storage.makeBase(wanted(scene), none);
  await journal.beginStretch('writes');
  const write = (text: string): Promise<SessionMoment> =>
    journal.append({ disk: storage.logDiskOf('vda'), offset: 0, data: Buffer.from(text) });
  const { sequence } = await write('one');
  const lost = { logId: journal.logId, sequence: sequence + 2 };
  await sources.savePosition({ tracker: { checkpoint: 'lost' }, disks: [], journal: lost });
  await storage.fold(journal.newest, 'looks for the position', none);
  await write('two');
  await write('three');
  await write('four');
  const fold = await storage.fold(journal.newest, 'as far again', none);
  assert.notEqual(fold?.tracker['checkpoint'], 'lost');
});

test('a journal that is older than its recovery points is no base for anything', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage } = scene;
  await storage.makeBase(wanted(scene), none);
  await journal.beginStretch('writes');
  await journal.flush();
  const files = join(scene.directory, 'journal');
  const copy = join(scene.directory, 'copy');
  await cp(files, copy, { recursive: true });
  await journal.append({ disk: storage.logDiskOf('vda'), offset: 0, data: Buffer.from('later') });
  await storage.fold(journal.newest, 'of the part that is lost', none);
  await journal.close();
  await rm(files, { recursive: true });
  await cp(copy, files, { recursive: true });
  const old = await openJournal(t, scene.directory);
  const { repository, catalog } = scene.fixture;
  const { sources } = scene;
  using next = new PointStorage({ repository, catalog, clock: systemClock, machineId: MACHINE, journal: old, sources });
  await rejectsWith(next.hasBase(wanted(scene)), 'WRITE_LOG_CORRUPT');
});

test('what the chunks of the base hold is known without reading them, and what the journal wrote is not', async (t) => {
  const scene = await makeScene(t);
  const { journal, storage } = scene;
  await storage.makeBase(wanted(scene), none);
  const content = scene.disks[0]?.content ?? Buffer.alloc(0);
  const known = storage.known('vda');
  const { chunkBytes } = known;
  assert.equal(chunkBytes, scene.fixture.repository.chunkBytes);
  const chunk = (number: number): Buffer => content.subarray(number * chunkBytes, (number + 1) * chunkBytes);
  assert.deepEqual(
    [await known.holds(0, chunk(0)), await known.holds(0, chunk(1)), await known.holds(chunkBytes, chunk(1))],
    [true, false, true],
  );
  assert.deepEqual(
    [await known.holds(512, chunk(0)), await known.holds(0, chunk(0).subarray(512))],
    [false, false],
    'only whole chunks',
  );
  assert.equal(await known.holds(0, Buffer.alloc(chunkBytes)), false);
  await journal.beginStretch('writes');
  const disk = storage.logDiskOf('vda');
  await journal.append({ disk, offset: 4096, data: Buffer.from(chunk(0).subarray(4096, 8192)) });
  assert.equal(await known.holds(0, chunk(0)), false, 'the journal has something there');
  await journal.appendZero({ disk, offset: 0, length: chunkBytes });
  await storage.fold(journal.newest, 'folded from the journal', none);
  assert.deepEqual([await known.holds(0, Buffer.alloc(chunkBytes)), await known.holds(0, chunk(0))], [true, false]);
});
