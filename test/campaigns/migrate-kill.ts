// SPDX-License-Identifier: Apache-2.0
import { AFTER, BEFORE, makeKillRig, roundAfter, roundBefore } from '../app/migrate-kill-rig.ts';
import { TestScope } from '../support/test-scope.ts';

/*
 * A migration is killed at each of its steps; the suite has some of them:
 *
 *     node test/campaigns/migrate-kill.ts
 */
const errors = await new TestScope('a migration that is killed').run(async (t) => {
  const rig = await makeKillRig(t);
  const domain = await rig.boot('before');
  for (const step of BEFORE) {
    await roundBefore(t, rig, domain, step);
    process.stdout.write(`${step.join(' ')}\n`);
  }
  for (const [index, step] of AFTER.entries()) {
    await roundAfter(t, rig, `after-${index}`, step);
    process.stdout.write(`${step.join(' ')}\n`);
  }
}, 900_000);
for (const error of errors) console.error(error);
process.exitCode = errors.length === 0 ? 0 : 1;
