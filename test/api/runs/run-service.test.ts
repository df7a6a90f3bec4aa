// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { localPrincipal, type Principal } from '../../../appliance/access/principal.ts';
import type { OperationContext, OperationName } from '../../../appliance/api/operations.ts';
import { MAX_REMEMBERED_RUNS, RunHistory } from '../../../appliance/api/runs/run-history.ts';
import { MAX_QUEUED_RUNS, MAX_RUNNING_RUNS, RunService } from '../../../appliance/api/runs/run-service.ts';
import type { RunReport } from '../../../appliance/api/schemas/runs.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { memoryRunRecords } from '../../support/memory-run-records.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';

const test = suite('runs');

type Work = (context: OperationContext, params: Readonly<Record<string, unknown>>) => Promise<unknown>;

interface Rig {
  readonly service: RunService;
  readonly kept: Map<string, RunReport>;
  readonly notices: string[];
  readonly start: (
    params?: Readonly<Record<string, unknown>>,
    operation?: OperationName,
  ) => ReturnType<RunService['start']>;
}

function rig(work: Work, kept: Map<string, RunReport> = new Map()): Rig {
  const notices: string[] = [];
  const service = new RunService({
    perform: (_operation, params, context) => work(context, params),
    records: memoryRunRecords(kept),
    onNotice: (sentence) => void notices.push(sentence),
    onDefect: () => undefined,
  });
  const principal = localPrincipal();
  return {
    service,
    kept,
    notices,
    start: (params = { target: 'web' }, operation = 'backup') => service.start({ operation, params, principal }),
  };
}

/** Runs until it is aborted. */
const endless: Work = ({ signal }) =>
  new Promise((_resolve, reject) => {
    const stop = (): void => reject(new ApplianceError('ABORTED', 'stopped at a safe place'));
    signal.addEventListener('abort', stop);
    if (signal.aborted) stop();
  });

const OTHER: Principal = { kind: 'user', id: 'u1', name: 'ann', role: 'admin', machines: null };

test('a run tells who started what, its progress, its notices and its result, and is remembered so', async () => {
  const { service, start, kept } = rig(async (context) => {
    context.onProgress({ phase: 'reading', done: 1, total: 2, unit: 'items' });
    context.onNotice('slow today');
    return { machine: 'web', machineId: 'id-1', point: '3f2a' };
  });
  const run = start();
  await run.ended;
  assert.equal(await service.stop({ deadlineMs: 1_000 }), true);
  const report = await service.show(run.id);
  const { createdAt, startedAt, endedAt, startedBy, ...rest } = report;
  assert.deepEqual(rest, {
    id: run.id,
    operation: 'backup',
    machine: 'web',
    machineId: 'id-1',
    state: 'succeeded',
    progress: { phase: 'reading', done: 1, total: 2, unit: 'items' },
    error: null,
    params: { target: 'web' },
    notices: ['slow today'],
    result: { machine: 'web', machineId: 'id-1', point: '3f2a' },
  });
  assert.equal(startedBy.kind, 'local');
  assert.ok(createdAt <= (startedAt ?? '') && (startedAt ?? '') <= (endedAt ?? ''));
  assert.deepEqual(kept.get(run.id), report);
});

test('more runs than there may be wait in order, and more than may wait are refused', async () => {
  const order: unknown[] = [];
  const { service, start } = rig((context, params) => {
    order.push(params['target']);
    return endless(context, params);
  });
  const runs = Array.from({ length: MAX_RUNNING_RUNS + MAX_QUEUED_RUNS }, (_, index) => start({ target: index }));
  assert.throws(() => start(), { code: 'TOO_BUSY' });
  assert.equal(runs.filter(({ state }) => state === 'running').length, MAX_RUNNING_RUNS);
  runs[0]?.cancel('enough');
  await runs[0]?.ended;
  while (order.length === MAX_RUNNING_RUNS) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order.at(-1), MAX_RUNNING_RUNS);
  assert.equal(await service.stop({ deadlineMs: 5_000 }), true);
  for (const run of runs) assert.equal(run.state, 'cancelled');
  assert.equal(order.length, MAX_RUNNING_RUNS + 1);
});

test('a queued run that is cancelled never begins', async () => {
  let begun = 0;
  const { service, start } = rig((context, params) => {
    begun += 1;
    return endless(context, params);
  });
  for (let index = 0; index < MAX_RUNNING_RUNS; index += 1) start();
  const queued = start();
  assert.equal(queued.state, 'queued');
  const report = await service.cancel(queued.id, OTHER);
  assert.deepEqual([report.state, report.startedAt, report.error?.code], ['cancelled', null, 'ABORTED']);
  assert.match(report.error?.message ?? '', /cancelled by ann/);
  await service.stop({ deadlineMs: 5_000 });
  assert.equal(begun, MAX_RUNNING_RUNS);
});

