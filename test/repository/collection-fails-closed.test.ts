// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { collectGarbage, DEFAULT_GRACE_MS } from '../../appliance/repository/garbage-collector.ts';
import type { ObjectStore } from '../../appliance/repository/object-store.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { Dice } from '../support/point-model.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('garbage collection fails closed');
const MIB: number = 1024 * 1024;
const READS: readonly (keyof ObjectStore)[] = ['get', 'getRange', 'list'];

/** Counts the reads and lists of a store, fails one of them, and counts what is deleted. */
function watch(store: ObjectStore, failAt: number): { reads: number; deletes: number; restore: () => void } {
  const seen = { reads: 0, deletes: 0, restore: (): void => undefined };
  const before = Object.fromEntries([...READS, 'delete' as const].map((name) => [name, store[name]]));
  for (const name of READS) {
    const call = (store[name] as (...args: unknown[]) => unknown).bind(store);
    Object.assign(store, {
      [name]: (...args: unknown[]) => {
        seen.reads += 1;
        if (seen.reads === failAt) return Promise.reject(new ApplianceError('IO_FAILED', `${name} failed`));
        return call(...args);
      },
    });
  }
  const remove = store.delete.bind(store);
  Object.assign(store, {
    delete: (key: string) => {
      seen.deletes += 1;
      return remove(key);
    },
  });
  seen.restore = () => void Object.assign(store, before);
  return seen;
}

test('whichever list or read fails, nothing was deleted before, and the next collection does its work', async (t) => {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const { repository, catalog } = fixture;
  for (let n = 0; n < 4; n++) {
    const disk = memoryDevice({ sizeBytes: MIB });
    await disk.write(0, new Dice(n + 1).bytes(MIB));
    const point = await fixture.addPoint({ disks: { vda: disk } });
    if (n >= 2) {
      await repository.manifests.delete({ machineId: point.machine.id, pointId: point.id }, systemClock.nowMs());
      await catalog.deletePoint(point.id);
    }
  }
  const packs = (await catalog.packs()).size;
  let failures = 0;
  for (let failAt = 1; ; failAt++) {
    repository.reader.dropCaches();
    const seen = watch(repository.store, failAt);
    // With the grace period nothing is deleted by a success either: that the loop ends is seen by it.
    const collecting = collectGarbage(repository, catalog, { clock: systemClock, graceMs: DEFAULT_GRACE_MS });
    const error = await collecting.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    seen.restore();
    assert.equal(seen.deletes, 0);
    if (seen.reads < failAt) {
      assert.equal(error, undefined);
      break;
    }
    await rejectsWith(Promise.reject(error), 'IO_FAILED');
    failures += 1;
  }
  assert.ok(failures > 10, `${failures} reads were failed`);
  // The reads before the first deletion are the same without a grace period; none of them may let one through.
  for (let failAt = 1; failAt <= failures; failAt++) {
    repository.reader.dropCaches();
    const seen = watch(repository.store, failAt);
    await rejectsWith(collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 }), 'IO_FAILED');
    seen.restore();
    assert.equal(seen.deletes, 0, `read ${failAt} failed`);
    assert.equal((await catalog.packs()).size, packs);
    assert.equal((await repository.manifests.listDeleted()).length, 2);
  }
  const { pointsPurged, packsDeleted } = await collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });
  assert.deepEqual([pointsPurged, packsDeleted], [2, 2]);
});
