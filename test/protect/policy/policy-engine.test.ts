// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import {
  DAY_MS,
  HOUR_MS,
  MINUTE_MS,
  PolicySimulation,
  policyDocument,
  type SimulationOptions,
} from '../../support/policy-simulation.ts';
import { keptByReference } from '../../support/retention-reference.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: days of an appliance');
const RULE = { last: 3, hourly: 6, daily: 4 };

async function simulation(over: Partial<SimulationOptions> = {}): Promise<PolicySimulation> {
  const sim = new PolicySimulation({
    machines: 30,
    hosts: 3,
    policies: [policyDocument('quarter', { keep: RULE })],
    perHost: 2,
    perRepository: 4,
    startIso: '2026-11-01T00:00:00Z',
    quantumMs: 10_000,
    runMs: [10_000, 60_000],
    watched: 30,
    ...over,
  });
  await sim.engine.open();
  return sim;
}

/** The oldest newest point, in minutes. */
function oldestMinutes(sim: PolicySimulation, isMeant: (name: string) => boolean = () => true): number {
  const meant = [...sim.machines.values()].filter(({ selectable }) => isMeant(selectable.name));
  return Math.max(...meant.map(({ takenAtMs }) => sim.steadyMs - takenAtMs)) / MINUTE_MS;
}

function checkRetention(sim: PolicySimulation): void {
  for (const { history = [], points, retainedWallMs, selectable } of sim.machines.values()) {
    const judged = history.filter(({ timeMs }) => timeMs <= retainedWallMs);
    const kept = keptByReference(judged, RULE, retainedWallMs);
    const expected = history.filter(({ sequence, timeMs }) => kept.has(sequence) || timeMs > retainedWallMs);
    assert.deepEqual(points, expected, selectable.name);
  }
}

test('days without anything: no target is missed, no limit exceeded, and exactly what the rule says is kept', async () => {
  const sim = await simulation();
  let worst = 0;
  await sim.advance(HOUR_MS);
  await sim.advance(4 * DAY_MS, () => {
    worst = Math.max(worst, oldestMinutes(sim));
  });
  assert.ok(worst <= 22.5, `${worst} minutes`);
  assert.ok(sim.mostRunning.host <= 2 && sim.mostRunning.all <= 4);
  assert.ok(sim.runs >= 30 * 4 * 90);
  checkRetention(sim);
  assert.deepEqual([sim.records.size, sim.notices.size], [30, 0]);
});

test('machines that come are protected, and of those that go nothing stays', async () => {
  const sim = await simulation();
  await sim.advance(HOUR_MS);
  sim.add(30);
  const gone = [...sim.machines.keys()][0] ?? '';
  sim.machines.delete(gone);
  await sim.advance(HOUR_MS);
  assert.ok([...sim.machines.values()].every(({ runs }) => runs > 2));
  assert.equal(sim.engine.states.length, 30);
  assert.equal(sim.records.has(gone), false);
});

test('a machine that always fails is tried ever more seldom, and delays nobody', async () => {
  const sim = await simulation();
  sim.failing.set('vm3', () => new ApplianceError('LIBVIRT_FAILED', 'broken'));
  await sim.advance(DAY_MS);
  const attempts = sim.starts.filter(({ name }) => name === 'vm3');
  assert.ok(attempts.length >= 5 && attempts.length <= 12, `${attempts.length} attempts`);
  assert.ok(oldestMinutes(sim, (name) => name !== 'vm3') <= 22.5);
  sim.failing.clear();
  await sim.advance(7 * HOUR_MS);
  assert.ok(oldestMinutes(sim) <= 22.5);
});

test('a hypervisor that is gone for a day is asked now and then, and its machines are caught up once', async () => {
  const sim = await simulation();
  await sim.advance(2 * HOUR_MS);
  sim.gone.add('qemu+ssh://host1/system');
  await sim.advance(10 * MINUTE_MS);
  const [starts, reads] = [sim.starts.length, sim.inventoryReads];
  await sim.advance(DAY_MS);
  const isThere = (name: string): boolean => Number(name.slice(2)) % 3 !== 1;
  assert.ok(
    sim.starts.slice(starts).every(({ name }) => isThere(name)),
    'nothing is begun on it',
  );
  assert.ok(
    sim.inventoryReads - reads <= 2 * 722 + 400,
    'the others are read as before, and it at most every four minutes',
  );
  assert.ok(oldestMinutes(sim, isThere) <= 22.5, 'the others do not notice');
  assert.equal(sim.engine.states.length, 30, 'and its machines are not forgotten');
  sim.gone.clear();
  const back = sim.starts.length;
  await sim.advance(14 * MINUTE_MS);
  const caughtUp = sim.starts.slice(back).filter(({ name }) => !isThere(name));
  assert.deepEqual([caughtUp.length, new Set(caughtUp.map(({ name }) => name)).size], [10, 10]);
  await sim.advance(HOUR_MS);
  assert.ok(oldestMinutes(sim) <= 22.5);
});

