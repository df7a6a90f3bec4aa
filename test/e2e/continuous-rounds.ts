// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProtectionReport } from '../../appliance/api/operations.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import type { DatabaseReports, ReportedCommit } from '../../lab/database-reports.ts';
import { patience } from '../support/patience.ts';
import { Dice } from '../support/point-model.ts';
import { DatabaseRig, ORIGINAL, SPARE } from './database-rig.ts';

const LONGEST_RUN_MS = 4000;
/** How much later than a commit its report may be read here: this process shares its processors with the machines. */
const REPORT_LAG_MS = 3000;
const PROTECTED_WITHIN_MS = 180_000;
const POLL_MS = 200;
const MOMENTS_OF_ROUND = 2;

export const CONTINUOUS_KINDS = ['moments', 'kill-machine', 'kill-service', 'kill-both'] as const;
export type ContinuousKind = (typeof CONTINUOUS_KINDS)[number];

/**
 * A machine with a database under continuous protection. Its QEMU, the service, or both are killed; the newest state and random
 * moments are booted, each with all commits that had been reported by then.
 */
export class ContinuousRounds implements AsyncDisposable {
  readonly rig: DatabaseRig;
  readonly counts: Partial<Record<ContinuousKind, number>> = {};
  readonly #dice: Dice;
  /** From when on every moment can be recovered, ms since 1970. */
  #protectedFromMs: number = 0;

  private constructor(rig: DatabaseRig, dice: Dice) {
    this.rig = rig;
    this.#dice = dice;
  }

  /** Works in an empty directory with a short path, which is the caller's. */
  static async create(directory: string, seed: number): Promise<ContinuousRounds> {
    const dice = new Dice(seed);
    const rig = await DatabaseRig.create(directory, dice.below(2) === 0 ? 'wal' : 'delete');
    const rounds = new ContinuousRounds(rig, dice);
    try {
      await rig.appliance.ask('protect', ORIGINAL, '--continuous', ...rig.connect);
      return rounds;
    } catch (error) {
      await rig[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Each kind comes once before any comes again. */
  async run(rounds: number, onRound?: () => void): Promise<void> {
    let kinds: ContinuousKind[] = [];
    for (let n = 0; n < rounds; n++) {
      if (kinds.length === 0) kinds = [...CONTINUOUS_KINDS];
      const [kind = 'moments'] = kinds.splice(this.#dice.below(kinds.length), 1);
      await this.round(kind);
      onRound?.();
    }
  }

  async round(kind: ContinuousKind): Promise<void> {
    this.rig.begin(kind);
    await this.#untilProtected();
    await this.#work(this.rig.original);
    await this.#play(kind);
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
  }

  async #play(kind: ContinuousKind): Promise<void> {
    const { rig } = this;
    const { commits } = rig.original;
    if (kind === 'moments') {
      const toMs = systemClock.nowMs();
      await this.#examineMoments(commits, toMs);
      await this.#bootNewest(rig.original.newest);
      return;
    }
    if (kind === 'kill-service') {
      const reported = await this.#killServiceOfRunning();
      await this.#examineMoments(commits, reported.atMs);
      for (const from of await this.#gapsSinceKill()) await rig.examine(`${ORIGINAL}@${from}`, reported.number);
      return;
    }
    const killedAtMs = systemClock.nowMs();
    await rig.killMachine(ORIGINAL);
    const reported = await rig.originalEnded();
    if (kind === 'kill-both') {
      await rig.killService();
      await rig.serve();
    }
    await this.#bootNewest(reported);
    await this.#examineMoments(commits, killedAtMs);
    await rig.startOriginal(reported);
  }

  async #untilProtected(): Promise<void> {
    await this.#reach('protected');
    this.#protectedFromMs = systemClock.nowMs() + 1;
    this.rig.note('protected');
  }

  async #reach(state: ProtectionReport['state']): Promise<void> {
    const deadline = systemClock.elapsedMs() + PROTECTED_WITHIN_MS * patience();
    for (;;) {
      const report = await this.#report();
      if (report.state === state) return;
      if (systemClock.elapsedMs() > deadline) assert.fail(`it does not get ${state}: ${JSON.stringify(report)}`);
      await delay(POLL_MS);
    }
  }

  async #report(): Promise<ProtectionReport> {
    const [report] = await this.rig.appliance.ask<ProtectionReport[]>('protection');
    assert.ok(report !== undefined, 'nothing is protected');
    return report;
  }

  /** The guest runs on without the service, and what it had reported before the kill is the last of the stretch. */
  async #killServiceOfRunning(): Promise<ReportedCommit> {
    const { rig } = this;
    const { commits } = rig.original;
    const reported = { number: rig.original.newest, atMs: commits.at(-1)?.atMs ?? 0 };
    await rig.killService();
    await rig.settled(rig.original);
    rig.note(`killed at ${reported.number}, and the guest runs on: ${rig.original.newest}`);
    await rig.serve();
    await this.#reach('protected');
    return reported;
  }

  /** Where the last gap by a kill begins, and, behind it, the state that was caught up to. */
  async #gapsSinceKill(): Promise<string[]> {
    const { gaps } = await this.#report();
    const last = gaps.findLastIndex(({ reason }) => reason === 'interrupted');
    assert.ok(last !== -1, 'the time without service is no gap');
    return gaps.slice(last).map(({ from }) => from);
  }

  async #bootNewest(reported: number): Promise<void> {
    const { rig } = this;
    using reports = await rig.boot(`${ORIGINAL}@latest`);
    await rig.assertHolds(reports, reported);
    await rig.appliance.ask('stop', SPARE, '--discard');
  }

  /** Random moments since the protection began (again). Each has what had been reported by then, and nothing of later. */
  async #examineMoments(commits: readonly ReportedCommit[], toMs: number): Promise<void> {
    const fromMs = this.#protectedFromMs;
    assert.ok(toMs > fromMs);
    for (let n = 0; n < MOMENTS_OF_ROUND; n++) {
      const atMs = fromMs + this.#dice.below(toMs - fromMs);
      const reported = commits.findLast((commit) => commit.atMs < atMs)?.number ?? 0;
      const number = await this.rig.examine(`${ORIGINAL}@${new Date(atMs).toISOString()}`, reported);
      const later = commits.find((commit) => commit.atMs > atMs + REPORT_LAG_MS)?.number ?? Number.POSITIVE_INFINITY;
      assert.ok(number < later, `at ${atMs} there is commit ${number}, and ${later} was reported much later`);
    }
  }

  async #work(reports: DatabaseReports): Promise<void> {
    await reports.until(reports.newest + 1);
    await delay(this.#dice.below(LONGEST_RUN_MS));
  }
}
