// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { hasCode } from '../../appliance/core/errors.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { Moment } from '../../appliance/volume/journal-event.ts';
import { WriteLog } from '../../appliance/volume/write-log.ts';
import { TestClock } from '../support/journal-model.ts';
import { suite } from '../support/suite.ts';
import { noise, Watched } from './fixture.ts';
import { pick, random } from './moment-rig.ts';
import { contents, contentsAt, type Life, makeStageRig, SIZES, type StageRig, stateOf } from './rewind-rig.ts';

const test = suite('the history of a booted machine', { timeoutMs: 120_000 });
const HOUR_MS = 3_600_000;

/** A write, a zero or a trim of the guest at a place that looks random; settles with the newest moment after it. */
async function step({ history }: Life, next: () => number, seed: number): Promise<Moment> {
  const disk = pick(history.session.point.disks, next);
  const device = history.overlay.device(disk);
  const offset = Math.floor(next() * (disk.sizeBytes - 1));
  const length = Math.max(1, Math.min(Math.floor(next() * 40_000), disk.sizeBytes - offset));
  if (next() < 0.7) await device.write(offset, noise(length, seed));
  else if (next() < 0.5) await device.zero({ offset, length });
  else await device.trim({ offset, length });
  return history.journal.newest;
}

test('random moments read as the disks did then, over folds, restarts and rewinds', async (t) => {
  const rig = await makeStageRig(t);
  const next = random(7);
  let life = await rig.live();
  const known: { readonly moment: Moment; readonly was: Record<string, Buffer> }[] = [];
  for (let round = 0; round < 60; round++) {
    const moment = await step(life, next, round);
    if (next() < 0.4) known.push({ moment, was: await contents(life) });
    const kind = next();
    if (kind < 0.12) await life.history.foldNow('because');
    else if (kind < 0.2) {
      await life.disks.close();
      life = await rig.live();
    } else if (kind < 0.3 && known.length > 0) {
      const { moment: to, was } = pick(known, next);
      const before = { moment: life.history.journal.newest, was: await contents(life) };
      await life.rewinds.rewind(life.session, await stateOf(rig, life, to), new Watched());
      assert.deepEqual(await contents(life), was);
      known.push(before);
    }
  }
  assert.ok(known.length > 15 && life.history.journal.folds.length > 5);
  for (const { moment, was } of known) {
    assert.deepEqual(await contentsAt(rig, life, await stateOf(rig, life, moment)), was, `sequence ${moment.sequence}`);
  }
  const { stretches } = await life.history.journal.timeline({ buckets: 0 });
  assert.ok(stretches.every(({ isOpen, endReason }) => isOpen || endReason === 'it was switched off for a rewind'));
});

interface Crash {
  readonly title: string;
  /** Puts the crash into its place: what is called there never comes back. */
  readonly set: (rig: StageRig, life: Life, crash: () => Promise<never>) => void;
  readonly isNew: boolean;
}

const CRASHES: readonly Crash[] = [
  {
    title: 'when the machine is to be switched off',
    set: ({ machine }, _, crash) => (machine.powerOff = crash),
    isNew: false,
  },
  { title: 'before the bookmark', set: (_, { history }, crash) => (history.journal.bookmark = crash), isNew: false },
  {
    title: 'when the stretch is to end',
    set: (_, { history }, crash) => (history.journal.endStretch = crash),
    isNew: false,
  },
  {
    title: 'before its place is made',
    set: (_, { history }, crash) => (history.journal.markMoment = crash),
    isNew: false,
  },
  { title: 'when the point is there', set: (_, { history }, crash) => (history.adopt = crash), isNew: false },
  {
    title: 'before the journal hears of it',
    set: (_, { history }, crash) => (history.journal.folded = crash),
    isNew: true,
  },
  { title: 'before it starts', set: ({ machine }, _, crash) => (machine.powerOn = crash), isNew: true },
];

