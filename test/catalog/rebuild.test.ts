// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open, readdir, readFile, rename, rm, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { type RebuiltCatalog, rebuildCatalog, refuseUnfinishedRebuild } from '../../appliance/catalog/rebuild.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { packKey } from '../../appliance/repository/pack-writer.ts';
import { check } from '../../appliance/repository/scrub.ts';
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

async function makeStates(t: TestContext): Promise<{ fixture: FixtureRepository; states: State[] }> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const disk = new ModelDisk(2 * MIB, new Dice(7));
  disk.fillWithNoise();
  const states: State[] = [];
  for (let n = 0; n < 3; n++) {
    const point = await writePoint(fixture.repository, { disks: { vda: disk }, parent: states.at(-1)?.point });
    await fixture.catalog.putPoint(point);
    states.push({ point, content: Buffer.from(disk.content) });
    disk.scribble(300_000);
  }
  return { fixture, states };
}

async function rebuilt(t: TestContext, fixture: FixtureRepository): Promise<RebuiltCatalog> {
  const result = await rebuildCatalog({
    directory: join(fixture.directory, 'catalog'),
    openRepository: (catalog) => fixture.openRepository(catalog),
  });
  t.use(result.catalog);
  t.use(result.repository);
  return result;
}

async function assertStates({ repository, catalog }: RebuiltCatalog, states: readonly State[]): Promise<void> {
  const listed = (await catalog.points()).sort((a, b) => a.sequence - b.sequence);
  assert.deepEqual(
    listed,
    states.map(({ point }) => point),
  );
  for (const { point, content } of states) await assertDisk(repository, point, 'vda', content);
  const { findings } = await check(repository, catalog, { readData: true });
  assert.deepEqual(findings, []);
}

async function packPaths(fixture: FixtureRepository): Promise<string[]> {
  const packs = [...(await fixture.catalog.packs()).keys()];
  return packs.map((packId) => join(fixture.directory, 'repository', packKey(packId)));
}

async function corrupt(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.from('damage'), 0, 6, at);
  await file.close();
}

const test = suite('catalog rebuild');

test('a deleted catalog comes back with every point', async (t) => {
  const { fixture, states } = await makeStates(t);
  await fixture.close();
  await rm(join(fixture.directory, 'catalog'), { recursive: true });
  await assertStates(await rebuilt(t, fixture), states);
});

test('a sound catalog is made anew, and keeps what only it knew', async (t) => {
  const { fixture, states } = await makeStates(t);
  await fixture.catalog.putRecord('session/', 'a', { port: 1 });
  await fixture.catalog.putRecord('run/', 'b', { ok: true });
  await fixture.close();
  const result = await rebuilt(t, fixture);
  assert.ok(result.report.hasKeptRecords);
  assert.deepEqual([...(await result.catalog.records('session/'))], [['a', { port: 1 }]]);
  assert.deepEqual([...(await result.catalog.records('run/'))], [['b', { ok: true }]]);
  await assertStates(result, states);
  assert.deepEqual((await readdir(fixture.directory)).sort(), ['catalog', 'repository']);
});

test('a catalog whose files are cut, missing or full of noise comes back with every point', async (t) => {
  const { fixture, states } = await makeStates(t);
  await fixture.close();
  await (await fixture.reopen()).close();
  const directory = join(fixture.directory, 'catalog');
  const harm: readonly ((path: string) => Promise<void>)[] = [
    (path) => truncate(path, 5),
    (path) => unlink(path),
    (path) => writeFile(path, new Dice(1).bytes(1024)),
  ];
  for (const hurt of harm) {
    for (const name of await readdir(directory)) if (name !== 'LOCK') await hurt(join(directory, name));
    const result = await rebuilt(t, fixture);
    await assertStates(result, states);
    await result.repository.close();
    await result.catalog.close();
  }
});

test('a rebuild that was cut off is completed by the next one', async (t) => {
  const { fixture, states } = await makeStates(t);
  await fixture.catalog.putRecord('session/', 'a', 1);
  await fixture.close();
  let packs = 0;
  const stop = new AbortController();
  const attempt = rebuildCatalog({
    directory: join(fixture.directory, 'catalog'),
    openRepository: (catalog) => fixture.openRepository(catalog),
    signal: stop.signal,
    onProgress: () => {
      packs += 1;
      stop.abort();
    },
  });
  await rejectsWith(attempt, 'ABORTED');
  assert.equal(packs, 1);
  const result = await rebuilt(t, fixture);
  assert.deepEqual([...(await result.catalog.records('session/'))], [['a', 1]]);
  await assertStates(result, states);
});

