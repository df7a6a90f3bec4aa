// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CliKillRounds } from '../app/cli-kill-rounds.ts';

/*
 * Kills the command line and the service in the middle of backups, deletions and collections, many times:
 *
 *     node test/campaigns/cli-kill.ts [--rounds 100] [--seed 1]
 *
 * Ends with a line of counts; or with the seed, the steps of the failed round, and its directory, which is kept then.
 */
const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '100' }, seed: { type: 'string', default: '1' } },
});
const seed = Number(values.seed);
const directory = await mkdtemp(join(tmpdir(), 'us-ck-'));
process.stdout.write(`seed ${seed}, in ${directory}\n`);
const rounds = await CliKillRounds.create(directory, seed);
try {
  const tally = await rounds.run(Number(values.rounds), ({ rounds: done }) => {
    if (done % 10 === 0) process.stdout.write(`${done} rounds\n`);
  });
  process.stdout.write(`${JSON.stringify({ seed, ...tally })}\n`);
  await rm(directory, { recursive: true, force: true });
} catch (error) {
  process.exitCode = 1;
  process.stdout.write(`seed ${seed}, round ${rounds.tally.rounds + 1}: ${rounds.steps.join('; ')}\n`);
  process.stdout.write(`kept for inspection: ${directory}\n`);
  console.error(error);
} finally {
  await rounds[Symbol.asyncDispose]();
}
