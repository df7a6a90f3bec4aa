// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupReport, PointSummary } from '../../appliance/api/operations.ts';
import type { CheckReport, GcReport } from '../../appliance/api/schemas/repository.ts';
import { StateDirectory } from '../../appliance/app/state-directory.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { isTemporaryName } from '../../appliance/core/durable-file.ts';
import { openAppliance } from '../../appliance/main.ts';
import { ApplianceProcess, assertSameBytes, isRunning } from '../support/appliance-process.ts';
import { DiskServer } from '../support/disk-server.ts';
import type { LiveProcess } from '../support/live-process.ts';
import { Dice } from '../support/point-model.ts';
import { CONTEXT } from './points-rig.ts';

const MIB = 1024 * 1024;
const DISK_BYTES: number = 12 * MIB;
const CHANGE_BYTES: number = 3 * MIB;
const MOST_POINTS = 4;
/** Every so often everything that can be freed is freed, and what is left must be in proportion to what is listed. */
const ROUNDS_BETWEEN_WEIGHINGS = 10;

export interface KillOptions {
  readonly rounds: number;
  readonly seed: number;
  readonly onRound?: (tally: KillTally) => void;
}

export interface KillTally {
  rounds: number;
  /** By action: processes that were killed while they ran, and that had ended before. */
  readonly killed: Record<Action, number>;
  readonly missed: Record<Action, number>;
  /** Kills after which the point of the killed backup was there, whole. */
  pointsOfKilledBackups: number;
  /** Kills after which the deletion had happened. */
  deletionsOfKilled: number;
  pointsCompared: number;
}

const ACTIONS = ['backup', 'delete', 'delete-now', 'gc', 'service'] as const;
type Action = (typeof ACTIONS)[number];

/**
 * Kills the real program (SIGKILL) at random moments of backup, delete, gc and of a service that does all three at once.
 * After each kill: the listed points are those that must be there, each restores to the bytes that were on the disk then,
 * `check --read-data` is clean, a next backup works, and no unfinished file is left.
 */
