// SPDX-License-Identifier: Apache-2.0
import { runProgram } from './program.ts';
import { load } from './service/load.ts';
import { memory } from './service/memory.ts';
import { month } from './service/month.ts';
import { parseOptions, type RowName, type ServiceOptions, ServiceRun, USAGE } from './service/run.ts';
import { start } from './service/start.ts';
import { Workspace } from './workspace.ts';

/* The benchmark of the service; `npm run bench:service -- --help` explains it. */

await runProgram<RowName, ServiceOptions, ServiceRun>({
  name: 'bench:service',
  mark: 'service',
  usage: USAGE,
  parse: parseOptions,
  rows: { start, load, memory, month },
  withRun: async (options, work) => {
    await using workspace = await Workspace.open();
    await work(new ServiceRun(options, workspace), undefined);
  },
});
