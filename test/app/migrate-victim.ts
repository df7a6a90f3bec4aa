// SPDX-License-Identifier: Apache-2.0
import { localPrincipal } from '../../appliance/access/principal.ts';
import { openAppliance } from '../../appliance/main.ts';

/*
 * A service that is killed in the middle of a migration: `node migrate-victim.ts STATE NAME PLACE PHASE DONE` kills itself
 * when a progress of that phase has come so far; without a phase it only serves, and says `serving`.
 */

const [, , stateDirectory = '', name = '', directory = '', phase = '', done = '0'] = process.argv;
const appliance = await openAppliance({ stateDirectory, isService: true });
process.stdout.write('serving\n');
await appliance.migrate(
  { name, directory, ...(phase.startsWith('copying') ? { bandwidth: 4 * 2 ** 20 } : {}) },
  {
    principal: localPrincipal(),
    signal: new AbortController().signal,
    onProgress: (progress) => {
      if (progress.phase === phase && progress.done >= Number(done)) process.kill(process.pid, 'SIGKILL');
    },
    onNotice: (sentence) => process.stderr.write(`${sentence}\n`),
  },
);
process.stdout.write('moved\n');
await appliance[Symbol.asyncDispose]();
