// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { killRounds } from '../repository/kill-rounds.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';

/*
 * Kills a process in the middle of backups, deletions and collections, many times, on one repository:
 *
 *     node test/campaigns/kill.ts [--rounds 100] [--seed 1]
 *
 * Ends with a line of counts, or with the round and the last steps of the killed process when something was not whole.
 */
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '100' }, seed: { type: 'string', default: '1' } },
});
const directory = await mkdtemp(join(tmpdir(), 'us-kill-'));
try {
  await (await FixtureRepository.create(directory)).close();
  const tally = await killRounds(directory, {
    rounds: Number(values.rounds),
    seed: Number(values.seed),
    onRound: ({ rounds }) => {
      if (rounds % 10 === 0) process.stdout.write(`${rounds} rounds\n`);
    },
  });
  const { killedIn, ...counts } = tally;
  process.stdout.write(`${JSON.stringify({ ...counts, killedIn: Object.fromEntries(killedIn) })}\n`);
} finally {
  await rm(directory, { recursive: true, force: true });
}
