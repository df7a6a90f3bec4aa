// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  dueAt,
  type PlanInput,
  type PlanMachine,
  planRuns,
  urgencyOf,
} from '../../../appliance/protect/policy/plan-runs.ts';
import { type PolicyDocument, readPolicy } from '../../../appliance/protect/policy/policy.ts';
import { retryDelayMs } from '../../../appliance/protect/policy/retry.ts';
import { policyDocument } from '../../support/policy-simulation.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: what runs next');
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const NOON = Date.parse('2026-11-21T12:00:00Z');
const STEADY = 900 * HOUR_MS;

function policy(over: Partial<PolicyDocument> = {}): PlanMachine['policy'] {
  return readPolicy(policyDocument('p', over));
}

const QUARTER = policy();
const NIGHTLY = policy({ schedule: 'daily 22:00', timeZone: 'Europe/Berlin' });
const NIGHT_ONLY = policy({ window: '22:00-06:00' });

function machine(id: string, over: Partial<PlanMachine> = {}): PlanMachine {
  return {
    id,
    name: id,
    host: 'h',
    policy: QUARTER,
    newestAgeMs: 20 * MINUTE_MS,
    runAgeMs: null,
    seenAgeMs: HOUR_MS,
    failure: null,
    isProtectionDue: false,
    isRunning: false,
    ...over,
  };
}

function input(machines: readonly PlanMachine[], over: Partial<PlanInput> = {}): PlanInput {
  return {
    machines,
    hosts: new Map([['h', { running: 0, problem: null }]]),
    limits: { perHost: 2, perRepository: 3 },
    running: 0,
    repositoryRetryAtMs: null,
    wallMs: NOON,
    steadyMs: STEADY,
    ...over,
  };
}

function names(machines: readonly PlanMachine[], over: Partial<PlanInput> = {}): string[] {
  return planRuns(input(machines, over)).runs.map(({ id }) => id);
}

function whyNot(one: PlanMachine, over: Partial<PlanInput> = {}): string | undefined {
  return planRuns(input([one], over)).waiting[0]?.reason.kind;
}

const failure = { attempts: 3, retryAtMs: STEADY + MINUTE_MS, code: 'DOMAIN_BUSY', message: 'busy' } as const;

test('the most overdue machine comes first, measured by its own target', () => {
  const strict = policy({ rpo: '5m', schedule: 'every 5m' });
  const machines = [
    machine('a', { newestAgeMs: 30 * MINUTE_MS }),
    machine('b', { newestAgeMs: 16 * MINUTE_MS, policy: strict }),
    machine('c', { newestAgeMs: 40 * MINUTE_MS }),
  ];
  assert.deepEqual(names(machines, { limits: { perHost: 9, perRepository: 9 } }), ['b', 'c', 'a']);
});

test('a machine without any point counts as overdue by one target from the beginning', () => {
  const machines = [
    machine('old', { newestAgeMs: 22 * MINUTE_MS }),
    machine('new', { newestAgeMs: null, seenAgeMs: 0 }),
    machine('late', { newestAgeMs: 60 * MINUTE_MS }),
  ];
  assert.deepEqual(names(machines, { limits: { perHost: 9, perRepository: 9 } }), ['late', 'new', 'old']);
});

test('a machine that failed waits for its next attempt, and nobody waits for it', () => {
  const broken = machine('broken', { newestAgeMs: 99 * HOUR_MS, failure });
  assert.deepEqual(names([broken, machine('well')]), ['well']);
  assert.equal(whyNot(broken), 'retry');
  assert.deepEqual(names([broken], { steadyMs: STEADY + MINUTE_MS }), ['broken']);
});

test('limits of host and repository count what runs already', () => {
  const machines = ['a', 'b', 'c', 'd'].map((id) => machine(id));
  assert.deepEqual(names(machines), ['a', 'b']);
  assert.deepEqual(names(machines, { hosts: new Map([['h', { running: 1, problem: null }]]), running: 1 }), ['a']);
  assert.deepEqual(names(machines, { running: 3 }), []);
  const elsewhere = [...machines, machine('z', { host: 'i' }), machine('y', { host: 'i' })];
  assert.deepEqual(names(elsewhere), ['a', 'b', 'y']);
});

