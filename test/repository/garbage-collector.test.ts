// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../appliance/core/clock.ts';
import { keyFromHex } from '../../appliance/core/content-id.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { type CollectResult, collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import { LIVED_TIME_KEY } from '../../appliance/repository/lived-time.ts';
import { type RecoveryPoint, rootsOf } from '../../appliance/repository/manifest.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const MIB = 1024 * 1024;
const DAY_MS = 24 * 3_600_000;
const YEAR_MS = 365 * DAY_MS;
const START_MS: number = Date.parse('2026-11-21T12:00:00Z');

class Stage implements AsyncDisposable {
  fixture: FixtureRepository;
  nowMs: number = START_MS;
  readonly #host: { bootId: string; uptimeMs: number };

  private constructor(fixture: FixtureRepository, host: { bootId: string; uptimeMs: number }) {
    this.fixture = fixture;
    this.#host = host;
  }

  static async create(t: TestContext): Promise<Stage> {
    const host = { bootId: 'boot 1', uptimeMs: 5_000_000 };
    const options = { uptime: () => ({ ...host }) };
    return t.use(new Stage(await FixtureRepository.create(await t.tempDir(), options), host));
  }

  /** Time passes, and all clocks show it. */
  live(ms: number): void {
    this.nowMs += ms;
    this.#host.uptimeMs += ms;
  }

