// SPDX-License-Identifier: Apache-2.0
import { appends } from './continuous/appends.ts';
import { day } from './continuous/day.ts';
import { failover } from './continuous/failover.ts';
import { interval } from './continuous/interval.ts';
import { kills } from './continuous/kills.ts';
import { manyMachines } from './continuous/many-machines.ts';
import { mirrorLatency } from './continuous/mirror-latency.ts';
import { moments } from './continuous/moments.ts';
import { powerLoss } from './continuous/power-loss.ts';
import { type ContinuousOptions, ContinuousRun, parseOptions, type RowName, USAGE } from './continuous/run.ts';
import { runProgram } from './program.ts';
import { Workspace } from './workspace.ts';

/* The benchmark of continuous protection; `npm run bench:continuous -- --help` explains it. */

await runProgram<RowName, ContinuousOptions, ContinuousRun>({
  name: 'bench:continuous',
  mark: 'continuous',
  usage: USAGE,
  parse: parseOptions,
  rows: {
    'mirror-latency': mirrorLatency,
    appends,
    kills,
    'power-loss': powerLoss,
    moments,
    interval,
    'many-machines': manyMachines,
    failover,
    day,
  },
  withRun: async (options, work) => {
    await using workspace = await Workspace.open();
    await work(new ContinuousRun(options, workspace), undefined);
  },
});
