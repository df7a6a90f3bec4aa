// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { cp, mkdir, open, readdir, rename, rm, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { isNoteworthy, type ReconcileReport, reconcile } from '../../appliance/catalog/reconcile.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { packKey } from '../../appliance/repository/pack-writer.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;

interface State {
  readonly point: RecoveryPoint;
  readonly content: Buffer;
}

/** A repository with several points, the disk's content at each, and everything closed. */
async function makeStates(t: TestContext, count = 3): Promise<{ fixture: FixtureRepository; states: State[] }> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const disk = new ModelDisk(2 * MIB, new Dice(7));
  disk.fillWithNoise();
  const states: State[] = [];
  for (let n = 0; n < count; n++) {
    const point = await writePoint(fixture.repository, { disks: { vda: disk }, parent: states.at(-1)?.point });
    await fixture.catalog.putPoint(point);
    states.push({ point, content: Buffer.from(disk.content) });
    disk.scribble(300_000);
  }
  await reconcile(fixture.repository, fixture.catalog);
  return { fixture, states };
}

async function assertStates({ repository, catalog }: FixtureRepository, states: readonly State[]): Promise<void> {
  const listed = (await catalog.points()).map(({ id }) => id).sort();
  assert.deepEqual(listed, states.map(({ point }) => point.id).sort());
  for (const { point, content } of states) await assertDisk(repository, point, 'vda', content);
}

async function reopened(
  t: TestContext,
  fixture: FixtureRepository,
): Promise<{ fixture: FixtureRepository; report: ReconcileReport }> {
  const again = t.use(await fixture.reopen());
  return { fixture: again, report: await reconcile(again.repository, again.catalog) };
}

const test = suite('reconcile');

test('nothing is done, and no pack is read, when catalog and repository agree', async (t) => {
  const { fixture, states } = await makeStates(t);
  const again = t.use(await fixture.reopen());
  again.repository.store.getRange = () => Promise.reject(new Error('a pack was read'));
  again.repository.store.get = () => Promise.reject(new Error('a manifest was read'));
  const report = await reconcile(again.repository, again.catalog);
  assert.ok(!isNoteworthy(report), JSON.stringify(report));
  await assertStates(again, states);
});

test('an empty catalog learns every pack and every point', async (t) => {
  const { fixture, states } = await makeStates(t);
  await fixture.close();
  await rm(join(fixture.directory, 'catalog'), { recursive: true });
  const { fixture: again, report } = await reopened(t, fixture);
  assert.equal(report.indexedPacks.length, 3);
  assert.equal(report.listedPoints.length, 3);
  assert.equal(report.missingContents, 0);
  await assertStates(again, states);
});

test('a backup that was cut off before its manifest leaves packs that are found, and no point', async (t) => {
  const { fixture, states } = await makeStates(t);
  const disk = new ModelDisk(MIB, new Dice(8));
  disk.fillWithNoise();
  const addPack = fixture.catalog.addPack.bind(fixture.catalog);
  fixture.catalog.addPack = () => Promise.reject(new Error('the process died here'));
  await assert.rejects(writePoint(fixture.repository, { disks: { vda: disk } }), /died/);
  fixture.catalog.addPack = addPack;
  const { fixture: again, report } = await reopened(t, fixture);
  assert.equal(report.indexedPacks.length, 1);
  assert.deepEqual(report.listedPoints, []);
  await assertStates(again, states);
});

test('a point whose manifest is there and whose place in the list is not is listed', async (t) => {
  const { fixture, states } = await makeStates(t);
  const disk = new ModelDisk(MIB, new Dice(9));
  disk.fillWithNoise();
  const point = await writePoint(fixture.repository, { disks: { vda: disk } });
  const { fixture: again, report } = await reopened(t, fixture);
  assert.deepEqual(report.listedPoints, [point.id]);
  await assertStates(again, [...states, { point, content: disk.content }]);
});

