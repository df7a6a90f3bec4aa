// SPDX-License-Identifier: Apache-2.0
import type { Figures, MachineFigures } from './figures.ts';

/** One line of a metric: labels and value. `suffix` is `_bucket`, `_sum` or `_count` of a histogram. */
export interface MetricLine {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
  readonly suffix?: string;
}

/** A metric that is read from the figures when it is asked for. Names, labels and meanings are documented in docs/metrics.md. */
export interface FigureMetric {
  readonly name: string;
  readonly type: 'gauge' | 'counter' | 'histogram';
  readonly help: string;
  readonly lines: (figures: Figures, nowMs: number) => readonly MetricLine[];
}

/** Machines that have lines of their own; of more, the first by name have. */
export const MAX_MACHINE_SERIES = 2_000;

const NONE = {} as const;

function single(value: number | null): readonly MetricLine[] {
  return value === null ? [] : [{ labels: NONE, value }];
}

function perMachine(
  figures: Figures,
  valueOf: (machine: MachineFigures) => number | null,
  more: (machine: MachineFigures) => Readonly<Record<string, string>> = () => NONE,
): MetricLine[] {
  const lines: MetricLine[] = [];
  for (const machine of figures.machines.slice(0, MAX_MACHINE_SERIES)) {
    const value = valueOf(machine);
    if (value === null) continue;
    lines.push({ labels: { machine: machine.name, machine_id: machine.id, ...more(machine) }, value });
  }
  return lines;
}

function seconds(milliseconds: number | null): number | null {
  return milliseconds === null ? null : milliseconds / 1000;
}

function repositoryGauge(
  name: string,
  help: string,
  valueOf: (repository: Figures['repository']) => number | null,
): FigureMetric {
  return { name: `understudy_repository_${name}`, type: 'gauge', help, lines: (f) => single(valueOf(f.repository)) };
}

const MACHINES: readonly FigureMetric[] = [
  {
    name: 'understudy_machine_rpo_seconds',
    type: 'gauge',
    help: 'What would be lost if the machine were lost now, as time.',
    lines: (figures) => perMachine(figures, ({ rpoMs }) => seconds(rpoMs)),
  },
  {
    name: 'understudy_machine_last_point_timestamp_seconds',
    type: 'gauge',
    help: 'When the newest recovery point of the machine was taken, as Unix time.',
    lines: (figures) => perMachine(figures, ({ lastPointMs }) => seconds(lastPointMs)),
  },
  {
    name: 'understudy_machine_points',
    type: 'gauge',
    help: 'Recovery points of the machine.',
    lines: (figures) => perMachine(figures, ({ points }) => points),
  },
  {
    name: 'understudy_machine_protection',
    type: 'gauge',
    help: 'The state of continuous protection, as a label; always 1.',
    lines: (figures) =>
      perMachine(
        figures,
        () => 1,
        ({ protection }) => ({ state: protection }),
      ),
  },
  {
    name: 'understudy_machines',
    type: 'gauge',
    help: 'Machines with recovery points or under continuous protection.',
    lines: ({ machines }) => single(machines.length),
  },
];

const REPOSITORY: readonly FigureMetric[] = [
  repositoryGauge('points', 'Recovery points.', ({ points }) => points),
  repositoryGauge(
    'logical_bytes',
    'The data of all recovery points, as if each stood alone.',
    ({ logicalBytes }) => logicalBytes,
  ),
  repositoryGauge('unique_bytes', 'What is left of it without repetition.', ({ uniqueBytes }) => uniqueBytes),
  repositoryGauge('stored_bytes', 'What that takes in the repository.', ({ storedBytes }) => storedBytes),
  repositoryGauge('free_bytes', "Free room of the repository's file system.", ({ freeBytes }) => freeBytes),
  repositoryGauge('size_bytes', "Size of the repository's file system.", ({ totalBytes }) => totalBytes),
  repositoryGauge(
    'growth_bytes_per_day',
    'Stored bytes that are added in a day; missing without a week of history.',
    ({ growthBytesPerDay }) => growthBytesPerDay,
  ),
  repositoryGauge(
    'days_until_full',
    'At the pace of the last weeks; missing when that is not known, or when it does not fill.',
    ({ daysUntilFull }) => daysUntilFull,
  ),
  repositoryGauge('defects', 'Defects that were found and not seen mended since.', ({ findings }) => findings),
  {
    name: 'understudy_housekeeping_last_timestamp_seconds',
    type: 'gauge',
    help: 'When garbage was last collected, and a slice scrubbed, well or not, as Unix time.',
    lines: ({ chores }) =>
      Object.entries(chores).flatMap(([chore, { lastMs }]) =>
        lastMs === null ? [] : [{ labels: { chore }, value: lastMs / 1000 }],
      ),
  },
  {
    name: 'understudy_housekeeping_failures',
    type: 'gauge',
    help: 'Failures since the last success.',
    lines: ({ chores }) =>
      Object.entries(chores).map(([chore, { failures }]) => ({ labels: { chore }, value: failures })),
  },
];

const NBD: readonly FigureMetric[] = [
  {
    name: 'understudy_nbd_exports',
    type: 'gauge',
    help: 'Disks that are served over NBD by the shared server.',
    lines: ({ nbd }) => single(nbd.exports),
  },
  {
    name: 'understudy_nbd_connections',
    type: 'gauge',
    help: 'Clients of the shared NBD server.',
    lines: ({ nbd }) => single(nbd.connections),
  },
  {
    name: 'understudy_nbd_requests_total',
    type: 'counter',
    help: 'Requests to all NBD servers, by command.',
    lines: ({ nbd }) => Object.entries(nbd.requests).map(([command, value]) => ({ labels: { command }, value })),
  },
  {
    name: 'understudy_nbd_errors_total',
    type: 'counter',
    help: 'Requests that were answered with an error.',
    lines: ({ nbd }) => single(nbd.errors),
  },
  {
    name: 'understudy_nbd_bytes_total',
    type: 'counter',
    help: 'Bytes that clients read and wrote.',
    lines: ({ nbd }) => [
      { labels: { direction: 'read' }, value: nbd.bytesRead },
      { labels: { direction: 'write' }, value: nbd.bytesWritten },
    ],
  },
  {
    name: 'understudy_nbd_request_duration_seconds',
    type: 'histogram',
    help: 'How long one request of sixteen took, by command.',
    lines: ({ nbd }) =>
      Object.entries(nbd.latency).flatMap(([command, { classes, sumMs }]) => {
        const lines: MetricLine[] = [];
        let total = 0;
        for (const [n, count] of classes.entries()) {
          total += count;
          const bound = nbd.latencyBoundsMs[n];
          const le = bound === undefined ? '+Inf' : String(bound / 1000);
          lines.push({ labels: { command, le }, value: total, suffix: '_bucket' });
        }
        lines.push({ labels: { command }, value: sumMs / 1000, suffix: '_sum' });
        lines.push({ labels: { command }, value: total, suffix: '_count' });
        return lines;
      }),
  },
];

export const FIGURE_METRICS: readonly FigureMetric[] = [...MACHINES, ...REPOSITORY, ...NBD];
