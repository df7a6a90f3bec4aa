// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import type { OperationContext } from '../../../appliance/api/operations.ts';
import { RunService } from '../../../appliance/api/runs/run-service.ts';
import { Upkeep } from '../../../appliance/app/housekeeping/upkeep.ts';
import { memoryDevice } from '../../../appliance/block/memory-device.ts';
import type { Clock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { DirectoryStore } from '../../../appliance/repository/directory-store.ts';
import { packKey } from '../../../appliance/repository/pack-writer.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { memoryRunRecords } from '../../support/memory-run-records.ts';
import { Dice } from '../../support/point-model.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('upkeep');
const MIB: number = 1024 * 1024;
const DAY_MS = 24 * 3_600_000;

const context: OperationContext = {
  principal: localPrincipal(),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onNotice: () => undefined,
};

class House {
  readonly fixture: FixtureRepository;
  readonly upkeep: Upkeep;
  readonly store: DirectoryStore;
  readonly notices: string[] = [];
  readonly clock: Clock = { nowMs: () => this.nowMs, elapsedMs: () => this.nowMs };
  nowMs: number = Date.parse('2026-11-21T12:00:00Z');

  private constructor(fixture: FixtureRepository, store: DirectoryStore) {
    this.fixture = fixture;
    this.store = store;
    this.upkeep = new Upkeep({ store, clock: this.clock }, (sentence) => this.notices.push(sentence));
  }

  static async create(t: TestContext): Promise<House> {
    const directory = await t.tempDir();
    const fixture = t.use(await FixtureRepository.create(directory));
    const house = new House(fixture, await DirectoryStore.open(join(directory, 'repository')));
    for (let n = 0; n < 3; n++) {
      const disk = memoryDevice({ sizeBytes: MIB });
      await disk.write(0, new Dice(n + 1).bytes(MIB));
      await fixture.addPoint({ disks: { vda: disk } });
    }
    t.use({ close: () => house.upkeep.end() });
    return house;
  }

  /** Time passes, and what is due is done. */
  async live(days: number): Promise<void> {
    for (let n = 0; n < days; n++) {
      this.nowMs += DAY_MS;
      await this.upkeep.look();
      await this.upkeep.look();
    }
  }

  async damage(): Promise<string> {
    const [packId] = [...(await this.fixture.catalog.packs()).keys()];
    const object = packKey(packId ?? assert.fail());
    const file = await open(join(this.fixture.directory, 'repository', object), 'r+');
    await file.write(Buffer.from('not what it was'), 0, 15, 5_000);
    await file.close();
    return object;
  }
}

test('the service collects and scrubs by itself, and says in the status when', async (t) => {
  const house = await House.create(t);
  const { fixture, upkeep } = house;
  const before = await upkeep.status(fixture);
  assert.deepEqual([before.collection.lastAt, before.collection.nextAt, before.scrub.lastAt], [null, null, null]);
  const [point] = await fixture.catalog.points();
  assert.ok(point !== undefined);
  await fixture.repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  await fixture.catalog.deletePoint(point.id);
  upkeep.begin(fixture);
  await house.live(1);
  assert.equal((await fixture.catalog.packs()).size, 2);
  const status = await upkeep.status(fixture);
  const today = new Date(house.nowMs).toISOString();
  const tomorrow = new Date(house.nowMs + DAY_MS).toISOString();
  assert.deepEqual(status.collection, { lastAt: today, nextAt: tomorrow, problem: null });
  assert.deepEqual(status.scrub, { lastAt: today, nextAt: tomorrow, problem: null });
  assert.deepEqual([status.round.startedAt, status.round.lastEndedAt], [today, null]);
  await house.live(1);
  assert.equal((await upkeep.status(fixture)).round.lastEndedAt, tomorrow);
  assert.deepEqual(house.notices, []);
});

test('a defect that the scrub finds is said once and stays in the status until what it is in is read again without it', async (t) => {
  const house = await House.create(t);
  const { fixture, upkeep } = house;
  const object = await house.damage();
  upkeep.begin(fixture);
  await house.live(6);
  const { findings } = await upkeep.status(fixture);
  assert.deepEqual([...new Set(findings.map((finding) => finding.object))], [object]);
  assert.ok(findings.every(({ points }) => points.length === 1));
  assert.equal(house.notices.filter((sentence) => sentence.includes(object)).length, findings.length);
  await upkeep.check(fixture, {}, context);
  assert.deepEqual((await upkeep.status(fixture)).findings, findings, 'a check that reads nothing knows no better');
  for (const point of await fixture.catalog.points()) {
    await fixture.repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
    await fixture.catalog.deletePoint(point.id);
  }
  await upkeep.check(fixture, { readData: true }, context);
  assert.ok((await upkeep.status(fixture)).findings.every(({ points }) => points.length === 0));
});

test('what somebody asks for has precedence, and counts as done', async (t) => {
  const { fixture, upkeep, ...house } = await House.create(t);
  upkeep.begin(fixture);
  const [gc, check] = await Promise.all([upkeep.gc(fixture, {}, context), upkeep.look()]).then(() =>
    Promise.all([upkeep.gc(fixture, {}, context), upkeep.status(fixture)]),
  );
  assert.equal(gc.packsDeleted, 0);
  assert.equal(check.collection.lastAt, new Date(house.nowMs).toISOString());
});

test('the room is measured each day, and the forecast is made of it', async (t) => {
  const house = await House.create(t);
  const { fixture, upkeep } = house;
  upkeep.begin(fixture);
  const first = await upkeep.capacity(fixture);
  assert.deepEqual([first.history, first.growthBytesPerDay, first.daysUntilFull], [[], null, null]);
  await house.live(9);
  const report = await upkeep.capacity(fixture);
  assert.equal(report.history.length, 9);
  assert.equal(report.growthBytesPerDay, 0);
  assert.equal(report.storedBytes, (await fixture.catalog.totals()).storedBytes);
  assert.ok(report.freeBytes > 0 && report.freeBytes < report.totalBytes);
  assert.deepEqual(
    report.machines.map(({ name, points }) => [name, points]),
    [['web', 3]],
  );
});

test('what the service does by itself is a run, on behalf of the appliance, and gives way as one', async (t) => {
  const house = await House.create(t);
  const { fixture } = house;
  const service = new RunService({
    perform: (operation, params, own) =>
      operation === 'gc' ? upkeep.gc(fixture, params, own) : upkeep.check(fixture, params, own),
    records: memoryRunRecords(),
    onNotice: (sentence) => house.notices.push(sentence),
    onDefect: (violation) => assert.fail(violation),
    clock: house.clock,
  });
  const upkeep = new Upkeep(
    { store: house.store, clock: house.clock },
    () => undefined,
    () => service,
  );
  t.use({ close: () => upkeep.end() });
  upkeep.begin(fixture);
  house.nowMs += DAY_MS;
  await upkeep.look();
  await upkeep.look();
  const runs = await service.list();
  assert.deepEqual(
    runs.map(({ operation, startedBy, state }) => [operation, startedBy.kind, state]),
    [
      ['check', 'appliance', 'succeeded'],
      ['gc', 'appliance', 'succeeded'],
    ],
  );
  const slice = await service.show(runs[0]?.id ?? '');
  assert.deepEqual((slice.result as { readonly packs: number }).packs, 1);
  fixture.repository.manifests.list = () => Promise.reject(new ApplianceError('IO_FAILED', 'cannot list points/'));
  house.nowMs += DAY_MS;
  await upkeep.look();
  assert.equal((await upkeep.status(fixture)).collection.problem, 'IO_FAILED: cannot list points/');
});
