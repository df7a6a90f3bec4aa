// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../appliance/core/clock.ts';
import { type CollectResult, collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { MOUNT_REQUIREMENTS, SmallFileSystem } from '../support/small-file-system.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('garbage collection on a full disk', { requires: MOUNT_REQUIREMENTS });
const MIB = 1024 * 1024;

/** A repository alone on a small file system; its catalog has room. */
class Scene {
  readonly fixture: FixtureRepository;
  readonly room: SmallFileSystem;
  readonly #kept: { readonly point: RecoveryPoint; readonly disk: ModelDisk }[] = [];
  #seed = 1;

  constructor(fixture: FixtureRepository, room: SmallFileSystem) {
    this.fixture = fixture;
    this.room = room;
  }

  static async create(t: TestContext, sizeBytes: number): Promise<Scene> {
    const directory = await t.tempDir();
    const room = t.use(await SmallFileSystem.mount(join(directory, 'repository'), sizeBytes));
    return new Scene(t.use(await FixtureRepository.create(directory)), room);
  }

  /** Writes a pack of which only the first bytes are needed by a point that stays. */
  async addPack(bytes: { readonly live: number; readonly dead: number }): Promise<void> {
    const live = this.#noise(bytes.live);
    const whole = this.#noise(bytes.live + bytes.dead);
    live.content.copy(whole.content, 0);
    const { repository, catalog } = this.fixture;
    const doomed = await writePoint(repository, { disks: { vda: whole } });
    const point = await writePoint(repository, { disks: { vda: live } });
    await catalog.putPoint(point);
    await repository.manifests.delete({ machineId: doomed.machine.id, pointId: doomed.id }, systemClock.nowMs());
    this.#kept.push({ point, disk: live });
  }

  async leaveRoom(bytes: number): Promise<void> {
    await this.room.fill();
    const filler = join(this.room.path, 'filler');
    await truncate(filler, (await stat(filler)).size - bytes);
  }

  collect(): Promise<CollectResult> {
    const { repository, catalog } = this.fixture;
    return collectGarbage(repository, catalog, { clock: systemClock, graceMs: 0 });
  }

  async assertWhole(): Promise<void> {
    const { repository, catalog } = this.fixture;
    repository.reader.dropCaches();
    for (const { point, disk } of this.#kept) await assertDisk(repository, point, 'vda', disk.content);
    assert.deepEqual((await check(repository, catalog, { readData: true })).findings, []);
    assert.deepEqual(await readdir(join(this.room.path, 'staging')), []);
  }

  #noise(sizeBytes: number): ModelDisk {
    const dice = new Dice(this.#seed++);
    const disk = new ModelDisk(sizeBytes, dice);
    dice.bytes(sizeBytes).copy(disk.content);
    return disk;
  }
}

test('packs that do not fit together are rewritten one at a time, the one that needs least first', async (t) => {
  const scene = await Scene.create(t, 40 * MIB);
  await scene.addPack({ live: 3 * MIB, dead: 6 * MIB });
  await scene.addPack({ live: MIB, dead: 6 * MIB });
  await scene.leaveRoom(2 * MIB);
  const { packsRewritten, packsWithoutRoom, freedBytes } = await scene.collect();
  assert.deepEqual({ packsRewritten, packsWithoutRoom }, { packsRewritten: 2, packsWithoutRoom: 0 });
  assert.ok(freedBytes > 11 * MIB, `${freedBytes}`);
  await scene.assertWhole();
});

test('dead packs are freed and what does not fit is counted, until there is room', async (t) => {
  const scene = await Scene.create(t, 64 * MIB);
  await scene.addPack({ live: 10 * MIB, dead: 12 * MIB });
  await scene.addPack({ live: 11 * MIB, dead: 13 * MIB });
  await scene.addPack({ live: 0, dead: 2 * MIB });
  await scene.leaveRoom(MIB);
  const full = await scene.collect();
  assert.deepEqual([full.packsDeleted, full.packsRewritten, full.packsWithoutRoom], [1, 0, 2]);
  assert.ok(full.freedBytes > 0 && full.keptGarbageBytes > 24 * MIB);
  await scene.assertWhole();
  const again = await scene.collect();
  assert.deepEqual([again.packsWithoutRoom, again.freedBytes], [2, 0]);
  await scene.room.release();
  const { packsRewritten, packsWithoutRoom } = await scene.collect();
  assert.deepEqual({ packsRewritten, packsWithoutRoom }, { packsRewritten: 2, packsWithoutRoom: 0 });
  await scene.assertWhole();
});
