// SPDX-License-Identifier: Apache-2.0
// time limit: 700 s
import assert from 'node:assert/strict';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { ContinuousRounds } from './continuous-rounds.ts';

const test = suite('a database under continuous protection', {
  requires: [...GUEST_REQUIREMENTS, 'sqlite3'],
  timeoutMs: 600_000,
});

test('after kills of machine and service, newest state and moments have each commit that was reported by then', async (t) => {
  const rounds = t.use(await ContinuousRounds.create(await t.tempDir(), 20_261_121));
  for (const kind of ['kill-service', 'kill-both'] as const) {
    await rounds.round(kind).catch((cause: unknown) => {
      throw new Error(rounds.rig.steps.join('; '), { cause });
    });
  }
  // Two moments, the end of the stretch and the state that was caught up to; the newest state and two moments; and the original
  // before, after.
  assert.equal(rounds.rig.databasesChecked, 4 + 3 + 2);
  assert.ok(rounds.rig.commitsChecked > 0);
});