test('a deleted point that is still listed is taken off the list', async (t) => {
  const { fixture, states } = await makeStates(t);
  const [gone, ...rest] = states;
  assert.ok(gone !== undefined);
  await fixture.repository.manifests.delete({ machineId: gone.point.machine.id, pointId: gone.point.id }, 0);
  const { fixture: again, report } = await reopened(t, fixture);
  assert.deepEqual(report.unlistedPoints, [gone.point.id]);
  await assertStates(again, rest);
});

test('what a manifest named that disappeared is kept from collection, and the manifest may come back', async (t) => {
  const { fixture, states } = await makeStates(t);
  const points = join(fixture.directory, 'repository', 'points');
  const elsewhere = join(fixture.directory, 'elsewhere');
  await rename(points, elsewhere);
  const { fixture: without, report } = await reopened(t, fixture);
  assert.equal(report.lostPoints.length, 3);
  const clock = { nowMs: () => 1, elapsedMs: () => 1 };
  const collected = await collectGarbage(without.repository, without.catalog, { clock, graceMs: 0 });
  assert.equal(collected.packsDeleted + collected.packsRewritten, 0);
  await rm(points, { recursive: true, force: true });
  await rename(elsewhere, points);
  const { fixture: again, report: second } = await reopened(t, without);
  assert.equal(second.listedPoints.length, 3);
  assert.deepEqual(await again.catalog.lostPoints(), []);
  await assertStates(again, states);
});

test('a missing pack is forgotten and told of, and its contents are never deduplicated against', async (t) => {
  const { fixture, states } = await makeStates(t, 1);
  const [packId] = [...(await fixture.catalog.packs()).keys()];
  assert.ok(packId !== undefined);
  await unlink(join(fixture.directory, 'repository', packKey(packId)));
  const { fixture: again, report } = await reopened(t, fixture);
  assert.deepEqual(report.forgottenPacks, [packId]);
  assert.ok(report.missingContents >= 32, `${report.missingContents}`);
  const disk = new ModelDisk(2 * MIB, new Dice(7));
  states[0]?.content.copy(disk.content);
  const point = await writePoint(again.repository, { disks: { vda: disk } });
  await assertDisk(again.repository, point, 'vda', disk.content);
  await assertStates(again, states);
});

test('a pack that was cut short keeps what is left of it', async (t) => {
  const { fixture } = await makeStates(t, 1);
  const [packId, info] = [...(await fixture.catalog.packs())][0] ?? [];
  assert.ok(packId !== undefined && info !== undefined);
  await truncate(join(fixture.directory, 'repository', packKey(packId)), Math.floor(info.packBytes / 2));
  const { fixture: again, report } = await reopened(t, fixture);
  assert.deepEqual(report.forgottenPacks, [packId]);
  assert.deepEqual(report.indexedPacks, [packId]);
  const left = (await again.catalog.packs()).get(packId)?.frames ?? 0;
  assert.ok(left > 10 && left < info.frames, `${left} of ${info.frames}`);
  assert.equal(report.missingContents, info.frames - left);
  assert.equal(report.damaged.length, 1);
});

test('a damaged manifest is told of and stops nothing', async (t) => {
  const { fixture, states } = await makeStates(t);
  const [bad, ...rest] = states;
  assert.ok(bad !== undefined);
  const object = `points/${bad.point.machine.id}/${bad.point.id}.json`;
  await writeFile(join(fixture.directory, 'repository', object), '{"format"');
  await fixture.catalog.deletePoint(bad.point.id);
  const { fixture: again, report } = await reopened(t, fixture);
  assert.deepEqual(
    report.damaged.map((one) => one.object),
    [object],
  );
  await assertStates(again, rest);
});

test('a catalog of another repository is refused', async (t) => {
  const { fixture } = await makeStates(t, 1);
  const { fixture: other } = await makeStates(t, 1);
  await rejectsWith(reconcile(other.repository, fixture.catalog), 'CATALOG_DAMAGED');
});

const damage = suite('a damaged catalog');

async function levelFiles(fixture: FixtureRepository, pattern: RegExp): Promise<string[]> {
  const directory = join(fixture.directory, 'catalog');
  return (await readdir(directory)).filter((name) => pattern.test(name)).map((name) => join(directory, name));
}

