// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { reconcile } from '../../appliance/catalog/reconcile.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { realFileSystem } from '../../appliance/core/file-system.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { type Fault, type FaultPlan, FaultyFileSystem, isCrash } from '../support/faulty-file-system.ts';
import { type FixtureOptions, FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import type { TestContext } from '../support/test-scope.ts';

const KIB = 1024;
const DISK_BYTES: number = 512 * KIB + 512;

/** What the disk held at each point that a scenario may have made. */
export type Contents = Map<string, Buffer>;

/** What may happen at a step, by name. */
export const FAULTS = {
  noSpace: (at: number): Fault => ({ kind: 'error', at, code: 'ENOSPC' }),
  deviceError: (at: number): Fault => ({ kind: 'error', at, code: 'EIO' }),
  /** No space at every other step, an error of the device at those between. */
  anyError: (at: number): Fault => ({ kind: 'error', at, code: at % 2 === 0 ? 'ENOSPC' : 'EIO' }),
  death: (at: number): Fault => ({ kind: 'crash', at }),
  deathInWrite: (at: number): Fault => ({ kind: 'crash', at, partial: true }),
} as const;

/** The work whose every step is failed. It notes the content of each point before the point can exist. */
export type Scenario = (fixture: FixtureRepository, scene: FaultScene) => Promise<void>;

/** A prepared repository with two points, of which each attempt gets a copy. */
export class FaultScene {
  readonly directory: string;
  readonly contents: Contents = new Map();
  readonly first: RecoveryPoint;
  readonly second: RecoveryPoint;
  readonly #template: FixtureRepository;
  #attempt = 0;

  private constructor(template: FixtureRepository, points: readonly [RecoveryPoint, RecoveryPoint]) {
    this.directory = template.directory;
    this.#template = template;
    [this.first, this.second] = points;
  }

  static async create(t: TestContext): Promise<FaultScene> {
    const resources = { threads: 1, cacheBytes: KIB * KIB, plainSlabs: 4, frameSlabs: 2 };
    const template = await FixtureRepository.create(await t.tempDir(), { resources });
    const disk = new ModelDisk(DISK_BYTES, new Dice(1));
    disk.fillWithNoise();
    const first = await writePoint(template.repository, { disks: { vda: disk } });
    const before = Buffer.from(disk.content);
    disk.scribble(200 * KIB);
    disk.scribble(1000);
    const second = await writePoint(template.repository, { disks: { vda: disk }, parent: first });
    for (const point of [first, second]) await template.catalog.putPoint(point);
    await reconcile(template.repository, template.catalog);
    await template.close();
    const scene = new FaultScene(template, [first, second]);
    scene.contents.set(first.id, before);
    scene.contents.set(second.id, Buffer.from(disk.content));
    return scene;
  }

  /** Backs up the second point's disk, with another change, on that point while it exists; its content is noted first. */
  async backup({ repository, catalog }: FixtureRepository, seed: number): Promise<RecoveryPoint> {
    const parent = (await catalog.points()).find(({ id }) => id === this.second.id);
    const disk = this.#diskOf(this.second, seed);
    const manifests = repository.manifests;
    const put = manifests.put.bind(manifests);
    manifests.put = (point) => {
      this.contents.set(point.id, Buffer.from(disk.content));
      return put(point);
    };
    try {
      const point = await writePoint(repository, { disks: { vda: disk }, parent });
      await catalog.putPoint(point);
      return point;
    } finally {
      manifests.put = put;
    }
  }

  /** Runs the scenario over a faulty copy, then opens what is left and checks that it is whole. */
  async attempt(plan: FaultPlan, scenario: Scenario): Promise<void> {
    this.#attempt += 1;
    const directory = join(this.directory, `attempt-${this.#attempt}`);
    for (const part of ['repository', 'catalog']) {
      await cp(join(this.directory, part), join(directory, part), { recursive: true });
    }
    const faulty = { fileSystem: new FaultyFileSystem(realFileSystem, plan) };
    try {
      await this.#run(directory, faulty, scenario).catch((error: unknown) => {
        assert.ok(plan.wasHit, `the work failed without a fault: ${String(error)}`);
        assert.ok(isCrash(error) || error instanceof ApplianceError, `not an ApplianceError: ${String(error)}`);
      });
      await using fixture = await this.#template.openCopy(directory, { fileSystem: realFileSystem });
      await this.#verify(fixture);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  async #run(directory: string, options: FixtureOptions, scenario: Scenario): Promise<void> {
    await using fixture = await this.#template.openCopy(directory, options);
    await scenario(fixture, this);
  }

  async #verify(fixture: FixtureRepository): Promise<void> {
    const { repository, catalog } = fixture;
    await repository.store.removeStaged();
    const report = await reconcile(repository, catalog);
    assert.deepEqual([report.damaged, report.strays, report.lostPoints, report.missingContents], [[], [], [], 0]);
    for (const point of await catalog.points()) {
      const content = this.contents.get(point.id);
      assert.ok(content !== undefined, 'only points that somebody made are listed');
      await assertDisk(repository, point, 'vda', content);
    }
    const { findings } = await check(repository, catalog, { readData: true });
    assert.deepEqual(findings, []);
    await assertDisk(repository, await this.backup(fixture, 77), 'vda', this.#diskOf(this.second, 77).content);
  }

  #diskOf(point: RecoveryPoint, seed: number): ModelDisk {
    const disk = new ModelDisk(DISK_BYTES, new Dice(seed));
    disk.takeChanges();
    this.contents.get(point.id)?.copy(disk.content);
    disk.scribble(150 * KIB);
    disk.scribble(500);
    return disk;
  }
}

const clock = { nowMs: (): number => 1_000, elapsedMs: (): number => 0 };

async function remove({ repository, catalog }: FixtureRepository, point: RecoveryPoint): Promise<void> {
  await repository.manifests.delete({ machineId: point.machine.id, pointId: point.id }, 500);
  await catalog.deletePoint(point.id);
}

/** A backup; when it fails, another one in the same process. */
export const backup: Scenario = async (fixture, scene) => {
  try {
    await scene.backup(fixture, 11);
  } catch (error) {
    await scene.backup(fixture, 12);
    throw error;
  }
};

/** Deletes, brings back, deletes again, and collects; the pack that is half dead is rewritten. */
export const deletions: Scenario = async (fixture, { first }) => {
  const { repository, catalog } = fixture;
  await remove(fixture, first);
  await catalog.putPoint(await repository.manifests.undelete({ machineId: first.machine.id, pointId: first.id }));
  await remove(fixture, first);
  const result = await collectGarbage(repository, catalog, { clock, graceMs: 0, minLiveShare: 0.99 });
  assert.equal(result.packsRewritten, 1);
};

/** Deletes everything. */
export const emptying: Scenario = async (fixture, { first, second }) => {
  for (const point of [first, second]) await remove(fixture, point);
  await collectGarbage(fixture.repository, fixture.catalog, { clock, graceMs: 0 });
};
