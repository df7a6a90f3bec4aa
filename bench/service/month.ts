// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { Comparison } from '../comparison.ts';
import { measureProcess } from '../measured-process.ts';
import { ROOT } from '../workspace.ts';
import type { ServiceRun } from './run.ts';

const CAMPAIGN: string = join(ROOT, 'test', 'campaigns', 'policy-month.ts');
const MIB: number = 1024 ** 2;

/** The simulated month; it fails with the first target that could have been kept, and with any other point than the rule keeps. */
export async function month(run: ServiceRun): Promise<Comparison[]> {
  const days = run.amount(30, 2);
  const machines = run.amount(1000, 100);
  run.say(`month: ${days} days of ${machines} machines`);
  const figures = await measureProcess(process.execPath, [CAMPAIGN, String(days), String(machines)]);
  const last = figures.stdout.trim().split('\n').at(-1) ?? '';
  return [
    {
      what: `${days} simulated days of ${machines} machines under policies of 15 minutes`,
      unit: 's',
      ours: { label: 'policies', samples: [figures.wallMs / 1000] },
      other: undefined,
      target: { kind: 'none' },
      remark: last.replaceAll('|', ' ').slice(0, 300),
      notes: [
        `no target missed that capacity allowed, retention exact; ${(figures.peakRssBytes / MIB).toFixed(0)} MiB at most`,
      ],
    },
  ];
}
