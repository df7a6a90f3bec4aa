// SPDX-License-Identifier: Apache-2.0
import { backup, deletions, emptying, FAULTS, FaultScene } from '../repository/fault-rig.ts';
import { everyStep } from '../support/faulty-file-system.ts';
import { TestScope } from '../support/test-scope.ts';

/*
 * Every kind of fault at every step of every scenario; the suite has those that find the most:
 *
 *     node test/campaigns/faults.ts
 */
const scenarios = { backup, deletions, emptying };
let failures = 0;
for (const [scenarioName, scenario] of Object.entries(scenarios)) {
  for (const [faultName, fault] of Object.entries(FAULTS)) {
    const name = `${faultName} during ${scenarioName}`;
    const errors = await new TestScope(name).run(async (t) => {
      const scene = await FaultScene.create(t);
      const steps = await everyStep(fault, (plan) => scene.attempt(plan, scenario));
      process.stdout.write(`${name}: ${steps} steps\n`);
    }, 600_000);
    for (const error of errors) process.stdout.write(`${name}: ${error.stack}\n`);
    failures += errors.length;
  }
}
process.exitCode = failures === 0 ? 0 : 1;
