// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { suite } from '../support/suite.ts';

const test = suite('what garbage collection marks from');
const MIB = 1024 * 1024;

test('points that the store does not list any more, but the catalog does, keep their contents', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const disk = memoryDevice({ sizeBytes: MIB });
  await disk.write(0, Buffer.alloc(MIB, 7));
  await fixture.addPoint({ disks: { vda: disk }, attachments: { 'domain.xml': Buffer.from('<domain/>') } });
  const points = join(fixture.directory, 'repository', 'points');
  // A mount that went away, a folder that somebody moved: the listing is empty, and no error tells.
  await rename(points, `${points}-elsewhere`);
  const result = await collectGarbage(fixture.repository, fixture.catalog, { clock: systemClock, graceMs: 0 });
  assert.equal(result.packsDeleted + result.packsRewritten, 0);
  await rename(`${points}-elsewhere`, points);
  const { findings } = await check(fixture.repository, fixture.catalog, { readData: true });
  assert.deepEqual(findings, []);
});

test('a point that was purged and is not off the list yet does not stop a collection', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const disk = memoryDevice({ sizeBytes: MIB });
  await disk.write(0, Buffer.alloc(MIB, 7));
  const point = await fixture.addPoint({ disks: { vda: disk } });
  await fixture.repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  const collect = (): ReturnType<typeof collectGarbage> =>
    collectGarbage(fixture.repository, fixture.catalog, { clock: systemClock, graceMs: 0 });
  assert.equal((await collect()).packsDeleted, 0);
  await fixture.catalog.deletePoint(point.id);
  assert.equal((await collect()).packsDeleted, 1);
});

test('a locked point that is among the deleted all the same is not removed for good', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const { manifests, guards } = fixture.repository;
  const disk = memoryDevice({ sizeBytes: MIB });
  await disk.write(0, Buffer.alloc(MIB, 7));
  const point = await fixture.addPoint({ disks: { vda: disk } });
  const ref = { machineId: point.machine.id, pointId: point.id };
  await manifests.delete(ref, systemClock.nowMs());
  await fixture.catalog.deletePoint(point.id);
  await guards.lock(ref, systemClock.nowMs() + 60_000);
  const result = await collectGarbage(fixture.repository, fixture.catalog, { clock: systemClock, graceMs: 0 });
  assert.deepEqual([result.pointsPurged, result.pointsInGrace, result.packsDeleted], [0, 1, 0]);
  await manifests.undelete(ref);
  assert.deepEqual(await manifests.get(ref), point);
});
