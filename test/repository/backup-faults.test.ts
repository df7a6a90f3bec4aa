// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { everyStep } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { backup, FAULTS, FaultScene } from './fault-rig.ts';

const test = suite('faults during a backup', { timeoutMs: 90_000 });

test('an error at any step leaves every listed point whole, and the next backup works', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.anyError, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});

test('the death of the process at any step, or in a write, leaves every listed point whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.deathInWrite, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});
