// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { FixtureRepository } from '../support/fixture-repository.ts';
import { suite } from '../support/suite.ts';
import { killRounds } from './kill-rounds.ts';

const test = suite('a killed process');

test(
  'kill -9 at random moments of backups, deletions and collections leaves every listed point whole',
  async (t) => {
    const directory = await t.tempDir();
    await (await FixtureRepository.create(directory)).close();
    const tally = await killRounds(directory, { rounds: 10, seed: 20_261_121 });
    assert.equal(tally.rounds, 10);
    assert.ok(tally.backups > 5, `${tally.backups} backups`);
  },
  { timeoutMs: 120_000 },
);