for (const { title, set, isNew } of CRASHES) {
  test(`a rewind that ends ${title} leaves the ${isNew ? 'new' : 'old'} state, whole, and the machine runs`, async (t) => {
    const rig = await makeStageRig(t);
    const next = random(3);
    const life = await rig.live();
    for (let seed = 0; seed < 10; seed++) await step(life, next, seed);
    const to = life.history.journal.newest;
    const wanted = await contents(life);
    for (let seed = 10; seed < 20; seed++) await step(life, next, seed);
    const before = await contents(life);
    const state = await stateOf(rig, life, to);
    // Everything is folded already, so that the next fold is the rewind's own.
    await life.history.foldNow('because');
    const { promise: reached, resolve } = Promise.withResolvers<void>();
    set(rig, life, () => {
      resolve();
      return new Promise<never>(() => undefined);
    });
    void life.rewinds.rewind(life.session, state, new Watched());
    await reached;
    await life.disks.close();
    for (const name of ['powerOff', 'powerOn']) Reflect.deleteProperty(rig.machine, name);

    const again = await rig.live();
    assert.equal(again.session.phase, 'rewinding');
    await again.rewinds.finish(again.session);
    assert.deepEqual(await contents(again), isNew ? wanted : before);
    assert.equal(rig.machine.isOn, true);
    assert.equal(again.registry.find('stage')?.phase, 'running');
    assert.equal(again.registry.find('stage')?.rewind, undefined);
    // Nothing that did not come about passes for the newest state.
    const points = (await rig.parts.catalog.points()).filter(({ machine }) => machine.name === 'stage');
    assert.equal(
      points.some(({ reason }) => reason.startsWith('rewound')),
      isNew,
    );
    // Every moment after it rests on what the disks really held.
    const moment = await step(again, next, 99);
    assert.deepEqual(await contentsAt(rig, again, await stateOf(rig, again, moment)), await contents(again));
    assert.deepEqual(await contentsAt(rig, again, await stateOf(rig, again, to)), wanted);
  });
}

test('a rewind that fails on its way lets the machine go on as it was', async (t) => {
  const rig = await makeStageRig(t);
  const life = await rig.live();
  const next = random(5);
  const to = await step(life, next, 1);
  await step(life, next, 2);
  const before = await contents(life);
  const watched = new Watched();
  watched.onEach = ({ done }) => {
    if (done === 1) watched.abort.abort();
  };
  const state = await stateOf(rig, life, to);
  await assert.rejects(life.rewinds.rewind(life.session, state, watched), (error) => hasCode(error, 'ABORTED'));
  assert.deepEqual(await contents(life), before);
  assert.deepEqual([rig.machine.isOn, life.registry.find('stage')?.phase], [true, 'running']);
});

test('the first write of a machine that was off begins a stretch, and none begins while its disks go elsewhere', async (t) => {
  const rig = await makeStageRig(t);
  const life = await rig.live();
  const { journal, log } = life.history;
  const next = random(13);
  const kinds = async (): Promise<boolean[]> =>
    (await journal.timeline({ buckets: 0 })).stretches.map(({ isOpen }) => isOpen);
  const first = await step(life, next, 1);
  assert.ok((journal.openStretch?.begin.sequence ?? 0) < first.sequence);
  await log.end('the machine was shut off');
  assert.deepEqual(await kinds(), [false]);
  const second = await step(life, next, 2);
  assert.equal((await journal.resolve({ sequence: second.sequence })).sequence, second.sequence);
  assert.deepEqual(await kinds(), [false, true]);
  await log.leave('its disks moved to production storage');
  const stray = await step(life, next, 3);
  await assert.rejects(journal.resolve({ sequence: stray.sequence }), (error) => hasCode(error, 'MOMENT_IN_GAP'));
  await assert.rejects(life.history.foldNow('because'), (error) => hasCode(error, 'DOMAIN_BUSY'));
  await log.begin();
  await step(life, next, 4);
  assert.deepEqual(await kinds(), [false, false, true]);
});