  restartHost(): void {
    Object.assign(this.#host, { bootId: 'boot 2', uptimeMs: 20_000 });
  }

  async reopen(): Promise<void> {
    this.fixture = await this.fixture.reopen();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.fixture.close();
  }

  get clock(): Clock {
    return { nowMs: () => this.nowMs, elapsedMs: () => this.nowMs };
  }

  async backup(disk: ModelDisk, parent?: RecoveryPoint): Promise<RecoveryPoint> {
    const point = await writePoint(this.fixture.repository, { disks: { vda: disk }, parent, createdAtMs: this.nowMs });
    await this.fixture.catalog.putPoint(point);
    return point;
  }

  async delete(point: RecoveryPoint): Promise<void> {
    await this.fixture.catalog.deletePoint(point.id);
    await this.fixture.repository.manifests.delete({ machineId: point.machine.id, pointId: point.id }, this.nowMs);
  }

  collect(options: { readonly graceMs?: number; readonly signal?: AbortSignal } = {}): Promise<CollectResult> {
    return collectGarbage(this.fixture.repository, this.fixture.catalog, { clock: this.clock, ...options });
  }

  async packNames(): Promise<string[]> {
    const names = await readdir(join(this.fixture.directory, 'repository', 'packs'), { recursive: true });
    return names.filter((name) => name.includes('/')).sort();
  }

  async assertClean(): Promise<void> {
    this.fixture.repository.reader.dropCaches();
    const { findings } = await check(this.fixture.repository, this.fixture.catalog, { readData: true });
    assert.deepEqual(findings, []);
  }
}

function noisyDisk(seed: number, sizeBytes: number = 4 * MIB): ModelDisk {
  const disk = new ModelDisk(sizeBytes, new Dice(seed));
  disk.fillWithNoise();
  return disk;
}

const test = suite('garbage collection');

test('what a point reaches stays, and a pack that no point reaches goes', async (t) => {
  const stage = await Stage.create(t);
  const [first, second] = [noisyDisk(1), noisyDisk(2)];
  const kept = await stage.backup(first);
  const gone = await stage.backup(second);
  await stage.delete(gone);
  const result = await stage.collect({ graceMs: 0 });
  assert.equal(result.packsDeleted, 1);
  assert.equal(result.pointsPurged, 1);
  assert.ok(result.freedBytes > 4 * MIB);
  assert.equal((await stage.packNames()).length, 1);
  stage.fixture.repository.reader.dropCaches();
  await assertDisk(stage.fixture.repository, kept, 'vda', first.content);
  await stage.assertClean();
});

test('a pack that is mostly garbage is rewritten, and its live contents read the same', async (t) => {
  const stage = await Stage.create(t);
  const disk = noisyDisk(3, 8 * MIB);
  const full = await stage.backup(disk);
  const noise = new Dice(4).bytes(6 * MIB);
  noise.copy(disk.content, 0);
  disk.takeChanges();
  const later = await stage.backup(disk);
  await stage.delete(full);
  const before = await stage.packNames();
  const result = await stage.collect({ graceMs: 0 });
  assert.equal(result.packsRewritten, 1);
  assert.ok(result.freedBytes > 5 * MIB, `${result.freedBytes}`);
  assert.notDeepEqual(await stage.packNames(), before);
  stage.fixture.repository.reader.dropCaches();
  await assertDisk(stage.fixture.repository, later, 'vda', disk.content);
  await stage.assertClean();
});

test('attachments and short last chunks survive a rewrite', async (t) => {
  const stage = await Stage.create(t);
  const { repository, catalog } = stage.fixture;
  const disk = noisyDisk(5, 4 * MIB + 512);
  const attachment = Buffer.from('<domain/>'.repeat(10_000));
  const doomed = await writePoint(repository, { disks: { vda: noisyDisk(6, 6 * MIB), vdb: disk }, attachment });
  const kept = await writePoint(repository, { disks: { vdb: disk }, attachment });
  await catalog.putPoint(kept);
  await stage.delete(doomed);
  const result = await stage.collect({ graceMs: 0 });
  assert.equal(result.packsRewritten, 1);
  repository.reader.dropCaches();
  await assertDisk(repository, kept, 'vdb', disk.content);
  for (const hex of kept.attachments[0]?.chunks ?? []) assert.ok(await repository.reader.verifies(keyFromHex(hex)));
  await stage.assertClean();
});

test('a deleted point keeps its contents for the grace period, and comes back whole', async (t) => {
  const stage = await Stage.create(t);
  const disk = noisyDisk(7);
  const point = await stage.backup(disk);
  await stage.backup(noisyDisk(8));
  const ref = { machineId: point.machine.id, pointId: point.id };
  await stage.delete(point);
  stage.live(3 * DAY_MS);
  assert.deepEqual(await stage.fixture.repository.manifests.listDeleted(), [ref]);
  const result = await stage.collect();
  assert.equal(result.pointsInGrace, 1);
  assert.equal(result.packsDeleted, 0);
  const back = await stage.fixture.repository.manifests.undelete(ref);
  assert.deepEqual(back, point);
  assert.deepEqual(await stage.fixture.repository.manifests.listDeleted(), []);
  await assertDisk(stage.fixture.repository, back, 'vda', disk.content);
});

test('after the grace period a deleted point is purged', async (t) => {
  const stage = await Stage.create(t);
  await stage.delete(await stage.backup(noisyDisk(9)));
  for (let day = 0; day < 8; day++) {
    assert.equal((await stage.collect()).pointsPurged, 0, `day ${day}`);
    stage.live(DAY_MS - 1);
  }
  stage.live(DAY_MS);
  const result = await stage.collect();
  assert.equal(result.pointsPurged, 1);
  assert.equal(result.packsDeleted, 1);
  assert.deepEqual(await stage.packNames(), []);
});

test('a clock that is set forward or back by a year, twice and between backups, ends no grace period and delays none', async (t) => {
  const stage = await Stage.create(t);
  await stage.backup(noisyDisk(10));
  await stage.delete(await stage.backup(noisyDisk(11)));
  await stage.collect();
  for (const [leapMs, over] of [
    [YEAR_MS, 1],
    [YEAR_MS, 1],
    [-YEAR_MS, 1],
    [-2 * YEAR_MS, 0],
    [-YEAR_MS, 0],
    [3 * YEAR_MS, 1],
  ] as const) {
    stage.nowMs += leapMs;
    await stage.backup(noisyDisk(10));
    stage.live(DAY_MS);
    for (let run = 0; run < 2; run++) {
      const { pointsPurged, pointsInGrace, pointsNotLivedThrough } = await stage.collect();
      assert.deepEqual([pointsPurged, pointsInGrace, pointsNotLivedThrough], [0, 1, over]);
    }
  }
  stage.nowMs -= YEAR_MS;
  stage.live(DAY_MS);
  assert.equal((await stage.collect()).pointsPurged, 1);
});

test('a grace period goes on in the next process, and stands still while the host is off', async (t) => {
  const stage = await Stage.create(t);
  await stage.delete(await stage.backup(noisyDisk(11)));
  stage.live(3 * DAY_MS);
  await stage.reopen();
  assert.equal((await stage.collect()).pointsPurged, 0);
  stage.live(3 * DAY_MS);
  await stage.fixture.repository.guards.recordTime();
  stage.restartHost();
  await stage.reopen();
  stage.nowMs += 30 * DAY_MS;
  assert.deepEqual([(await stage.collect()).pointsNotLivedThrough, (await stage.packNames()).length], [1, 1]);
  stage.live(DAY_MS);
  assert.equal((await stage.collect()).pointsPurged, 1);
});

test('a deleted point that does not tell when it was deleted has its grace period begin with the next collection', async (t) => {
  const stage = await Stage.create(t);
  const point = await stage.backup(noisyDisk(12));
  const ref = { machineId: point.machine.id, pointId: point.id };
  await stage.fixture.repository.guards.beginRecord();
  stage.live(100 * DAY_MS);
  await stage.delete(point);
  const clock = join(stage.fixture.directory, 'repository', LIVED_TIME_KEY);
  // Once the record of the time is lost, once it is damaged while a point is deleted: that works all the same.
  await rm(clock);
  stage.restartHost();
  await stage.reopen();
  assert.equal((await stage.collect()).pointsInGrace, 1);
  stage.live(6 * DAY_MS);
  assert.equal((await stage.collect()).pointsInGrace, 1);
  await stage.fixture.catalog.putPoint(await stage.fixture.repository.manifests.undelete(ref));
  const bytes = await readFile(clock);
  await writeFile(clock, bytes.subarray(1));
  await stage.reopen();
  await stage.delete(point);
  await rejectsWith(stage.collect(), 'REPOSITORY_CORRUPT');
  await writeFile(clock, bytes);
  assert.equal((await stage.collect()).pointsInGrace, 1);
  stage.live(7 * DAY_MS - 1);
  assert.equal((await stage.collect()).pointsInGrace, 1);
  stage.live(1);
  assert.equal((await stage.collect()).pointsPurged, 1);
});

test('a collection without grace cannot be undone by undelete', async (t) => {
  const stage = await Stage.create(t);
  const point = await stage.backup(noisyDisk(12));
  await stage.delete(point);
  await stage.collect({ graceMs: 0 });
  const ref = { machineId: point.machine.id, pointId: point.id };
  await rejectsWith(stage.fixture.repository.manifests.undelete(ref), 'POINT_NOT_FOUND');
});

test('what is held stays, though its point is gone', async (t) => {
  const stage = await Stage.create(t);
  const disk = noisyDisk(13);
  const point = await stage.backup(disk);
  const hold = stage.fixture.repository.hold(rootsOf(point));
  await stage.delete(point);
  assert.equal((await stage.collect({ graceMs: 0 })).packsDeleted, 0);
  stage.fixture.repository.reader.dropCaches();
  await assertDisk(stage.fixture.repository, point, 'vda', disk.content);
  hold[Symbol.dispose]();
  assert.equal((await stage.collect({ graceMs: 0 })).packsDeleted, 1);
});

test('a pack that a running backup deduplicates against stays', async (t) => {
  const stage = await Stage.create(t);
  const { repository, catalog } = stage.fixture;
  const disk = noisyDisk(14);
  await stage.delete(await stage.backup(disk));
  const writer = t.use(repository.openWriter());
  const slab = await writer.acquireSlab();
  disk.content.copy(slab.buffer, 0, 0, MIB);
  await writer.putChunks(slab, 16);
  assert.equal(writer.stats.newChunks, 0);
  assert.equal((await stage.collect({ graceMs: 0 })).packsDeleted, 0);
  await writer.close();
  assert.equal((await collectGarbage(repository, catalog, { clock: stage.clock, graceMs: 0 })).packsDeleted, 1);
});

test('a point that is finished while garbage is collected keeps what it deduplicated against', async (t) => {
  const stage = await Stage.create(t);
  const { repository, catalog } = stage.fixture;
  const disk = noisyDisk(15);
  await stage.delete(await stage.backup(disk));
  let point: RecoveryPoint | undefined;
  // The catalog is asked for its packs before the roots are listed: from there on the backup is too late to be marked.
  const lostPoints = catalog.lostPoints.bind(catalog);
  catalog.lostPoints = async () => {
    point = await writePoint(repository, { disks: { vda: disk } });
    return lostPoints();
  };
  const result = await stage.collect({ graceMs: 0 });
  catalog.lostPoints = lostPoints;
  assert.equal(result.packsDeleted, 0);
  assert.ok(point !== undefined);
  await catalog.putPoint(point);
  repository.reader.dropCaches();
  await assertDisk(repository, point, 'vda', disk.content);
  await stage.assertClean();
});

test('a manifest that cannot be read ends the collection before anything is deleted', async (t) => {
  const stage = await Stage.create(t);
  const point = await stage.backup(noisyDisk(16));
  await stage.delete(await stage.backup(noisyDisk(17)));
  const path = join(stage.fixture.directory, 'repository', 'points', point.machine.id, `${point.id}.json`);
  await writeFile(path, '{}');
  const before = await stage.packNames();
  await rejectsWith(stage.collect({ graceMs: 0 }), 'REPOSITORY_CORRUPT');
  assert.deepEqual(await stage.packNames(), before);
  assert.equal((await stage.fixture.repository.manifests.listDeleted()).length, 1);
});

test('a file that does not belong among the points ends the collection', async (t) => {
  const stage = await Stage.create(t);
  await stage.delete(await stage.backup(noisyDisk(18)));
  await writeFile(join(stage.fixture.directory, 'repository', 'points', 'notes.txt'), 'mine');
  await rejectsWith(stage.collect({ graceMs: 0 }), 'REPOSITORY_CORRUPT');
  assert.equal((await stage.packNames()).length, 1);
});

test('an aborted collection deletes nothing more, and the next one does all of it', async (t) => {
  const stage = await Stage.create(t);
  await stage.delete(await stage.backup(noisyDisk(19)));
  await rejectsWith(stage.collect({ graceMs: 0, signal: AbortSignal.abort() }), 'ABORTED');
  assert.equal((await stage.packNames()).length, 1);
  assert.equal((await stage.collect({ graceMs: 0 })).packsDeleted, 1);
});

test('collection and check run one at a time, and the second hears which one runs', async (t) => {
  const stage = await Stage.create(t);
  await stage.backup(noisyDisk(20));
  const { repository, catalog } = stage.fixture;
  const works = {
    'a garbage collection': () => stage.collect(),
    'a check': () => check(repository, catalog, { readData: false }),
  };
  for (const [running, first] of Object.entries(works)) {
    for (const second of Object.values(works)) {
      const ended: Promise<unknown> = first();
      await assert.rejects(second(), (error) => hasCode(error, 'LOCKED') && error.details['running'] === running);
      await ended;
    }
  }
});

test('many small packs are put together', async (t) => {
  const stage = await Stage.create(t);
  const disk = noisyDisk(21, 2 * MIB);
  let parent: RecoveryPoint | undefined;
  const states: { readonly point: RecoveryPoint; readonly content: Buffer }[] = [];
  for (let n = 0; n < 33; n++) {
    disk.scribble(1000);
    parent = await stage.backup(disk, parent);
    states.push({ point: parent, content: Buffer.from(disk.content) });
  }
  assert.ok((await stage.packNames()).length > 30);
  await stage.collect();
  assert.equal((await stage.packNames()).length, 1);
  stage.fixture.repository.reader.dropCaches();
  for (const { point, content } of states) await assertDisk(stage.fixture.repository, point, 'vda', content);
  await stage.assertClean();
});
