// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open, readdir, readFile, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { reconcile } from '../../appliance/catalog/reconcile.ts';
import { keyFromHex } from '../../appliance/core/content-id.ts';
import type { Finding } from '../../appliance/repository/check-findings.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { readPackContents } from '../../appliance/repository/pack-reader.ts';
import { packKey } from '../../appliance/repository/pack-writer.ts';
import { type CheckResult, check } from '../../appliance/repository/scrub.ts';
import { MapReader } from '../../appliance/volume/map-reader.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, readDisk, writePoint } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Scene {
  readonly fixture: FixtureRepository;
  readonly disk: ModelDisk;
  readonly point: RecoveryPoint;
}

/** A repository with one point of 2 MiB of noise and a deleted one. */
async function makeScene(t: TestContext, isEncrypted = true): Promise<Scene> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir(), { isEncrypted }));
  const dice = new Dice(99);
  const disk = new ModelDisk(2 * MIB, dice);
  disk.fillWithNoise();
  const first = await writePoint(fixture.repository, { disks: { vda: disk } });
  for (let n = 0; n < 5; n++) disk.scribble(100 * KIB);
  const attachment = Buffer.from('<domain/>');
  const point = await writePoint(fixture.repository, { disks: { vda: disk }, parent: first, attachment });
  await fixture.catalog.putPoint(point);
  await fixture.repository.manifests.delete({ machineId: first.machine.id, pointId: first.id }, 1_000);
  return { fixture, disk, point };
}

function checkAll({ repository, catalog }: FixtureRepository, readData = true): Promise<CheckResult> {
  repository.reader.dropCaches();
  return check(repository, catalog, { readData });
}

async function flip(path: string, offset: number, mask = 0xff): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte.writeUInt8(byte.readUInt8(0) ^ mask, 0);
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}

/** Every file of the repository, by its object key. */
async function objectsOf(fixture: FixtureRepository): Promise<string[]> {
  const entries = await readdir(join(fixture.directory, 'repository'), { recursive: true, withFileTypes: true });
  const root = join(fixture.directory, 'repository');
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();
}

function pathOf(fixture: FixtureRepository, object: string): string {
  return join(fixture.directory, 'repository', object);
}

/** The first frame of a chunk of the point's disk, and where it is on the disk. */
async function someChunk({ fixture, point }: Scene): Promise<{ object: string; offset: number; diskOffset: number }> {
  const map = new MapReader(keyFromHex(point.disks[0]?.root ?? ''), fixture.repository.reader);
  for (let chunk = 7; ; chunk++) {
    const key = await map.chunkKey(chunk);
    const place = fixture.catalog.find(key);
    if (place === undefined) continue;
    return { object: packKey(place.packId), offset: place.offset, diskOffset: chunk * 64 * KIB };
  }
}

const test = suite('check');

test('a repository as it was written is clean', async (t) => {
  const { fixture } = await makeScene(t);
  const result = await checkAll(fixture);
  assert.deepEqual(result.findings, []);
  assert.ok(result.isClean);
  assert.equal(result.points, 2);
  assert.equal(result.packs, 2);
  assert.ok(result.readBytes > 2 * MIB);
  assert.ok(result.nodes >= 6 && result.chunks >= 32);
});

for (const isEncrypted of [true, false]) {
  const kind = isEncrypted ? 'encrypted' : 'plain';
  test(
    `any flipped byte of any object of an ${kind} repository is found and named`,
    async (t) => {
      const { fixture, disk, point } = await makeScene(t, isEncrypted);
      const dice = new Dice(isEncrypted ? 5 : 6);
      for (const object of await objectsOf(fixture)) {
        const path = pathOf(fixture, object);
        const { length } = await readFile(path);
        const special = [0, 63, 64, length - 1, length - 64, length - 65].filter((at) => at >= 0 && at < length);
        const offsets = [...special, ...Array.from({ length: 12 }, () => dice.below(length))];
        for (const offset of offsets) {
          const mask = 1 << dice.below(8);
          await flip(path, offset, mask);
          const { findings } = await checkAll(fixture);
          await flip(path, offset, mask);
          assert.ok(
            findings.some((finding) => finding.object === object),
            `${object}, byte ${offset} of ${length}, mask ${mask}: ${JSON.stringify(findings)}`,
          );
        }
      }
      assert.deepEqual((await checkAll(fixture)).findings, [], 'what was marked verifies again and is unmarked');
      await assertDisk(fixture.repository, point, 'vda', disk.content);
    },
    { timeoutMs: 60_000 },
  );
}

test('a damaged chunk is named with its pack, its place, and the points, disks and bytes that it touches', async (t) => {
  const scene = await makeScene(t);
  const { object, offset, diskOffset } = await someChunk(scene);
  await flip(pathOf(scene.fixture, object), offset + 100);
  const { findings, isClean } = await checkAll(scene.fixture);
  assert.ok(!isClean);
  const finding = findings.find((one) => one.contentId !== undefined) as Finding;
  assert.equal(finding.object, object);
  assert.equal(finding.offset, offset);
  const touch = finding.touches.find(({ pointId }) => pointId === scene.point.id);
  assert.deepEqual(touch, {
    pointId: scene.point.id,
    machine: 'web',
    disk: 'vda',
    attachment: undefined,
    offset: diskOffset,
    length: 64 * KIB,
  });
});

