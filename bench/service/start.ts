// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../../appliance/core/clock.ts';
import type { Comparison } from '../comparison.ts';
import { ServiceProcess, UNATTENDED } from '../service-process.ts';
import type { ServiceRun } from './run.ts';

const READY_LIMIT_S = 10;
const LIST_LIMIT_MS = 1000;

/** From the command to the first answer, and from there to the first list of all points. */
export async function start(run: ServiceRun): Promise<Comparison[]> {
  const state = await run.state();
  const ready: number[] = [];
  const firstLists: number[] = [];
  for (let round = 1; round <= run.options.rounds; round++) {
    run.say(`start: ${round} of ${run.options.rounds}`);
    const beganMs = systemClock.elapsedMs();
    await using service = await ServiceProcess.start(state, { probeDirectory: run.workspace.probeDirectory });
    const readyMs = systemClock.elapsedMs();
    ready.push((readyMs - beganMs) / 1000);
    await service.appliance.points({ machine: 'machine-000' }, UNATTENDED);
    firstLists.push(systemClock.elapsedMs() - readyMs);
    run.use('start', await service.close());
  }
  const alone = { other: undefined, remark: '' };
  return [
    {
      ...alone,
      what: `start of the service with ${run.points} points, until it answers`,
      unit: 's',
      ours: { label: 'service', samples: ready },
      target: { kind: 'at most', limit: READY_LIMIT_S },
    },
    {
      ...alone,
      what: `the first list of points after it, of ${run.points}`,
      unit: 'ms',
      ours: { label: 'service', samples: firstLists },
      target: { kind: 'at most', limit: LIST_LIMIT_MS },
    },
  ];
}
