// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { check } from '../../appliance/repository/scrub.ts';
import { assertDisk, Dice } from '../support/point-model.ts';
import { contentOf, openState } from './kill-work.ts';

/** What happened in all rounds. */
export interface KillTally {
  rounds: number;
  backups: number;
  deletions: number;
  collections: number;
  /** Rounds that were killed within a backup, a deletion, a collection, or while opening. */
  readonly killedIn: Map<string, number>;
}

/** Longest time that a child works before it is killed. */
const MAX_WORK_MS = 700;

/** Starts a child on the state, kills it at a random moment, and checks what it left; again and again. */
export async function killRounds(
  directory: string,
  options: { readonly rounds: number; readonly seed: number; readonly onRound?: (tally: KillTally) => void },
): Promise<KillTally> {
  const dice = new Dice(options.seed);
  const tally: KillTally = { rounds: 0, backups: 0, deletions: 0, collections: 0, killedIn: new Map() };
  const expected = new Set<string>();
  for (let round = 0; round < options.rounds; round++) {
    const lines = await runAndKill(directory, options.seed * 1000 + round, dice.below(MAX_WORK_MS));
    count(tally, lines);
    replay(lines, expected);
    try {
      await verify(directory, expected);
    } catch (error) {
      throw new Error(`round ${round}, killed after ${lines.slice(-3).join('; ')}: ${String(error)}`, { cause: error });
    }
    options.onRound?.(tally);
  }
  return tally;
}

async function runAndKill(directory: string, seed: number, workMs: number): Promise<string[]> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'kill-child.ts'), directory, String(seed)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  const started = new Promise<void>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      resolve();
    });
  });
  const ended = once(child, 'close');
  // One in eight is killed while it opens the state.
  if (seed % 8 !== 0) await Promise.race([started, ended]);
  await delay(workMs);
  assert.equal(child.exitCode, null, `the child ended by itself: ${output}`);
  child.kill('SIGKILL');
  await ended;
  return output.split('\n').filter((line) => line !== '');
}

/** Brings `expected`, the points that must be there, up to date. A deletion may have been done as soon as it began. */
function replay(lines: readonly string[], expected: Set<string>): void {
  for (const line of lines) {
    const [state, what, id = ''] = line.split(' ');
    if ((what === 'backup' && state === 'done') || what === 'undelete') expected.add(id);
    if (what === 'delete') expected.delete(id);
  }
}

async function verify(directory: string, expected: Set<string>): Promise<void> {
  await using state = await openState(directory);
  const { repository, catalog, report } = state;
  assert.deepEqual([report.damaged, report.strays, report.lostPoints, report.missingContents], [[], [], [], 0]);
  const points = await catalog.points();
  const listed = new Set<string>(points.map(({ id }) => id));
  for (const id of expected) assert.ok(listed.has(id), `point ${id} was finished and is not listed`);
  for (const point of points) await assertDisk(repository, point, 'vda', contentOf(point.sequence));
  const { findings } = await check(repository, catalog, { readData: true });
  assert.deepEqual(findings, []);
  // A backup whose end was not told may have ended all the same; from now on its point must stay, as any other.
  for (const id of listed) expected.add(id);
}

function count(tally: KillTally, lines: readonly string[]): void {
  tally.rounds += 1;
  for (const line of lines) {
    if (line.startsWith('done backup')) tally.backups += 1;
    if (line.startsWith('done delete')) tally.deletions += 1;
    if (line.startsWith('done gc')) tally.collections += 1;
  }
  const last = lines.at(-1) ?? 'opening';
  const where = last.startsWith('begin') ? (last.split(' ')[1] ?? '') : last === 'opening' ? last : 'between';
  tally.killedIn.set(where, (tally.killedIn.get(where) ?? 0) + 1);
}
