// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { everyStep } from '../support/faulty-file-system.ts';
import { suite } from '../support/suite.ts';
import { FAULTS, FaultScene, type Scenario } from './fault-rig.ts';

/** A backup; when it fails, another one in the same process. */
const backup: Scenario = async (fixture, scene) => {
  try {
    await scene.backup(fixture, 11);
  } catch (error) {
    await scene.backup(fixture, 12);
    throw error;
  }
};

const test = suite('faults during a backup', { timeoutMs: 60_000 });

test('no space at any step leaves every listed point whole, and the next backup works', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.noSpace, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});

test('an error of the device at any step leaves every listed point whole, and the next backup works', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.deviceError, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});

test('the death of the process at any step leaves every listed point whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.death, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});

test('the death of the process in the middle of a write leaves every listed point whole', async (t) => {
  const scene = await FaultScene.create(t);
  const steps = await everyStep(FAULTS.deathInWrite, (plan) => scene.attempt(plan, backup));
  assert.ok(steps >= 15, `${steps} steps`);
});
