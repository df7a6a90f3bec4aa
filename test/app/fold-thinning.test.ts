// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { Core } from '../../appliance/app/core.ts';
import { thinFolds } from '../../appliance/app/fold-thinning.ts';
import { memoryDevice } from '../../appliance/block/memory-device.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { FOLDED } from '../../appliance/volume/fold-schedule.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('thinning of folds');
const LOG = '0123456789abcdef0123456789abcdef';
const OLD_MS = Date.parse('2026-01-01T10:00:00Z');

interface Scene {
  readonly core: Core;
  readonly fixture: FixtureRepository;
  /** Five of the same day, oldest first. */
  readonly folds: readonly RecoveryPoint[];
  readonly users: Map<string, string>;
  journal: {
    readonly logId: string;
    readonly folds: readonly { readonly pointId: string; readonly sequence: number }[];
  };
  failure: Error | undefined;
}

async function makeScene(t: TestContext): Promise<Scene> {
  const fixture = t.use(await FixtureRepository.create(await t.tempDir()));
  const folds: RecoveryPoint[] = [];
  for (let number = 1; number <= 5; number++) {
    const made = await fixture.addPoint({ disks: { vda: memoryDevice({ sizeBytes: 64 * 1024 }) } });
    await fixture.repository.manifests.purge({ machineId: made.machine.id, pointId: made.id });
    const createdAt = new Date(OLD_MS + number * 600_000).toISOString();
    const journal = { logId: LOG, sequence: number * 10, timeUs: 0, disks: { vda: 0 } };
    const point = { ...made, createdAt, reason: FOLDED, sequence: number, journal };
    await fixture.repository.manifests.put(point);
    await fixture.catalog.putPoint(point);
    folds.push(point);
  }
  const users = new Map<string, string>();
  const usedBy = (id: string): string[] => [users.get(id) ?? []].flat();
  const scene: Scene = {
    fixture,
    folds,
    users,
    journal: { logId: LOG, folds: [] },
    failure: undefined,
    core: {
      catalog: fixture.catalog,
      repository: fixture.repository,
      recover: { usedBy },
      continuous: { usedBy: () => [], journalOf: async () => undefined },
      journalOf: () =>
        scene.failure === undefined
          ? Promise.resolve({ ...scene.journal, timeline: () => Promise.resolve({ stretches: [] }) })
          : Promise.reject(scene.failure),
    } as unknown as Core,
  };
  return scene;
}

async function listed({ fixture }: Scene): Promise<number[]> {
  return (await fixture.catalog.points()).map(({ sequence }) => sequence).sort((a, b) => a - b);
}

test('folds that no moment needs are deleted but the newest of the day, and can be brought back', async (t) => {
  const scene = await makeScene(t);
  scene.journal = { logId: LOG, folds: [{ pointId: scene.folds[3]?.id ?? '', sequence: 40 }] };
  assert.equal(await thinFolds(scene.core, systemClock, assert.fail), 3);
  assert.deepEqual(await listed(scene), [4, 5]);
  assert.equal((await scene.fixture.repository.manifests.listDeleted()).length, 3);
  assert.equal(await thinFolds(scene.core, systemClock, assert.fail), 0);
});

test('what is in use stays, and everything of a journal that cannot be asked', async (t) => {
  const scene = await makeScene(t);
  const notices: string[] = [];
  scene.failure = new ApplianceError('NO_SPACE', 'the journal cannot be opened');
  assert.equal(await thinFolds(scene.core, systemClock, (sentence) => notices.push(sentence)), 0);
  assert.match(notices.join(), /stay for now: the journal cannot be opened/);
  scene.failure = undefined;
  scene.journal = { logId: LOG, folds: [{ pointId: scene.folds[4]?.id ?? '', sequence: 50 }] };
  scene.users.set(scene.folds[1]?.id ?? '', 'the machine web-2');
  assert.equal(await thinFolds(scene.core, systemClock, assert.fail), 3);
  assert.deepEqual(await listed(scene), [2, 5]);
});

test('what is held or locked stays, and what is beside it goes', async (t) => {
  const scene = await makeScene(t);
  const { guards } = scene.fixture.repository;
  const [held, locked] = scene.folds.map(({ id, machine }) => ({ machineId: machine.id, pointId: id }));
  assert.ok(held !== undefined && locked !== undefined);
  await guards.hold(held, { reason: 'audit', untilMs: null });
  await guards.lock(locked, systemClock.nowMs() + 60_000);
  scene.journal = { logId: LOG, folds: [{ pointId: scene.folds[4]?.id ?? '', sequence: 50 }] };
  assert.equal(await thinFolds(scene.core, systemClock, assert.fail), 2);
  assert.deepEqual(await listed(scene), [1, 2, 5]);
});

test('of another journal than the one that can be asked nothing is deleted', async (t) => {
  const scene = await makeScene(t);
  scene.journal = { logId: 'f'.repeat(32), folds: [{ pointId: 'other', sequence: 1_000 }] };
  assert.equal(await thinFolds(scene.core, systemClock, assert.fail), 0);
});