test('a window, a hypervisor that is gone, and a full repository are waited for', () => {
  assert.equal(whyNot(machine('a', { policy: NIGHT_ONLY })), 'window');
  assert.deepEqual(names([machine('a', { policy: NIGHT_ONLY })], { wallMs: Date.parse('2026-11-21T23:00Z') }), ['a']);
  assert.equal(whyNot(machine('a'), { hosts: new Map([['h', { running: 0, problem: 'gone' }]]) }), 'host');
  assert.equal(whyNot(machine('a'), { repositoryRetryAtMs: STEADY + 1 }), 'repository');
});

test('a repository that was full is tried with one run', () => {
  const machines = ['a', 'b', 'c'].map((id) => machine(id));
  assert.deepEqual(names(machines, { repositoryRetryAtMs: STEADY }), ['a']);
  assert.deepEqual(names(machines, { repositoryRetryAtMs: STEADY, running: 1 }), []);
});

test('an evening that was missed is caught up once', () => {
  const missed = machine('a', { policy: NIGHTLY, runAgeMs: 86 * HOUR_MS, newestAgeMs: 86 * HOUR_MS });
  assert.deepEqual(names([missed]), ['a']);
  const caughtUp = { ...missed, runAgeMs: MINUTE_MS, newestAgeMs: MINUTE_MS };
  assert.equal(whyNot(caughtUp), 'not-due');
  assert.equal(dueAt(caughtUp, input([])), STEADY + 9 * HOUR_MS, 'and the next evening is on time');
});

test('a new machine waits for its first evening, and a point that was taken by hand does not stand for one', () => {
  assert.equal(whyNot(machine('a', { policy: NIGHTLY, newestAgeMs: null, seenAgeMs: HOUR_MS })), 'not-due');
  const late = { wallMs: Date.parse('2026-11-21T21:05:00Z') };
  assert.deepEqual(names([machine('a', { policy: NIGHTLY, newestAgeMs: null, seenAgeMs: HOUR_MS })], late), ['a']);
  assert.deepEqual(
    names([machine('a', { policy: NIGHTLY, newestAgeMs: 10 * MINUTE_MS, runAgeMs: 23 * HOUR_MS })], late),
    ['a'],
  );
});

test('a clock that is set forward makes nobody overdue', () => {
  const machines = [
    machine('quarter', { newestAgeMs: 5 * MINUTE_MS }),
    machine('night', { policy: NIGHTLY, runAgeMs: 10 * HOUR_MS, newestAgeMs: 10 * HOUR_MS }),
  ];
  for (const days of [1, 30, 3650]) {
    const leapt = input(machines, { wallMs: NOON + days * 24 * HOUR_MS });
    assert.deepEqual(planRuns(leapt).runs, [], `${days} days`);
    assert.ok(
      machines.every((one) => dueAt(one, leapt) <= STEADY + 25 * HOUR_MS),
      'and nobody waits longer than before',
    );
  }
});

test('a clock that is set back lets nobody wait, and doubles no evening', () => {
  const justRun = machine('night', { policy: NIGHTLY, runAgeMs: 20 * MINUTE_MS, newestAgeMs: 20 * MINUTE_MS });
  for (const backMs of [1, 1000, 30 * MINUTE_MS, HOUR_MS]) {
    const wallMs = Date.parse('2026-11-21T21:20:00Z') - backMs;
    assert.equal(whyNot(justRun, { wallMs }), 'not-due', `${backMs} ms`);
    const quarter = machine('quarter', { newestAgeMs: 15 * MINUTE_MS });
    assert.deepEqual(names([justRun, quarter], { wallMs: NOON - backMs * 1000 }), ['quarter']);
  }
  const yearBack = input([justRun], { wallMs: NOON - 365 * 24 * HOUR_MS });
  assert.ok(dueAt(justRun, yearBack) <= STEADY + 25 * HOUR_MS);
});

test('of continuous protection only the beginning is a run', () => {
  const { schedule: _, ...document } = policyDocument('c', { mode: 'continuous' });
  const one = machine('a', { policy: readPolicy(document), isProtectionDue: true });
  assert.deepEqual(names([one]), ['a']);
  assert.equal(whyNot({ ...one, isProtectionDue: false }), 'not-due');
});