export class CliKillRounds implements AsyncDisposable {
  readonly tally: KillTally;
  /** What was done last, for the report of a failure. */
  readonly steps: string[] = [];
  readonly #scope = new AsyncDisposableStack();
  readonly #directory: string;
  readonly #dice: Dice;
  readonly #appliance: ApplianceProcess;
  readonly #disk: DiskServer;
  readonly #content: Buffer;
  readonly #points = new Map<string, Buffer>();
  /** How long each action takes when nobody kills it, ms. */
  readonly #durations: Record<Action, number> = {
    backup: 1500,
    delete: 1000,
    'delete-now': 1000,
    gc: 1200,
    service: 1500,
  };

  private constructor(directory: string, made: { dice: Dice; disk: DiskServer; content: Buffer }) {
    this.#directory = directory;
    this.#dice = made.dice;
    this.#disk = this.#scope.use(made.disk);
    this.#content = made.content;
    this.#appliance = new ApplianceProcess({ use: (process) => process }, join(directory, 'state'));
    const zero = (): Record<Action, number> => ({ backup: 0, delete: 0, 'delete-now': 0, gc: 0, service: 0 });
    this.tally = {
      rounds: 0,
      killed: zero(),
      missed: zero(),
      pointsOfKilledBackups: 0,
      deletionsOfKilled: 0,
      pointsCompared: 0,
    };
  }

  /** Works in an empty directory with a short path, which is the caller's. */
  static async create(directory: string, seed: number): Promise<CliKillRounds> {
    const dice = new Dice(seed);
    const content = dice.bytes(DISK_BYTES);
    const disk = await DiskServer.start(join(directory, 'nbd'), content);
    const rounds = new CliKillRounds(directory, { dice, disk, content });
    await rounds.#appliance.ask('init');
    await rounds.#backUp();
    return rounds;
  }

  async run(rounds: number, onRound?: (tally: KillTally) => void): Promise<KillTally> {
    for (let n = 0; n < rounds; n++) {
      this.steps.length = 0;
      await this.#round();
      this.tally.rounds += 1;
      if (this.tally.rounds % ROUNDS_BETWEEN_WEIGHINGS === 0) await this.#weigh();
      onRound?.(this.tally);
    }
    return this.tally;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope.disposeAsync();
  }

  async #round(): Promise<void> {
    const action = ACTIONS[this.#dice.below(ACTIONS.length)] ?? 'backup';
    await this.#change();
    const victim = [...this.#points.keys()][this.#dice.below(this.#points.size)] ?? '';
    const mayGo = await this.#killIn(action, victim);
    await this.#verify(mayGo);
    await this.#backUp();
    while (this.#points.size > MOST_POINTS) await this.#delete([...this.#points.keys()][0] ?? '');
  }

  /** Starts the action, kills it, and settles with the points that may be gone now. */
  async #killIn(action: Action, victim: string): Promise<ReadonlySet<string>> {
    if (action === 'service') return this.#killService(victim);
    const words = {
      backup: this.#backupWords(),
      delete: ['delete', victim, '--yes'],
      'delete-now': ['delete', victim, '--yes', '--now'],
      gc: ['gc', '--now'],
    }[action];
    this.#note(`${words.join(' ')}, killed`);
    const running = this.#appliance.start(...words, '--json');
    await this.#killAtRandom(running, action);
    return new Set(action === 'delete' || action === 'delete-now' ? [victim] : []);
  }

  async #killService(victim: string): Promise<ReadonlySet<string>> {
    this.#note(`serve, with a backup, delete ${victim} --now and gc --now at once, killed`);
    const service = await this.#appliance.serve();
    const clients = [
      this.#appliance.start(...this.#backupWords(), '--json'),
      this.#appliance.start('delete', victim, '--yes', '--now', '--json'),
      this.#appliance.start('gc', '--now', '--json'),
    ];
    await this.#killAtRandom(service, 'service');
    await Promise.all(clients.map(({ result }) => result));
    return new Set([victim]);
  }

  async #killAtRandom(running: LiveProcess, action: Action): Promise<void> {
    // Half of the backups are killed from the moment on at which they write.
    if (action === 'backup' && this.#dice.below(2) === 0) {
      while (isRunning(running) && (await this.#appliance.stagedBytes()) === 0) await delay(2);
      await this.#pause(running, this.#dice.below(400));
    } else await this.#pause(running, this.#dice.below(this.#durations[action] * 1.1));
    if (isRunning(running)) this.tally.killed[action] += 1;
    else {
      this.tally.missed[action] += 1;
      this.#durations[action] *= 0.9;
    }
    running.kill('SIGKILL');
    await running.result;
    if (isRunning(running)) throw new Error('it is still running');
    this.#durations[action] += 5;
  }

  async #pause(running: LiveProcess, ms: number): Promise<void> {
    await Promise.race([delay(ms), running.result]);
  }

  /** Every listed point is known or the killed backup's; those that nobody deleted are there; all restore. */
  async #verify(mayGo: ReadonlySet<string>): Promise<void> {
    this.#note('verify');
    const listed = await this.#listAndCompare();
    for (const id of this.#points.keys()) {
      if (listed.has(id)) continue;
      assert.ok(mayGo.has(id), `point ${id} is gone although nobody deleted it`);
      this.#points.delete(id);
      this.tally.deletionsOfKilled += 1;
    }
    const check = await this.#appliance.run('check', '--read-data', '--json');
    assert.equal(check.exitCode, 0, `check: ${check.stdout}${check.stderr}`);
    assert.deepEqual((JSON.parse(check.stdout) as CheckReport).findings, []);
    await this.#assertTidy();
  }

  async #listAndCompare(): Promise<Set<string>> {
    const appliance = await openAppliance({ stateDirectory: this.#appliance.state });
    try {
      const points: readonly PointSummary[] = await appliance.points({}, CONTEXT);
      for (const { id } of points) {
        if (!this.#points.has(id)) {
          // Nothing but the backup that was killed can have made it, and the disk is as it was then.
          this.#points.set(id, Buffer.from(this.#content));
          this.tally.pointsOfKilledBackups += 1;
        }
        const to = join(this.#directory, 'restored');
        await appliance.restore({ point: id, to }, CONTEXT);
        assertSameBytes(await readFile(to), this.#points.get(id) ?? Buffer.alloc(0), `point ${id}`);
        await rm(to);
        this.tally.pointsCompared += 1;
      }
      return new Set(points.map(({ id }) => id));
    } finally {
      await appliance[Symbol.asyncDispose]();
    }
  }

  /** Nothing unfinished lies in repository or state, and no socket is left. */
  async #assertTidy(): Promise<void> {
    const { state, repository } = this.#appliance;
    assert.deepEqual(await readdir(join(repository, 'staging')), [], 'staging');
    const unfinished = (await readdir(state, { recursive: true })).filter(isTemporaryName);
    assert.deepEqual(unfinished, [], 'unfinished files');
    for (const name of ['exports', 'scratch', 'sessions']) {
      await mkdir(join(state, name), { recursive: true });
      assert.deepEqual(await readdir(join(state, name)), [], name);
    }
    const runtime = new StateDirectory(state).runtimePath;
    assert.deepEqual(await readdir(runtime).catch(() => []), [], 'sockets');
  }

  /** After a collection the repository holds what the points need, and not much more. */
  async #weigh(): Promise<void> {
    this.#note('gc --now, weighed');
    await this.#appliance.ask<GcReport>('gc', '--now');
    const { repository, state } = this.#appliance;
    const packs = await weightOf(join(repository, 'packs'));
    const unique = DISK_BYTES + this.#points.size * 2 * CHANGE_BYTES;
    assert.ok(packs < 2.2 * unique, `packs hold ${packs} bytes for at most ${unique} bytes of content`);
    const catalog = await weightOf(join(state, 'catalog'));
    assert.ok(catalog < 12 * MIB, `the catalog takes ${catalog} bytes`);
    const deleted = await readdir(join(repository, 'deleted'), { recursive: true }).catch(() => []);
    assert.deepEqual(
      deleted.filter((name) => name.endsWith('.json')),
      [],
    );
  }

  async #backUp(): Promise<void> {
    this.#note('backup');
    const startedMs = systemClock.elapsedMs();
    const { point } = await this.#appliance.ask<BackupReport>(...this.#backupWords());
    this.#durations.backup = systemClock.elapsedMs() - startedMs;
    this.#durations.service = this.#durations.backup;
    this.#points.set(point, Buffer.from(this.#content));
  }

  async #delete(point: string): Promise<void> {
    const isNow = this.#dice.below(2) === 0;
    this.#note(`delete ${point}${isNow ? ' --now' : ''}`);
    const startedMs = systemClock.elapsedMs();
    await this.#appliance.ask('delete', point, '--yes', ...(isNow ? ['--now'] : []));
    const tookMs = systemClock.elapsedMs() - startedMs;
    for (const action of ['delete', 'delete-now', 'gc'] as const) this.#durations[action] = tookMs;
    this.#points.delete(point);
  }

  /** Writes over a part of the disk: noise, zeroes, or what lies elsewhere. */
  async #change(): Promise<void> {
    const length = 1 + this.#dice.below(CHANGE_BYTES);
    const offset = this.#dice.below(DISK_BYTES - length);
    const part = this.#content.subarray(offset, offset + length);
    const kind = this.#dice.below(4);
    if (kind === 0) part.fill(0);
    else if (kind === 1) Buffer.from(this.#content.subarray(0, length)).copy(part);
    else this.#dice.bytes(length + 4).copy(part, 0, 0, length);
    await this.#disk.write(part, offset);
  }

  #backupWords(): readonly string[] {
    return ['backup', this.#disk.uri, '--name', 'mail'];
  }

  #note(step: string): void {
    this.steps.push(step);
  }
}

async function weightOf(directory: string): Promise<number> {
  let total = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) total += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return total;
}
