// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { findAttachment } from '../../appliance/recover/point-content.ts';
import { PointUse } from '../../appliance/recover/point-use.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { makeRig, patternedDisk, readAll } from './fixture.ts';

const test = suite('points in use');
const SIZE = 4 * 1024 * 1024;

test('an export that began while its point was being deleted reads on after a collection', async (t) => {
  const { fixture, parts } = await makeRig(t);
  const { repository, catalog } = fixture;
  const recover = t.use(await RecoverService.open(parts));
  const disk = await patternedDisk(SIZE, 1);
  const point = await fixture.addPoint({ disks: { vda: disk } });
  // Nobody used it when the deletion asked, and the export finds it still.
  assert.deepEqual(recover.usedBy(point.id), []);
  const { manifests } = repository;
  const has = manifests.has.bind(manifests);
  manifests.has = async (ref) => {
    const isThere = await has(ref);
    await manifests.purge(ref);
    return isThere;
  };
  const { id, uri } = await recover.export({ point });
  await catalog.deletePoint(point.id);
  const collect = (): ReturnType<typeof collectGarbage> =>
    collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });
  assert.equal((await collect()).packsDeleted, 0);
  repository.reader.dropCaches();
  const client = await connectNbd(uri);
  assert.ok((await readAll(client)).equals(await readAll(disk)));
  await client.close();
  await recover.unexport(id);
  assert.equal((await collect()).packsDeleted, 1, 'the use was the last thing that kept it');
});

test('a use that begins after a whole deletion is refused, and leaves nothing', async (t) => {
  const { fixture, parts } = await makeRig(t);
  const recover = t.use(await RecoverService.open(parts));
  const point = await fixture.addPoint({ disks: { vda: await patternedDisk(SIZE, 2) } });
  await fixture.repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  const directory = await t.tempDir();
  const to = join(directory, 'restored');
  const context = { signal: new AbortController().signal, onProgress: () => undefined, onNotice: () => undefined };
  await rejectsWith(recover.export({ point }), 'POINT_NOT_FOUND');
  await rejectsWith(recover.restore({ point, to, connect: 'test:///default' }, context), 'POINT_NOT_FOUND');
  await rejectsWith(recover.boot({ point, connect: 'test:///default' }, context), 'POINT_NOT_FOUND');
  assert.deepEqual([recover.usedBy(point.id), recover.exports(), await recover.booted()], [[], [], []]);
  assert.deepEqual(await readdir(directory), []);
  assert.deepEqual(fixture.repository.heldRoots(), { maps: [], chunks: [] });
});

test('what is attached to a point in use is kept from collection, as its disks are', async (t) => {
  const { fixture } = await makeRig(t);
  const { repository, catalog } = fixture;
  const definition = Buffer.from('<domain/>'.repeat(5_000));
  const point = await fixture.addPoint({
    disks: { vda: memoryDevice({ sizeBytes: SIZE }) },
    attachments: { 'domain.xml': definition },
  });
  const end = await new PointUse(repository).beginListed(point, 'restore');
  await repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  await catalog.deletePoint(point.id);
  await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });
  repository.reader.dropCaches();
  assert.ok((await findAttachment(repository, point, 'domain.xml'))?.equals(definition));
  end();
  assert.equal((await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 })).packsDeleted, 1);
});