damage('one without CURRENT, or with a cut MANIFEST, is refused with a hint', async (t) => {
  for (const pattern of [/^CURRENT$/, /^MANIFEST/]) {
    const { fixture } = await makeStates(t, 1);
    await fixture.close();
    const [path] = await levelFiles(fixture, pattern);
    assert.ok(path !== undefined);
    if (pattern.source.includes('CURRENT')) await unlink(path);
    else await truncate(path, 10);
    await assert.rejects(Catalog.open(join(fixture.directory, 'catalog')), (error: unknown) => {
      return hasCode(error, 'CATALOG_DAMAGED') && error.hint.includes('catalog rebuild');
    });
  }
});

damage('one without a table is refused with a hint', async (t) => {
  const { fixture } = await makeStates(t, 2);
  await fixture.close();
  // Opening turns the log into a table.
  await (await fixture.reopen()).close();
  const tables = await levelFiles(fixture, /\.ldb$/);
  assert.ok(tables.length > 0);
  for (const path of tables) await unlink(path);
  await rejectsWith(Catalog.open(join(fixture.directory, 'catalog')), 'CATALOG_DAMAGED');
});

damage(
  'whatever of its log is cut off or flipped, reconcile brings everything back or it is refused',
  async (t) => {
    const { fixture, states } = await makeStates(t, 2);
    await fixture.close();
    const dice = new Dice(11);
    const whole = join(fixture.directory, 'catalog');
    const copy = join(fixture.directory, 'whole');
    await rename(whole, copy);
    let refused = 0;
    for (let round = 0; round < 24; round++) {
      await rm(whole, { recursive: true, force: true });
      await cp(copy, whole, { recursive: true });
      const [log] = await levelFiles(fixture, /\.log$/);
      assert.ok(log !== undefined);
      const { size } = await stat(log);
      const at = dice.below(size);
      if (round % 2 === 0) await truncate(log, at);
      else await flipByte(log, at);
      try {
        await using again = await fixture.reopen();
        await reconcile(again.repository, again.catalog);
        await assertStates(again, states);
      } catch (error) {
        if (!hasCode(error, 'CATALOG_DAMAGED')) throw error;
        refused += 1;
      }
    }
    assert.ok(refused < 12, `${refused} of 24 were refused`);
  },
  { timeoutMs: 60_000 },
);

damage(
  'no flipped byte of a table gives a wrong answer',
  async (t) => {
    const { fixture, states } = await makeStates(t, 2);
    await fixture.close();
    await (await fixture.reopen()).close();
    const tables = await levelFiles(fixture, /\.ldb$/);
    const dice = new Dice(12);
    for (let round = 0; round < 24; round++) {
      const path = tables[dice.below(tables.length)] ?? '';
      const at = dice.below((await stat(path)).size);
      await flipByte(path, at);
      try {
        await using again = await fixture.reopen();
        await reconcile(again.repository, again.catalog);
        const listed = await again.catalog.points();
        for (const point of listed) {
          const state = states.find((one) => one.point.id === point.id);
          assert.deepEqual(point, state?.point);
          await assertDisk(again.repository, point, 'vda', state?.content ?? Buffer.alloc(0));
        }
      } catch (error) {
        if (!hasCode(error, 'CATALOG_DAMAGED', 'CHUNK_MISSING')) throw error;
      }
      await rm(join(fixture.directory, 'catalog'), { recursive: true });
      await mkdir(join(fixture.directory, 'catalog'));
      await refill(t, fixture);
      tables.splice(0, tables.length, ...(await levelFiles(fixture, /\.ldb$/)));
    }
  },
  { timeoutMs: 60_000 },
);

/** A sound catalog again, with everything in tables. */
async function refill(_t: TestContext, fixture: FixtureRepository): Promise<void> {
  await using again = await fixture.reopen();
  await reconcile(again.repository, again.catalog);
  await again.close();
  await (await fixture.reopen()).close();
}

async function flipByte(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, at);
    byte.writeUInt8(byte.readUInt8(0) ^ 0xff, 0);
    await file.write(byte, 0, 1, at);
  } finally {
    await file.close();
  }
}
