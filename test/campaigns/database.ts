// SPDX-License-Identifier: Apache-2.0
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { renderTable } from '../../appliance/cli/table.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { toError } from '../../appliance/core/errors.ts';
import { CONTINUOUS_KINDS, ContinuousRounds } from '../e2e/continuous-rounds.ts';
import { DatabaseRounds, ROUND_KINDS } from '../e2e/database-rounds.ts';
import { CampaignResults } from './campaign-results.ts';

/*
 * A guest commits transactions to a database and reports each, while it is protected, killed, and booted again, many times:
 *
 *     node test/campaigns/database.ts [--points] [--rounds 50] [--seed 1] [--game N] [--fresh]
 *
 * The machine is under continuous protection, and its newest state and random moments are booted; with --points it is backed up, and
 * recovery points are. Rounds come in games: each has a machine and a seed of its own, and every kind of round once. What a game found
 * is noted in .cache/campaigns, and the same seed goes on where it was interrupted (--fresh: begins anew; --game: plays that one
 * again). A game that fails keeps its directory and does not end the campaign. Ends with a table; the exit code says whether all
 * went well. With two busy processors a round takes about 25 s.
 */

interface Game {
  readonly game: number;
  readonly seed: number;
  readonly rounds: number;
  readonly kinds: Readonly<Record<string, number>>;
  /** Databases that were opened, each intact; and commits in them that had been reported before, all there. */
  readonly databases: number;
  readonly commits: number;
  readonly seconds: number;
  /** Null when everything was as it should be. */
  readonly failure: string | null;
}

const { values } = parseArgs({
  options: {
    points: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
    game: { type: 'string' },
    fresh: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const kinds = values.points ? ROUND_KINDS : CONTINUOUS_KINDS;
const wanted = Number(values.rounds);
const games = Math.ceil(wanted / kinds.length);
const name = `database-${values.points ? 'points' : 'continuous'}-${seed}`;
const results = await CampaignResults.open<Game>(name, values.fresh);
const played = new Map(results.entries.filter(({ failure }) => failure === null).map((entry) => [entry.game, entry]));
if (played.size > 0) print(`seed ${seed}: ${played.size} games were played before`);
const only = values.game === undefined ? undefined : Number(values.game);
for (const game of only === undefined ? Array.from({ length: games }, (_, n) => n + 1) : [only]) {
  if (only === undefined && played.has(game)) continue;
  const rounds = Math.min(kinds.length, Math.max(1, wanted - (game - 1) * kinds.length));
  const result = await play(game, rounds);
  await results.add(result);
  played.set(game, result);
}
const all = [...played.values()].sort((a, b) => a.game - b.game);
process.stdout.write(table(all));
process.exitCode = all.every(({ failure }) => failure === null) ? 0 : 1;

async function play(game: number, count: number): Promise<Game> {
  const seedOfGame = seed * 1000 + game;
  const directory = await mkdtemp(join(tmpdir(), 'us-db-'));
  const beganMs = systemClock.elapsedMs();
  print(`game ${game} of ${games}, seed ${seedOfGame}, in ${directory}`);
  let rounds: ContinuousRounds | DatabaseRounds | undefined;
  let done = 0;
  let failure: string | null = null;
  try {
    rounds = await (values.points ? DatabaseRounds : ContinuousRounds).create(directory, seedOfGame);
    const { rig } = rounds;
    await rounds.run(count, () => {
      done += 1;
      print(`  round ${done}: ${rig.steps.join('; ')}`);
    });
  } catch (error) {
    failure = `round ${done + 1}: ${rounds?.rig.steps.join('; ') ?? 'the start'}: ${toError(error).message}`;
    print(`  FAILED, ${directory} is kept: ${failure}\n${toError(error).stack}`);
  } finally {
    await rounds?.[Symbol.asyncDispose]();
  }
  if (failure === null) await rm(directory, { recursive: true, force: true });
  return {
    game,
    seed: seedOfGame,
    rounds: done,
    kinds: { ...rounds?.counts },
    databases: rounds?.rig.databasesChecked ?? 0,
    commits: rounds?.rig.commitsChecked ?? 0,
    seconds: Math.round((systemClock.elapsedMs() - beganMs) / 1000),
    failure,
  };
}

function table(entries: readonly Game[]): string {
  const sum = (of: (entry: Game) => number): number => entries.reduce((total, entry) => total + of(entry), 0);
  const total: Game = {
    game: 0,
    seed,
    rounds: sum((entry) => entry.rounds),
    kinds: Object.fromEntries(kinds.map((kind) => [kind, sum((entry) => entry.kinds[kind] ?? 0)])),
    databases: sum(({ databases }) => databases),
    commits: sum(({ commits }) => commits),
    seconds: sum(({ seconds }) => seconds),
    failure: entries.every(({ failure }) => failure === null) ? null : 'see above',
  };
  return renderTable(
    [...entries, total],
    [
      { title: 'GAME', cell: ({ game }) => (game === 0 ? 'all' : String(game)) },
      { title: 'SEED', align: 'right', cell: (entry) => String(entry.seed) },
      { title: 'ROUNDS', align: 'right', cell: ({ rounds }) => String(rounds) },
      ...kinds.map((kind) => ({
        title: kind.toUpperCase(),
        align: 'right' as const,
        cell: (entry: Game) => String(entry.kinds[kind] ?? 0),
      })),
      { title: 'DATABASES', align: 'right', cell: ({ databases }) => String(databases) },
      { title: 'COMMITS', align: 'right', cell: ({ commits }) => String(commits) },
      { title: 'SECONDS', align: 'right', cell: ({ seconds }) => String(seconds) },
      { title: 'RESULT', cell: ({ failure }) => (failure === null ? 'whole' : 'FAILED') },
    ],
    (_, text) => text,
  );
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
