// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EventHub } from '../../../appliance/api/events/event-hub.ts';
import type { Figures } from '../../../appliance/api/metrics/figures.ts';
import { MAX_MACHINE_SERIES } from '../../../appliance/api/metrics/metric-table.ts';
import { Metrics } from '../../../appliance/api/metrics/metrics.ts';
import { RunService } from '../../../appliance/api/runs/run-service.ts';
import { machineFigures } from '../../../appliance/app/figures.ts';
import type { Clock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { memoryRunRecords } from '../../support/memory-run-records.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('metrics');
const PAGE: string = join(import.meta.dirname, '../../../docs/metrics.md');

const FIGURES: Figures = {
  machines: [
    { id: 'a1', name: 'db "1"', points: 3, lastPointMs: 1_700_000_000_000, rpoMs: 1_500, protection: 'protected' },
    { id: 'b2', name: 'web', points: 0, lastPointMs: null, rpoMs: null, protection: 'seeding' },
  ],
  repository: {
    points: 3,
    logicalBytes: 400,
    uniqueBytes: 200,
    storedBytes: 100,
    freeBytes: 900,
    totalBytes: 1_000,
    growthBytesPerDay: 10,
    daysUntilFull: null,
    findings: 2,
  },
  chores: { collection: { lastMs: 1_700_000_001_000, failures: 0 }, scrub: { lastMs: null, failures: 3 } },
  nbd: {
    exports: 1,
    connections: 2,
    requests: { read: 10, write: 5 },
    errors: 1,
    bytesRead: 4096,
    bytesWritten: 512,
    latencyBoundsMs: [1, 10],
    latency: { read: { classes: [3, 2, 1], sumMs: 60 } },
  },
};

interface Scene {
  readonly metrics: Metrics;
  readonly hub: EventHub;
  nowMs: number;
  asked: number;
}

function open(t: TestContext, figures: () => Promise<Figures> = async () => FIGURES): Scene {
  const hub = new EventHub();
  const scene = { hub, nowMs: 0, asked: 0 };
  const clock: Clock = { nowMs: () => scene.nowMs, elapsedMs: () => scene.nowMs };
  const runService = new RunService({
    perform: async () => undefined,
    records: memoryRunRecords(),
    onNotice: assert.fail,
    onDefect: assert.fail,
  });
  const counted = (): Promise<Figures> => {
    scene.asked += 1;
    return figures();
  };
  const parts = { figures: counted, eventHub: hub, runService, version: '1.2.3', clock };
  return Object.assign(scene, { metrics: t.use(new Metrics(parts)) });
}

async function linesOf(metrics: Metrics, name: string): Promise<readonly string[]> {
  return (await metrics.text()).split('\n').filter((line) => line.startsWith(name) && !line.startsWith('#'));
}

test('machines, repository and NBD are told as the figures have them; what is not known is missing', async (t) => {
  const { metrics } = open(t);
  assert.deepEqual(await linesOf(metrics, 'understudy_machine_'), [
    'understudy_machine_rpo_seconds{machine="db \\"1\\"",machine_id="a1"} 1.5',
    'understudy_machine_last_point_timestamp_seconds{machine="db \\"1\\"",machine_id="a1"} 1700000000',
    'understudy_machine_points{machine="db \\"1\\"",machine_id="a1"} 3',
    'understudy_machine_points{machine="web",machine_id="b2"} 0',
    'understudy_machine_protection{machine="db \\"1\\"",machine_id="a1",state="protected"} 1',
    'understudy_machine_protection{machine="web",machine_id="b2",state="seeding"} 1',
  ]);
  assert.deepEqual(await linesOf(metrics, 'understudy_repository_free_bytes'), [
    'understudy_repository_free_bytes 900',
  ]);
  assert.deepEqual(await linesOf(metrics, 'understudy_repository_days_until_full'), []);
  assert.deepEqual(await linesOf(metrics, 'understudy_nbd_request_duration_seconds'), [
    'understudy_nbd_request_duration_seconds_bucket{command="read",le="0.001"} 3',
    'understudy_nbd_request_duration_seconds_bucket{command="read",le="0.01"} 5',
    'understudy_nbd_request_duration_seconds_bucket{command="read",le="+Inf"} 6',
    'understudy_nbd_request_duration_seconds_sum{command="read"} 0.06',
    'understudy_nbd_request_duration_seconds_count{command="read"} 6',
  ]);
  assert.deepEqual(await linesOf(metrics, 'understudy_housekeeping_'), [
    'understudy_housekeeping_last_timestamp_seconds{chore="collection"} 1700000001',
    'understudy_housekeeping_failures{chore="collection"} 0',
    'understudy_housekeeping_failures{chore="scrub"} 3',
  ]);
});

test('runs count when they end, with their duration', async (t) => {
  const { metrics, hub } = open(t);
  const run = { operation: 'backup', startedAt: '2026-11-21T12:00:00.000Z', endedAt: null };
  hub.publish('run', { ...run, state: 'running' });
  hub.publish('run', { ...run, state: 'succeeded', endedAt: '2026-11-21T12:00:30.000Z' });
  hub.publish('run', { ...run, startedAt: null, state: 'cancelled', endedAt: '2026-11-21T12:00:30.000Z' });
  hub.publish('points', { operation: 'backup' });
  assert.deepEqual(await linesOf(metrics, 'understudy_runs_ended_total'), [
    'understudy_runs_ended_total{operation="backup",state="succeeded"} 1',
    'understudy_runs_ended_total{operation="backup",state="cancelled"} 1',
  ]);
  const [sum, count] = (await linesOf(metrics, 'understudy_run_duration_seconds_')).slice(-2);
  assert.equal(sum, 'understudy_run_duration_seconds_sum{operation="backup"} 30');
  assert.equal(count, 'understudy_run_duration_seconds_count{operation="backup"} 1');
  assert.deepEqual(await linesOf(metrics, 'understudy_runs{'), [
    'understudy_runs{state="queued"} 0',
    'understudy_runs{state="running"} 0',
  ]);
});

test('the process tells of its memory, its files and its main loop', async (t) => {
  const { metrics } = open(t);
  const value = async (name: string): Promise<number> => Number((await linesOf(metrics, name))[0]?.split(' ').at(-1));
  assert.ok((await value('understudy_process_memory_bytes{kind="resident"}')) > 1e6);
  const files = await value('understudy_process_open_files ');
  assert.ok(files > 3 && files < (await value('understudy_process_open_files_limit')));
  assert.ok((await value('understudy_event_loop_delay_seconds{quantile="0.99"}')) >= 0);
  assert.equal((await linesOf(metrics, 'understudy_build_info'))[0], 'understudy_build_info{version="1.2.3"} 1');
});

test('figures are gathered once for all metrics, and not anew for a while; a failure is not kept', async (t) => {
  let isBroken = false;
  const scene = open(t, async () => {
    if (isBroken) throw new ApplianceError('CATALOG_DAMAGED', 'x');
    return FIGURES;
  });
  await scene.metrics.text();
  await scene.metrics.text();
  assert.equal(scene.asked, 1);
  scene.nowMs += 5_000;
  isBroken = true;
  await rejectsWith(scene.metrics.text(), 'CATALOG_DAMAGED');
  isBroken = false;
  await scene.metrics.text();
  assert.equal(scene.asked, 3);
});

test('with very many machines the lines are bounded', async (t) => {
  const machines = Array.from({ length: MAX_MACHINE_SERIES + 500 }, (_, n) => ({
    id: `id-${n}`,
    name: `machine-${n}`,
    points: 1,
    lastPointMs: 0,
    rpoMs: 1,
    protection: 'none',
  }));
  const { metrics } = open(t, async () => ({ ...FIGURES, machines }));
  assert.equal((await linesOf(metrics, 'understudy_machine_points')).length, MAX_MACHINE_SERIES);
  assert.deepEqual(await linesOf(metrics, 'understudy_machines'), [`understudy_machines ${machines.length}`]);
});

test('docs/metrics.md names every metric with its type and labels, and no other', async (t) => {
  const ended = '2026-11-21T12:00:30.000Z';
  const daysUntilFull = 3;
  const all = open(t, async () => ({ ...FIGURES, repository: { ...FIGURES.repository, daysUntilFull } }));
  all.hub.publish('run', { operation: 'gc', state: 'failed', startedAt: ended, endedAt: ended });
  const text = await all.metrics.text();
  const found = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => {
    const labels = new Set<string>();
    const line = new RegExp(`^${name}(?:_bucket|_sum|_count)?\\{(.*)\\} `, 'gm');
    for (const [, inside = ''] of text.matchAll(line)) {
      for (const [, label = ''] of inside.matchAll(/(\w+)="/g)) if (label !== 'le') labels.add(label);
    }
    return `${name} ${type} ${[...labels].sort().join(' ')}`.trim();
  });
  const documented = [...readFileSync(PAGE, 'utf8').matchAll(/^\| `(understudy_\w+)` \| (\w+) \|([^|]*)\|/gm)].map(
    ([, name, type, labels = '']) => {
      const names = [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label).sort();
      return `${name} ${type} ${names.join(' ')}`.trim();
    },
  );
  assert.deepEqual(documented.toSorted(), found.toSorted());
});

test('a machine is known by its points and by its protection, under the name that it had last', () => {
  const point = (id: string, name: string, createdAt: string): never =>
    ({ machine: { id, name }, createdAt }) as unknown as never;
  const nowMs = Date.parse('2026-11-21T12:00:00Z');
  const figures = machineFigures(
    [
      point('1', 'new', '2026-11-21T11:00:00.000Z'),
      point('1', 'old', '2026-11-20T11:00:00.000Z'),
      point('2', 'ahead', '2026-11-22T12:00:00.000Z'),
    ],
    [
      { machineId: '1', machine: 'new', state: 'protected', rpoMs: 700 },
      { machineId: '3', machine: 'fresh', state: 'seeding', rpoMs: null },
    ],
    nowMs,
  );
  assert.deepEqual(
    figures.map(({ name, points, rpoMs, protection }) => [name, points, rpoMs, protection]),
    [
      ['ahead', 1, 0, 'none'],
      ['fresh', 0, null, 'seeding'],
      ['new', 2, 700, 'protected'],
    ],
  );
});
