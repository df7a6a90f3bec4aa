// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { DutyCycle, sleepFor } from '../../appliance/core/duty-cycle.ts';
import { suite } from '../support/suite.ts';

const test = suite('duty cycle');

class Scene {
  nowMs = 0;
  restedMs = 0;
  share = 0.5;
  readonly abort: AbortController = new AbortController();
  readonly cycle: DutyCycle = new DutyCycle({
    clock: { nowMs: () => this.nowMs, elapsedMs: () => this.nowMs },
    share: () => this.share,
    signal: this.abort.signal,
    sleep: async (ms) => {
      this.nowMs += ms;
      this.restedMs += ms;
    },
  });

  async work(stepMs: number, steps: number): Promise<void> {
    for (let n = 0; n < steps; n++) {
      this.nowMs += stepMs;
      await this.cycle.pace();
    }
  }
}

test('work has its share of the time, in long steps and in short ones', async () => {
  for (const [share, stepMs] of [
    [0.5, 100],
    [0.5, 1],
    [0.1, 30],
    [0.25, 7],
  ] as const) {
    const scene = new Scene();
    scene.share = share;
    await scene.work(stepMs, 1_000);
    const worked = 1_000 * stepMs;
    const actual = worked / (worked + scene.restedMs);
    assert.ok(Math.abs(actual - share) < 0.02, `${actual} instead of ${share}`);
  }
});

test('a change of the share counts from the next rest on, and a whole share rests never', async () => {
  const scene = new Scene();
  scene.share = 1;
  await scene.work(1_000, 5);
  assert.equal(scene.restedMs, 0);
  scene.share = 0.5;
  await scene.work(1_000, 1);
  assert.equal(scene.restedMs, 1_000);
});

test('no rest is longer than five seconds, and none begins after an abort', async () => {
  const scene = new Scene();
  scene.share = 0.01;
  await scene.work(60_000, 1);
  assert.equal(scene.restedMs, 5_000);
  scene.abort.abort();
  await scene.work(60_000, 3);
  assert.equal(scene.restedMs, 5_000);
});

test('an abort ends a rest', async () => {
  const abort = new AbortController();
  const rest = sleepFor(3_600_000, abort.signal);
  abort.abort();
  await rest;
  await sleepFor(3_600_000, abort.signal);
});

test('what runs side by side rests together', async () => {
  let nowMs = 0;
  const rests: PromiseWithResolvers<void>[] = [];
  const cycle = new DutyCycle({
    clock: { nowMs: () => nowMs, elapsedMs: () => nowMs },
    share: () => 0.5,
    signal: new AbortController().signal,
    sleep: () => {
      const rest = Promise.withResolvers<void>();
      rests.push(rest);
      return rest.promise;
    },
  });
  nowMs = 100;
  let ended = 0;
  const all = Promise.all([1, 2, 3].map(() => cycle.pace().then(() => (ended += 1))));
  await Promise.resolve();
  assert.deepEqual([rests.length, ended], [1, 0]);
  rests[0]?.resolve();
  await all;
  assert.equal(ended, 3);
});
