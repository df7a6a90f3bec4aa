// SPDX-License-Identifier: Apache-2.0
import { API_ROOT } from '../../appliance/api/operation-routes.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import { median, percentile } from '../statistics.ts';
import { MACHINES, machineName, servePattern } from './many-points.ts';
import { type LoadFigures, openLoop } from './open-loop.ts';
import type { ServiceRun } from './run.ts';

const PER_SECOND = 200;
const LIMIT_MS = 100;
const MIB: number = 1024 ** 2;

/** One after the other; `{}` is a machine, another one each time. */
const READS: readonly string[] = [
  '/points',
  '/points?machine={}&sort=-createdAt&limit=20',
  '/points/{}@latest',
  '/machines/{}/timeline',
  '/runs',
  '/booted',
  '/repository',
  '/protection',
  '/exports',
  '/events',
];

export function readPath(n: number): string {
  const path = READS[n % READS.length] ?? '';
  return `${API_ROOT}${path.replace('{}', machineName(n % MACHINES))}`;
}

/** Reads of all kinds at a steady rate, while the same service backs up a disk. */
export async function load(run: ServiceRun): Promise<Comparison[]> {
  const seconds = run.amount(60, 5);
  const state = await run.state();
  await using service = await ServiceProcess.start(state, { probeDirectory: run.workspace.probeDirectory });
  run.say(`load: ${PER_SECOND} reads/s for ${seconds / 4} s`);
  await openLoop(state, { perSecond: PER_SECOND / 4, seconds: seconds / 12, path: readPath });
  const quiet = await openLoop(state, { perSecond: PER_SECOND, seconds: seconds / 4, path: readPath });
  await using source = await servePattern('1T', run.workspace.socketPath('load'));
  run.say('load: the same while it backs up');
  const { figures, bytes } = await whileBackingUp(service, source.uri(), () =>
    openLoop(state, { perSecond: PER_SECOND, seconds, path: readPath }),
  );
  run.use('load', await service.close());
  const busy = `backup of ${(bytes / MIB / seconds).toFixed(0)} MiB/s meanwhile`;
  return [
    ...comparisons(`${PER_SECOND} reads/s for ${seconds} s, ${run.points} points, during a backup`, figures, busy),
    ...comparisons('the same without a backup', quiet, `for ${seconds / 4} s`),
  ];
}

/** What `work` gives, and how much a backup read that ran at the same time, and was cancelled at its end. */
async function whileBackingUp<T>(
  { appliance }: ServiceProcess,
  uri: string,
  work: () => Promise<T>,
): Promise<{ readonly figures: T; readonly bytes: number }> {
  const controller = new AbortController();
  let bytes = 0;
  const backup = appliance
    .backup(
      { target: uri, name: 'endless' },
      {
        ...UNATTENDED,
        signal: controller.signal,
        onProgress: ({ done }) => {
          bytes = Math.max(bytes, done);
        },
      },
    )
    .catch((error: unknown) => {
      if (!hasCode(error, 'ABORTED')) throw error;
    });
  const figures = await work();
  controller.abort();
  await backup;
  return { figures, bytes };
}

function comparisons(what: string, { latencies, byPath, failures }: LoadFigures, busy: string): Comparison[] {
  const slowest = [...byPath].map(([path, own]) => [path, percentile(own, 0.99)] as const);
  const [path, worst] = slowest.toSorted(([, one], [, other]) => other - one)[0] ?? ['', 0];
  const notes = [
    `due → answered whole, at times that do not wait for answers; ${latencies.length} requests; slowest kind at p99: ${path} ${worst.toFixed(0)} ms`,
  ];
  return [
    line(`${what}, p50`, median(latencies), { kind: 'none' }, busy),
    { ...line(`${what}, p99`, percentile(latencies, 0.99), { kind: 'at most', limit: LIMIT_MS }, busy), notes },
    {
      ...line(`${what}, not answered with 2xx`, failures.length, { kind: 'at most', limit: 0 }, failures[0] ?? ''),
      unit: 'requests',
    },
  ];
}

function line(what: string, sample: number, target: Comparison['target'], remark: string): Comparison {
  return { what, unit: 'ms', ours: { label: 'service', samples: [sample] }, other: undefined, target, remark };
}