test('a full repository is tried by one run at a time, and all is well when it has room again', async () => {
  const sim = await simulation();
  await sim.advance(2 * HOUR_MS);
  sim.isFull = true;
  await sim.advance(30 * MINUTE_MS);
  const before = sim.starts.length;
  await sim.advance(6 * HOUR_MS);
  assert.ok(sim.starts.length - before <= 40, `${sim.starts.length - before} attempts in six hours`);
  sim.isFull = false;
  await sim.advance(45 * MINUTE_MS);
  assert.ok(oldestMinutes(sim) <= 22.5);
});

test('a clock that leaps ahead makes no storm and deletes nothing, and is believed again once it is right', async () => {
  const sim = await simulation({ policies: [policyDocument('within', { keep: { within: '1d' } })] });
  await sim.advance(3 * DAY_MS);
  const [starts, deleted] = [sim.starts.length, sim.deletions];
  sim.wallMs += 400 * DAY_MS;
  await sim.advance(10 * MINUTE_MS);
  assert.ok(sim.starts.length - starts <= 30, 'each machine at most once in ten minutes');
  await sim.advance(DAY_MS);
  assert.equal(sim.deletions, deleted, 'the points of the future let none of the past go');
  assert.ok(oldestMinutes(sim) <= 22.5);
  sim.wallMs -= 400 * DAY_MS;
  await sim.advance(2 * HOUR_MS);
  assert.ok(oldestMinutes(sim) <= 22.5, 'and nobody waits for the clock to come there again');
  assert.ok(sim.deletions > deleted);
  for (const { history = [], points } of sim.machines.values()) {
    const past = history.filter(({ timeMs }) => timeMs <= sim.wallMs && timeMs > sim.wallMs - DAY_MS + 2 * HOUR_MS);
    assert.ok(
      past.every((point) => points.includes(point)),
      'what a day has is there',
    );
  }
});

test('a leap that stays is believed after seven days that were lived through', async () => {
  const sim = await simulation({
    machines: 3,
    quantumMs: 60_000,
    policies: [policyDocument('h', { schedule: 'hourly', keep: { last: 2 } })],
  });
  await sim.advance(DAY_MS);
  sim.wallMs += 90 * DAY_MS;
  await sim.advance(6.5 * DAY_MS);
  const deleted = sim.deletions;
  assert.equal(sim.isClockInDoubt, true);
  await sim.advance(DAY_MS);
  assert.equal(sim.isClockInDoubt, false);
  assert.ok(sim.deletions > deleted);
});

test('a process that ends and begins anew goes on where it was, and catches up once after days', async () => {
  const sim = await simulation({ policies: [policyDocument('nightly', { schedule: 'daily 22:00' })] });
  await sim.advance(23 * HOUR_MS);
  assert.equal(sim.runs, 30);
  await sim.restart();
  await sim.advance(HOUR_MS);
  assert.equal(sim.runs, 30, 'what ran this evening does not run again');
  sim.bootId = 'second';
  await sim.restart(3.5 * DAY_MS);
  await sim.advance(2 * HOUR_MS);
  assert.equal(sim.runs, 60, 'three evenings were missed, and are caught up by one run');
  await sim.advance(10 * HOUR_MS);
  assert.equal(sim.runs, 90, 'and the next evening is on time');
});

test('a run that makes no progress is ended, and its place is free again', async () => {
  const sim = await simulation({ machines: 3, hosts: 1, perHost: 1, runMs: [10_000, 10_000] });
  await sim.advance(HOUR_MS);
  const before = sim.runs;
  sim.hanging.add('vm1');
  await sim.advance(6 * HOUR_MS);
  assert.ok(sim.runs - before > 10);
  assert.ok([...sim.notices].some((sentence) => sentence.includes('vm1 made no progress')));
});

test('a point that lies ahead of the clock does not keep its machine waiting', async () => {
  const sim = await simulation({ machines: 2, hosts: 1 });
  const [first] = sim.machines.values();
  first?.points.push({ sequence: ++first.sequence, timeMs: sim.wallMs + 300 * DAY_MS });
  await sim.advance(HOUR_MS);
  assert.ok((first?.runs ?? 0) >= 4);
});
