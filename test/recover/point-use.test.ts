// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { systemClock } from '../../appliance/core/clock.ts';
import { connectNbd } from '../../appliance/nbd/client/connect.ts';
import { RecoverService } from '../../appliance/recover/recover-service.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
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
  // Nobody used it when the deletion asked, and the export knew it still.
  assert.deepEqual(recover.usedBy(point.id), []);
  const deletion = repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  const { id, uri } = await recover.export({ point });
  await deletion;
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