test('a damaged chunk is never returned as data', async (t) => {
  const scene = await makeScene(t);
  const { object, offset } = await someChunk(scene);
  await flip(pathOf(scene.fixture, object), offset + 100);
  scene.fixture.repository.reader.dropCaches();
  await rejectsWith(readDisk(scene.fixture.repository, scene.point, 'vda'), 'REPOSITORY_CORRUPT');
});

test('the next backup that meets a damaged chunk stores it anew, and old points are whole again', async (t) => {
  const scene = await makeScene(t);
  const { fixture, disk, point } = scene;
  const { object, offset } = await someChunk(scene);
  await flip(pathOf(fixture, object), offset + 100);
  assert.ok(!(await checkAll(fixture)).isClean);
  const again = await writePoint(fixture.repository, { disks: { vda: disk } });
  await fixture.catalog.putPoint(again);
  fixture.repository.reader.dropCaches();
  await assertDisk(fixture.repository, point, 'vda', disk.content);
  const { findings } = await checkAll(fixture, false);
  assert.deepEqual(findings, []);
});

test('damage stays known after a restart, and is healed there', async (t) => {
  const scene = await makeScene(t);
  const { object, offset } = await someChunk(scene);
  await flip(pathOf(scene.fixture, object), offset + 100);
  await checkAll(scene.fixture);
  const fixture = t.use(await scene.fixture.reopen());
  assert.equal(fixture.catalog.damages().size, 1);
  const structure = await checkAll(fixture, false);
  assert.equal(structure.findings.length, 1);
  await writePoint(fixture.repository, { disks: { vda: scene.disk } });
  assert.equal(fixture.catalog.damages().size, 0);
  await assertDisk(fixture.repository, scene.point, 'vda', scene.disk.content);
});

test('a damaged map node is named with everything beneath it', async (t) => {
  const scene = await makeScene(t);
  const { fixture, point } = scene;
  const root = fixture.catalog.find(keyFromHex(point.disks[0]?.root ?? ''));
  assert.ok(root !== undefined);
  await flip(pathOf(fixture, packKey(root.packId)), root.offset + root.frameBytes - 1);
  const { findings } = await checkAll(fixture);
  const touches = findings.flatMap((finding) => finding.touches);
  assert.deepEqual(
    touches.map(({ pointId, offset, length }) => ({ pointId, offset, length })),
    [{ pointId: point.id, offset: 0, length: 2 * MIB }],
  );
});

test('a missing pack is found without reading data, and what it held is named', async (t) => {
  const { fixture, point } = await makeScene(t);
  const [object] = (await objectsOf(fixture)).filter((key) => key.startsWith('packs/'));
  await unlink(pathOf(fixture, object ?? ''));
  const { findings } = await checkAll(fixture, false);
  assert.ok(findings.some((finding) => finding.object === object));
  assert.ok(findings.some((finding) => finding.touches.some((touch) => touch.pointId === point.id)));
});

test('a pack of another length is found without reading data', async (t) => {
  const { fixture } = await makeScene(t);
  const [object] = (await objectsOf(fixture)).filter((key) => key.startsWith('packs/'));
  await truncate(pathOf(fixture, object ?? ''), 100_000);
  const { findings } = await checkAll(fixture, false);
  assert.ok(findings.some((finding) => finding.object === object));
});

test('a frame that the catalog forgot is made known again', async (t) => {
  const { fixture, point, disk } = await makeScene(t);
  const { store, config } = fixture.repository;
  const [packId, info] = [...(await fixture.catalog.packs())][0] ?? [];
  assert.ok(packId !== undefined && info !== undefined);
  const { entries } = await readPackContents(store, config.id, { packId, packBytes: info.packBytes });
  await fixture.catalog.removePack(
    packId,
    entries.slice(0, 5).map(({ id }) => id),
  );
  await fixture.catalog.addPack(packId, info, []);
  const { findings, isClean } = await checkAll(fixture, false);
  assert.ok(isClean);
  assert.deepEqual(
    findings.map(({ object, isRepaired }) => ({ object, isRepaired })),
    [{ object: 'catalog', isRepaired: true }],
  );
  await assertDisk(fixture.repository, point, 'vda', disk.content);
});

test('an object that does not belong into the repository is named, and stops nothing', async (t) => {
  const { fixture } = await makeScene(t);
  await writeFile(pathOf(fixture, 'points/readme.txt'), 'x');
  await writeFile(pathOf(fixture, 'packs/other'), 'x');
  await reconcile(fixture.repository, fixture.catalog);
  const { findings } = await checkAll(fixture);
  assert.deepEqual(findings.map(({ object }) => object).sort(), ['packs/other', 'points/readme.txt']);
});

test('a check and a collection do not run at the same time', async (t) => {
  const { fixture } = await makeScene(t);
  const first = checkAll(fixture);
  await rejectsWith(checkAll(fixture), 'LOCKED');
  await first;
});
