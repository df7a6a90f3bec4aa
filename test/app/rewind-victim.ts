// SPDX-License-Identifier: Apache-2.0
import { localPrincipal } from '../../appliance/access/principal.ts';
import { openAppliance } from '../../appliance/main.ts';

/*
 * A service that is killed in the middle of a rewind: `node rewind-victim.ts STATE MOMENT PHASE` kills itself when the rewind
 * says that it has come to that phase.
 */

const [, , stateDirectory = '', point = '', phase = ''] = process.argv;
const appliance = await openAppliance({ stateDirectory, isService: true });
await appliance.rewind(
  { point },
  {
    principal: localPrincipal(),
    signal: new AbortController().signal,
    onProgress: (progress) => {
      if (progress.phase === phase) process.kill(process.pid, 'SIGKILL');
    },
    onNotice: (sentence) => process.stderr.write(`${sentence}\n`),
  },
);
process.stdout.write('rewound\n');
await appliance[Symbol.asyncDispose]();
