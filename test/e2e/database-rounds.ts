// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type { DatabaseReports } from '../../lab/database-reports.ts';
import { Dice } from '../support/point-model.ts';
import { DatabaseRig, ORIGINAL, SPARE } from './database-rig.ts';

const LONGEST_RUN_MS = 2000;

export const ROUND_KINDS = ['point', 'kill-machine', 'kill-service', 'kill-both', 'kill-original'] as const;
export type RoundKind = (typeof ROUND_KINDS)[number];

interface MadePoint {
  readonly id: string;
  /** What had been reported before the backup began, and after it had ended. */
  readonly before: number;
  readonly after: number;
}

/**
 * A machine with a database is backed up, killed, and booted from its recovery points, through the real command line and
 * service. Each state holds every commit that had been reported before, also after the death of the booted machine, of the
 * service, or of both.
 */
export class DatabaseRounds implements AsyncDisposable {
  readonly rig: DatabaseRig;
  readonly counts: Partial<Record<RoundKind, number>> = {};
  readonly #dice: Dice;

  private constructor(rig: DatabaseRig, dice: Dice) {
    this.rig = rig;
    this.#dice = dice;
  }

  /** Works in an empty directory with a short path, which is the caller's. */
  static async create(directory: string, seed: number): Promise<DatabaseRounds> {
    const dice = new Dice(seed);
    return new DatabaseRounds(await DatabaseRig.create(directory, dice.below(2) === 0 ? 'wal' : 'delete'), dice);
  }

  /** Each kind comes once before any comes again. */
  async run(rounds: number, onRound?: () => void): Promise<void> {
    let kinds: RoundKind[] = [];
    for (let n = 0; n < rounds; n++) {
      if (kinds.length === 0) kinds = [...ROUND_KINDS];
      const [kind = 'point'] = kinds.splice(this.#dice.below(kinds.length), 1);
      await this.round(kind);
      onRound?.();
    }
  }

  async round(kind: RoundKind): Promise<void> {
    this.rig.begin(kind);
    await this.#play(kind);
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
  }

  async #play(kind: RoundKind): Promise<void> {
    const { rig } = this;
    await this.#work(rig.original);
    if (kind === 'kill-original') {
      await rig.killMachine(ORIGINAL);
      await rig.startOriginal(await rig.originalEnded());
    }
    const point = await this.#backUp();
    if (kind === 'point' || kind === 'kill-original') assertNotLater(await rig.examine(point.id, point.before), point);
    else await this.#bootAndKill(kind, point);
  }

  /** Lets a database commit for a random time, and at least once. */
  async #work(reports: DatabaseReports): Promise<void> {
    await reports.until(reports.newest + 1);
    await delay(this.#dice.below(LONGEST_RUN_MS));
  }

  async #backUp(): Promise<MadePoint> {
    const { rig } = this;
    const before = rig.original.newest;
    rig.note('backup');
    const { point, kind } = await rig.appliance.ask<BackupReport>('backup', ORIGINAL, ...rig.connect);
    const after = await rig.settled(rig.original);
    rig.note(`${kind} point ${point} at ${before} to ${after}`);
    return { id: point, before, after };
  }

  async #bootAndKill(kind: RoundKind, point: MadePoint): Promise<void> {
    const { rig } = this;
    using first = await rig.boot(point.id);
    assertNotLater(await rig.assertHolds(first, point.before), point);
    await this.#work(first);
    if (kind === 'kill-service') {
      await rig.killService();
      await rig.serve();
      // The guest never went away: it goes on where it was.
      await this.#work(first);
    }
    if (kind === 'kill-both') await rig.killService();
    await rig.killMachine(SPARE);
    await first.ended();
    rig.note(`killed at ${first.newest}`);
    if (kind === 'kill-both') await rig.serve();
    await rig.untilSpareIsDown();
    using second = await rig.boot(point.id);
    await rig.assertHolds(second, first.newest);
    await rig.appliance.ask('stop', SPARE, '--discard');
  }
}

function assertNotLater(number: number, { after }: MadePoint): void {
  assert.ok(number <= after, `the point is at ${number}, and ${after} was reported after the backup`);
}
