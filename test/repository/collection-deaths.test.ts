// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { everyStep } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { deletions, emptying, FAULTS, FaultScene } from './fault-rig.ts';

const test = suite('death during deletion and collection', { timeoutMs: 90_000 });

test('the death of the process in the middle of a write, or at any other step, leaves every listed point whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.deathInWrite, (plan) => scene.attempt(plan, deletions));
  assert.ok(steps >= 20, `${steps} steps`);
});

test('the death of the process while everything is removed leaves what is still listed whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.death, (plan) => scene.attempt(plan, emptying));
  assert.ok(steps >= 10, `${steps} steps`);
});
