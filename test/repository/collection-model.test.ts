// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { reconcile } from '../../appliance/catalog/reconcile.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import { type RecoveryPoint, rootsOf } from '../../appliance/repository/manifest.ts';
import { check } from '../../appliance/repository/scrub.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { assertDisk, Dice, ModelDisk, writePoint } from '../support/point-model.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const KIB = 1024;
const DISK_BYTES: number = 700 * KIB + 512;
const clock = { nowMs: (): number => 1_000, elapsedMs: (): number => 0 };

interface Known {
  readonly point: RecoveryPoint;
  readonly content: Buffer;
}

/** Random backups, deletions, undeletions, collections, restarts and reads, several at a time, against a model. */
class Model {
  fixture: FixtureRepository;
  readonly listed: Map<string, Known> = new Map();
  readonly deleted: Map<string, Known> = new Map();
  /** Points whose base they are a backup runs on, as `protect` does not delete those either. */
  readonly counts = { backups: 0, deletions: 0, undeletions: 0, collections: 0, reads: 0, purged: 0 };
  readonly #dice: Dice;
  readonly #running = new Set<Promise<void>>();

  constructor(fixture: FixtureRepository, dice: Dice) {
    this.fixture = fixture;
    this.#dice = dice;
  }

  async step(): Promise<void> {
    const choice = this.#dice.below(20);
    if (choice < 8) this.#start(this.#backUp());
    else if (choice < 11) await this.#delete();
    else if (choice < 12) await this.#undelete();
    else if (choice < 15) this.#start(this.#collect());
    else if (choice < 18) this.#start(this.#read());
    else if (choice < 19) await this.settle();
    else await this.#restart();
    for (let n = this.#dice.below(6); n > 0; n--) await turn();
  }

  async settle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  async verify(): Promise<void> {
    await this.settle();
    const { repository, catalog } = this.fixture;
    repository.reader.dropCaches();
    const ids = (await catalog.points()).map(({ id }) => id);
    assert.deepEqual(ids.toSorted(), [...this.listed.keys()].toSorted());
    for (const { point, content } of this.listed.values()) await assertDisk(repository, point, 'vda', content);
    const { findings } = await check(repository, catalog, { readData: true });
    assert.deepEqual(findings, []);
  }

  #start(work: Promise<void>): void {
    const tracked = work.finally(() => this.#running.delete(tracked));
    tracked.catch(() => undefined);
    this.#running.add(tracked);
  }

  #pick(from: ReadonlyMap<string, Known>): Known | undefined {
    return [...from.values()][this.#dice.below(Math.max(1, from.size))];
  }

  async #backUp(): Promise<void> {
    const parent = this.#dice.below(3) === 0 ? undefined : this.#pick(this.listed);
    const disk = new ModelDisk(DISK_BYTES, this.#dice);
    disk.takeChanges();
    // Few different disks, so that contents of deleted points are met again.
    if (parent === undefined) new Dice(this.#dice.below(3)).bytes(DISK_BYTES).copy(disk.content);
    else parent.content.copy(disk.content);
    for (let n = this.#dice.below(3); n >= 0; n--) disk.scribble(150 * KIB);
    const content = Buffer.from(disk.content);
    const { repository, catalog } = this.fixture;
    const point = await writePoint(repository, { disks: { vda: disk }, parent: parent?.point });
    await catalog.putPoint(point);
    this.listed.set(point.id, { point, content });
    this.counts.backups += 1;
  }

  async #delete(): Promise<void> {
    const known = this.#pick(this.listed);
    if (known === undefined) return;
    const { repository, catalog } = this.fixture;
    const { point } = known;
    this.listed.delete(point.id);
    await repository.manifests.delete({ machineId: point.machine.id, pointId: point.id }, 500);
    await catalog.deletePoint(point.id);
    this.deleted.set(point.id, known);
    this.counts.deletions += 1;
  }

  async #undelete(): Promise<void> {
    const known = this.#pick(this.deleted);
    if (known === undefined) return;
    const { repository, catalog } = this.fixture;
    const { point } = known;
    this.deleted.delete(point.id);
    try {
      await catalog.putPoint(await repository.manifests.undelete({ machineId: point.machine.id, pointId: point.id }));
      this.listed.set(point.id, known);
      this.counts.undeletions += 1;
    } catch (error) {
      if (!hasCode(error, 'POINT_NOT_FOUND')) throw error;
    }
  }

  async #collect(): Promise<void> {
    const { repository, catalog } = this.fixture;
    const graceMs = this.#dice.below(2) === 0 ? 0 : 100_000;
    try {
      const result = await collectGarbage(repository, catalog, { clock, graceMs, minLiveShare: 0.8 });
      this.counts.collections += 1;
      this.counts.purged += result.pointsPurged;
    } catch (error) {
      if (!hasCode(error, 'LOCKED')) throw error;
    }
  }

  async #read(): Promise<void> {
    const known = this.#pick(this.listed);
    if (known === undefined) return;
    const { repository } = this.fixture;
    using _ = repository.hold(rootsOf(known.point));
    if (this.#dice.below(2) === 0) repository.reader.dropCaches();
    await assertDisk(repository, known.point, 'vda', known.content);
    this.counts.reads += 1;
  }

  async #restart(): Promise<void> {
    await this.settle();
    this.fixture = await this.fixture.reopen();
    const { repository, catalog } = this.fixture;
    const report = await reconcile(repository, catalog);
    assert.deepEqual([report.missingContents, report.lostPoints, report.damaged], [0, [], []]);
  }
}

async function play(t: TestContext, seed: number, steps: number): Promise<Model['counts']> {
  const resources = { threads: 1, plainSlabs: 6, frameSlabs: 3, cacheBytes: 2048 * KIB };
  const model = new Model(await FixtureRepository.create(await t.tempDir(), { resources }), new Dice(seed));
  t.use({ close: () => model.fixture.close() });
  for (let step = 1; step <= steps; step++) {
    await model.step();
    if (step % 25 === 0) await model.verify();
  }
  return model.counts;
}

const test = suite('collection against a model', { timeoutMs: 60_000 });

// Chosen because each finds what happens without pins, without former pins, or without holds.
for (const seed of [2, 5, 6, 8]) {
  test(`every listed point is whole under backups, deletions, reads and collections at the same time (seed ${seed})`, async (t) => {
    const counts = await play(t, seed, 75);
    assert.ok(counts.backups > 10 && counts.deletions > 0 && counts.collections > 0, JSON.stringify(counts));
  });
}
