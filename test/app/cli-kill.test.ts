// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { suite } from '../support/suite.ts';
import { CliKillRounds } from './cli-kill-rounds.ts';

const test = suite('kill -9 of the command line and the service', { timeoutMs: 300_000 });
const ROUNDS = 8;

test('whatever is killed, listed points restore, check is clean, the next backup works, nothing is left over', async (t) => {
  const rounds = t.use(await CliKillRounds.create(await t.tempDir(), 20_261_121));
  const tally = await rounds.run(ROUNDS);
  assert.equal(tally.rounds, ROUNDS);
  assert.ok(tally.pointsCompared >= ROUNDS);
  assert.ok(Object.values(tally.killed).reduce((sum, count) => sum + count) > 0, 'something was killed');
});
