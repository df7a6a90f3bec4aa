// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { everyStep } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { deletions, FAULTS, FaultScene } from './fault-rig.ts';

const test = suite('errors during deletion and collection', { timeoutMs: 90_000 });

test('an error at any step leaves every listed point whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.anyError, (plan) => scene.attempt(plan, deletions));
  assert.ok(steps >= 20, `${steps} steps`);
});