test('what was folded leaves the journal with its window', async (t) => {
  const clock = new TestClock();
  const rig = await makeStageRig(t, clock);
  const life = await rig.live();
  const { history } = life;
  const write = async (length: number, seed: number): Promise<void> => {
    await history.overlay.device(rig.point.disks[0] ?? assert.fail()).write(0, noise(length, seed));
    await history.foldNow('because');
    clock.ms += 2 * HOUR_MS;
    await history.journal.maintain();
  };
  await write(900_000, 1);
  const grown = history.journal.sizeBytes;
  await write(1000, 2);
  clock.ms += 25 * HOUR_MS;
  await write(1000, 3);
  await history.journal.maintain();
  assert.ok(grown > 900_000 && history.journal.sizeBytes < 100_000, `${grown}, then ${history.journal.sizeBytes}`);
  const now = await contents(life);
  await life.disks.close();
  assert.deepEqual(await contents(await rig.live()), now);
});

test('folds that are asked for at once follow one another, and none comes while the index is needed', async (t) => {
  const rig = await makeStageRig(t);
  const life = await rig.live();
  const next = random(11);
  const folds: Promise<RecoveryPoint>[] = [];
  for (let seed = 0; seed < 6; seed++) {
    await step(life, next, seed);
    folds.push(life.history.foldNow('because'));
  }
  const now = await contents(life);
  const places = (await Promise.all(folds)).map(({ journal }) => journal?.sequence ?? 0);
  assert.deepEqual(
    places,
    places.toSorted((a, b) => a - b),
  );
  assert.deepEqual(await contents(life), now);
  await step(life, next, 7);
  using folding = await life.history.holdFolding();
  await assert.rejects(life.history.foldNow('because'), (error) => hasCode(error, 'LOCKED'));
  assert.equal((await folding.foldNow('because')).id, life.history.base.id);
});

test('a machine that is stopped, moved, copied or another one is not rewound', async (t) => {
  const rig = await makeStageRig(t);
  const life = await rig.live();
  const state = await stateOf(rig, life, await step(life, random(5), 1));
  const refused = async (session: typeof life.session, wanted: typeof state, code: string): Promise<void> => {
    await assert.rejects(life.rewinds.rewind(session, wanted, new Watched()), { code });
  };
  await refused({ ...life.session, phase: 'kept' }, state, 'DOMAIN_WRONG_STATE');
  const migration = { place: { kind: 'pool', name: 'x' }, targets: [] } as const;
  await refused({ ...life.session, migration }, state, 'MIGRATION_UNFINISHED');
  await refused(life.session, { point: rig.point }, 'BAD_ARGUMENT');
  using _ = await life.history.holdFolding();
  await refused(life.session, state, 'LOCKED');
  assert.deepEqual(rig.machine.steps, []);
});

test('the log of an earlier version opens as it was, and what it holds can be recovered', async (t) => {
  const rig = await makeStageRig(t);
  const first = await rig.live();
  await first.disks.close();
  const directory = first.store.logDirectoryOf(first.session);
  await rm(first.store.directoryOf(first.session), { recursive: true });
  await first.store.put(first.session);
  const { keys } = rig.parts.repository;
  const log = await WriteLog.open(directory, { key: keys.logRoot, machineId: rig.point.machine.id });
  const data = noise(5000, 1);
  await log.append({ disk: 1, offset: 1000, data });
  await log.close();
  const life = await rig.live();
  const expected = noise(SIZES['vdb'] ?? 0, SIZES['vdb'] ?? 0);
  data.copy(expected, 1000);
  const now = await contents(life);
  assert.ok(now['vdb']?.equals(expected));
  const newest = await life.history.journal.resolve('newest');
  assert.deepEqual(await contentsAt(rig, life, await stateOf(rig, life, newest)), now);
});
