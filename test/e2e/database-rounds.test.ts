// SPDX-License-Identifier: Apache-2.0
// time limit: 700 s
import assert from 'node:assert/strict';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { DatabaseRounds } from './database-rounds.ts';

const test = suite('a database in a guest', { requires: [...GUEST_REQUIREMENTS, 'sqlite3'], timeoutMs: 600_000 });

test('whatever is killed, every state that is booted is intact and has each commit that was reported', async (t) => {
  const rounds = t.use(await DatabaseRounds.create(await t.tempDir(), 20_261_121));
  // The other kinds are parts of this one; the campaign has all of them.
  await rounds.round('kill-both').catch((cause: unknown) => {
    throw new Error(rounds.rig.steps.join('; '), { cause });
  });
  // The original's beginning, the booted point, and what it was killed with.
  assert.equal(rounds.rig.databasesChecked, 3);
  assert.ok(rounds.rig.commitsChecked > 0);
});
