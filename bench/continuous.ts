// SPDX-License-Identifier: Apache-2.0
import { appends } from './continuous/appends.ts';
import { day } from './continuous/day.ts';
import { kills } from './continuous/kills.ts';
import { mirrorLatency } from './continuous/mirror-latency.ts';
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
    day,
  },
  withRun: async (options, work) => {
    await using workspace = await Workspace.open();
    await work(new ContinuousRun(options, workspace), undefined);
  },
});
