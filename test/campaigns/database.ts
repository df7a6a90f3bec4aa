// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ContinuousRounds } from '../e2e/continuous-rounds.ts';
import { DatabaseRounds } from '../e2e/database-rounds.ts';

/*
 * A guest commits transactions to a database and reports each, while it is backed up, killed, and booted again, many times:
 *
 *     node test/campaigns/database.ts [--continuous] [--rounds 50] [--seed 1]
 *
 * With --continuous the machine is under continuous protection, and its moments are booted; otherwise recovery points are.
 * Ends with a line of counts; or with the seed, the steps of the failed round, and its directory, which is kept then.
 */
const { values } = parseArgs({
  options: {
    continuous: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
  },
});
const seed = Number(values.seed);
const directory = await mkdtemp(join(tmpdir(), 'us-db-'));
process.stdout.write(`seed ${seed}, in ${directory}\n`);
const rounds = await (values.continuous ? ContinuousRounds : DatabaseRounds).create(directory, seed);
const { rig } = rounds;
let done = 0;
try {
  await rounds.run(Number(values.rounds), () => {
    done += 1;
    process.stdout.write(`${done}: ${rig.steps.join('; ')}\n`);
  });
  const { commitsChecked, databasesChecked } = rig;
  process.stdout.write(`${JSON.stringify({ seed, ...rounds.counts, commitsChecked, databasesChecked })}\n`);
  await rm(directory, { recursive: true, force: true });
} catch (error) {
  process.exitCode = 1;
  process.stdout.write(`seed ${seed}, round ${done + 1}: ${rig.steps.join('; ')}\n`);
  process.stdout.write(`kept for inspection: ${directory}\n`);
  console.error(error);
} finally {
  await rounds[Symbol.asyncDispose]();
}