test('a catalog in use is left alone', async (t) => {
  const { fixture } = await makeStates(t);
  await rejectsWith(rebuilt(t, fixture), 'LOCKED');
  assert.equal((await fixture.catalog.points()).length, 3);
});

test('packs without footer, or with a damaged header, give all of their frames', async (t) => {
  const { fixture, states } = await makeStates(t);
  const [first, second] = await packPaths(fixture);
  await fixture.close();
  assert.ok(first !== undefined && second !== undefined);
  await corrupt(first, (await readFile(first)).length - 70);
  await corrupt(second, 3);
  await rm(join(fixture.directory, 'catalog'), { recursive: true });
  const result = await rebuilt(t, fixture);
  assert.equal(result.report.damaged.length, 2);
  for (const { point, content } of states) await assertDisk(result.repository, point, 'vda', content);
});

test('with footer and a frame header lost, all other frames are found', async (t) => {
  const { fixture } = await makeStates(t);
  const [packId, info] = [...(await fixture.catalog.packs())].sort((a, b) => b[1].packBytes - a[1].packBytes)[0] ?? [];
  assert.ok(packId !== undefined && info !== undefined);
  const path = join(fixture.directory, 'repository', packKey(packId));
  await fixture.close();
  await corrupt(path, (await readFile(path)).length - 70);
  await corrupt(path, 64 + 10);
  const result = await rebuilt(t, fixture);
  assert.equal((await result.catalog.packs()).get(packId)?.frames, info.frames - 1);
});

test('damaged manifests are told of, and the other points are there', async (t) => {
  const { fixture, states } = await makeStates(t);
  const [bad, ...rest] = states;
  await fixture.close();
  assert.ok(bad !== undefined);
  await corrupt(join(fixture.directory, 'repository', `points/${bad.point.machine.id}/${bad.point.id}.json`), 40);
  const result = await rebuilt(t, fixture);
  assert.equal(result.report.damaged.length, 1);
  assert.deepEqual(
    (await result.catalog.points()).map(({ id }) => id).sort(),
    rest.map(({ point }) => point.id).sort(),
  );
});

test('of a content that lies in two packs, the copy that verifies is used', async (t) => {
  const { fixture, states } = await makeStates(t);
  const disk = new ModelDisk(2 * MIB, new Dice(7));
  states[0]?.content.copy(disk.content);
  // A healed repository: every chunk of the first point is stored twice, and one of the two copies is damaged.
  for (const packId of (await fixture.catalog.packs()).keys()) fixture.repository.doomedPacks.add(packId);
  await writePoint(fixture.repository, { disks: { vda: disk } });
  const paths = await packPaths(fixture);
  const large = [...(await fixture.catalog.packs()).values()].flatMap(({ packBytes }, n) =>
    packBytes > MIB ? [paths[n] ?? ''] : [],
  );
  assert.equal(large.length, 2);
  await fixture.close();
  let replaced = 0;
  for (const path of large) {
    const whole = await readFile(path);
    await corrupt(path, 70_000);
    const result = await rebuilt(t, fixture);
    replaced += result.report.replacedCopies;
    for (const { point, content } of states) await assertDisk(result.repository, point, 'vda', content);
    await result.repository.close();
    await result.catalog.close();
    await writeFile(path, whole);
  }
  assert.equal(replaced, 1, 'one of the two was indexed first');
});

test('a rebuilt catalog answers as the first one did', async (t) => {
  const { fixture } = await makeStates(t);
  const before = { packs: await fixture.catalog.packs(), totals: await fixture.catalog.totals() };
  await fixture.close();
  const { catalog } = await rebuilt(t, fixture);
  assert.deepEqual(await catalog.totals(), before.totals);
  assert.deepEqual(await catalog.packs(), before.packs);
  assert.ok(catalog instanceof Catalog);
});

test('after an interrupted rebuild nothing works with the new catalog before it is completed', async (t) => {
  const { fixture, states } = await makeStates(t);
  const directory = join(fixture.directory, 'catalog');
  await fixture.catalog.putRecord('session/', 'kept', { value: 1 });
  await fixture.close();
  await refuseUnfinishedRebuild(directory);
  // Killed after the old catalog was moved aside and a new one was begun.
  await rename(directory, `${directory}.old-00000001`);
  await (await Catalog.open(directory)).close();
  await rejectsWith(refuseUnfinishedRebuild(directory), 'CATALOG_DAMAGED');
  const result = await rebuilt(t, fixture);
  await assertStates(result, states);
  assert.deepEqual([...(await result.catalog.records('session/'))], [['kept', { value: 1 }]]);
  await refuseUnfinishedRebuild(directory);
});