test('a run that ends in spite of being cancelled has succeeded; one that has ended stays as it is', async () => {
  const { service, start } = rig(
    ({ signal }) =>
      new Promise((resolve) => {
        signal.addEventListener('abort', () => resolve({ point: 'x' }));
      }),
  );
  const run = start();
  assert.equal((await service.cancel(run.id, OTHER)).state, 'succeeded');
  assert.equal((await service.cancel(run.id, OTHER)).state, 'succeeded');
});

test('a run that its process did not outlive has failed with INTERRUPTED, once', async () => {
  const kept = new Map<string, RunReport>();
  const before = rig(endless, kept);
  const running = before.start();
  // The history is written in the background; what a killed process leaves is what was written.
  while (kept.get(running.id)?.state !== 'running') await new Promise((resolve) => setImmediate(resolve));
  const left = new Map(structuredClone([...kept]));
  const after = rig(endless, left);
  await after.service.load();
  const report = await after.service.show(running.id);
  assert.deepEqual([report.state, report.error?.code, report.params], ['failed', 'INTERRUPTED', { target: 'web' }]);
  assert.equal(left.get(running.id)?.state, 'failed');
  const { endedAt } = await rigShow(left, running.id);
  assert.equal(endedAt, report.endedAt);
  await before.service.stop({ deadlineMs: 1_000 });
});

async function rigShow(kept: Map<string, RunReport>, id: string): Promise<RunReport> {
  const { service } = rig(endless, kept);
  return service.show(id);
}

test('the list is newest first, with those that run, and can be cut', async () => {
  const { service, start } = rig(async () => ({}));
  const runs = [];
  for (let index = 0; index < 5; index += 1) {
    const run = start({ target: `m${index}` });
    await run.ended;
    runs.push(run);
  }
  const listed = await service.list();
  assert.deepEqual(
    listed.map(({ id }) => id),
    runs.map(({ id }) => id).reverse(),
  );
  assert.equal((await service.list(2)).length, 2);
  assert.equal('result' in (listed[0] ?? {}), false);
});

test('the beginning of an id is enough, when only one begins so', async () => {
  const { service, start } = rig(async () => ({}));
  const run = start();
  await run.ended;
  assert.equal((await service.show(run.id.slice(0, 6))).id, run.id);
  for (const id of ['', 'ab', 'zzzzzz', '0'.repeat(16), '../x', '__proto__'])
    await rejectsWith(service.show(id), 'RUN_NOT_FOUND');
});

test('very many notices are kept in part, and say so', async () => {
  const { service, start } = rig(async ({ onNotice }) => {
    for (let index = 1; index <= 1_000; index += 1) onNotice(`notice ${index}`);
    return {};
  });
  const run = start();
  await run.ended;
  const { notices } = await service.show(run.id);
  assert.equal(notices.length, 201);
  assert.deepEqual(
    [notices[0], notices[100], notices.at(-1)],
    ['notice 1', '(800 notices are not kept)', 'notice 1000'],
  );
  assert.deepEqual(
    run.notices().map(({ number, notice }) => notice === `notice ${number}`),
    run.notices().map(() => true),
  );
});

test('a history that cannot be written lets runs go on, and is written later', async () => {
  const kept = new Map<string, RunReport>();
  const records = memoryRunRecords(kept);
  let isBroken = true;
  const problems: unknown[] = [];
  const history = new RunHistory(
    { ...records, put: (id, run) => (isBroken ? Promise.reject(new Error('the disk is full')) : records.put(id, run)) },
    (error) => problems.push(error),
  );
  const { start, service } = rig(async () => ({}));
  const run = start();
  await run.ended;
  history.save(run.report());
  await history.settled();
  assert.deepEqual([kept.size, problems.length], [0, 1]);
  assert.equal((await history.get(run.id))?.state, 'succeeded');
  isBroken = false;
  history.save({ ...run.report(), id: 'another' });
  await history.settled();
  assert.deepEqual([...kept.keys()].toSorted(), [run.id, 'another'].toSorted());
  await service.stop({ deadlineMs: 1_000 });
});

test('the oldest runs are forgotten when there are too many, and those that go on are not', async () => {
  const { start } = rig(async () => ({}));
  const sample = start();
  await sample.ended;
  const kept = new Map<string, RunReport>();
  const history = new RunHistory(memoryRunRecords(kept), () => undefined);
  history.save({ ...sample.report(), id: 'goes-on', endedAt: null });
  for (let index = 0; index < MAX_REMEMBERED_RUNS + 10; index += 1)
    history.save({ ...sample.report(), id: `r${index}` });
  await history.settled();
  assert.equal(kept.size, MAX_REMEMBERED_RUNS);
  assert.deepEqual([kept.has('goes-on'), kept.has('r10'), kept.has('r11')], [true, false, true]);
});

test('a result that is too large to be kept is said to be', async () => {
  const { kept, service, start } = rig(async () => ({ findings: 'x'.repeat(300_000) }));
  const run = start();
  await run.ended;
  await service.stop({ deadlineMs: 1_000 });
  assert.deepEqual(
    [kept.get(run.id)?.result, kept.get(run.id)?.notices],
    [null, ['the result was too large to be kept']],
  );
});