const anyMachine = fc.record({
  host: fc.constantFrom('h', 'i', 'down'),
  policy: fc.constantFrom(QUARTER, NIGHTLY, NIGHT_ONLY),
  newestAgeMs: fc.option(fc.integer({ min: 0, max: 60 * HOUR_MS })),
  runAgeMs: fc.option(fc.integer({ min: 0, max: 60 * HOUR_MS })),
  seenAgeMs: fc.integer({ min: 0, max: 90 * HOUR_MS }),
  isRunning: fc.boolean(),
  retryInMs: fc.option(fc.integer({ min: -HOUR_MS, max: HOUR_MS })),
});

test('whatever there is: no limit is exceeded, nobody runs that must not, and the less overdue waits', () => {
  fc.assert(
    fc.property(
      fc.array(anyMachine, { maxLength: 30 }),
      fc.record({ perHost: fc.integer({ min: 1, max: 4 }), perRepository: fc.integer({ min: 1, max: 6 }) }),
      fc.integer({ min: 0, max: 48 * HOUR_MS }),
      fc.integer(),
      (wishes, limits, laterMs, seed) => {
        const machines = wishes.map(({ retryInMs, ...over }, n) =>
          machine(`m${n}`, {
            ...over,
            failure: retryInMs === null ? null : { ...failure, retryAtMs: STEADY + retryInMs },
          }),
        );
        const running = machines.filter(({ isRunning }) => isRunning);
        const at = (host: string): number => running.filter((one) => one.host === host).length;
        const hosts = new Map(
          ['h', 'i', 'down'].map((uri) => [uri, { running: at(uri), problem: uri === 'down' ? 'gone' : null }]),
        );
        const over = { limits, hosts, running: running.length, wallMs: NOON + laterMs };
        const { runs, waiting, wakeAtMs } = planRuns(input(machines, over));

        assert.equal(new Set([...runs, ...waiting.map((one) => one.machine)]).size, machines.length, 'each once');
        assert.ok(runs.length === 0 || running.length + runs.length <= limits.perRepository);
        for (const uri of ['h', 'i']) {
          const begun = runs.filter(({ host }) => host === uri).length;
          assert.ok(begun === 0 || at(uri) + begun <= limits.perHost);
        }
        for (const one of runs) {
          assert.ok(!one.isRunning && one.host !== 'down' && (one.failure?.retryAtMs ?? 0) <= STEADY);
          assert.notEqual(one.policy.window?.isOpen(NOON + laterMs), false);
        }
        for (const { machine: one, reason } of waiting) {
          if (reason.kind !== 'host-limit' && reason.kind !== 'repository-limit') continue;
          const rivals = reason.kind === 'host-limit' ? runs.filter(({ host }) => host === one.host) : runs;
          assert.ok(
            rivals.every((rival) => urgencyOf(rival) >= urgencyOf(one)),
            'the most overdue goes first',
          );
        }
        assert.ok(wakeAtMs >= STEADY);
        const turned = [...machines].sort((a, b) => (hash(a.id, seed) < hash(b.id, seed) ? -1 : 1));
        assert.deepEqual(planRuns(input(turned, over)).runs, runs, 'their order does not matter');
      },
    ),
    { numRuns: 400 },
  );
});

test('attempts come at growing distances, spread a little, and never stop', () => {
  for (const retry of ['transient', 'after-repair', 'never'] as const) {
    const delays = Array.from({ length: 40 }, (_, n) => retryDelayMs(retry, n + 1, 'web'));
    assert.ok(delays.every((ms) => Number.isFinite(ms) && ms >= 20_000 && ms <= 29 * HOUR_MS));
    assert.ok((delays[4] ?? 0) > (delays[0] ?? 0));
  }
  const spread = new Set(Array.from({ length: 100 }, (_, n) => retryDelayMs('transient', 1, `vm${n}`)));
  assert.ok(spread.size > 90 && Math.min(...spread) >= 24_000 && Math.max(...spread) <= 36_000);
  assert.equal(retryDelayMs('transient', 3, 'web'), retryDelayMs('transient', 3, 'web'));
});

function hash(id: string, seed: number): number {
  return (Number(id.slice(1)) * 7919 + Math.abs(seed)) % 31;
}
