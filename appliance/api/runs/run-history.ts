// SPDX-License-Identifier: Apache-2.0
import type { RunReport, RunSummary } from '../schemas/runs.ts';
import { summaryOf } from './run.ts';

/** Runs that are remembered; the oldest are forgotten. */
export const MAX_REMEMBERED_RUNS = 10_000;

/** A larger result is not kept with its run. */
const MAX_RESULT_CHARACTERS: number = 256 * 1024;

/** Where runs are kept: the catalog's `run/` records. Each call is durable when it settles. */
export interface RunRecords {
  all(): Promise<ReadonlyMap<string, RunReport>>;
  get(id: string): Promise<RunReport | undefined>;
  put(id: string, run: RunReport): Promise<void>;
  delete(id: string): Promise<void>;
}

/**
 * What became of the runs, bounded. Summaries are in memory, newest last; everything else of a run is read when asked for.
 * A record that cannot be written is written with a later one: a run does not fail because its history does.
 */
export class RunHistory {
  readonly #records: RunRecords;
  readonly #onProblem: (error: unknown) => void;
  readonly #summaries = new Map<string, RunSummary>();
  readonly #unwritten = new Map<string, RunReport | undefined>();
  #writing: Promise<void> = Promise.resolve();

  constructor(records: RunRecords, onProblem: (error: unknown) => void) {
    this.#records = records;
    this.#onProblem = onProblem;
  }

  /** Reads what is kept. Runs that had not ended are given to `mend`, which says what became of them. */
  async load(mend: (run: RunReport) => RunReport): Promise<void> {
    const runs = [...(await this.#records.all()).values()];
    runs.sort((left, right) => compareText(left.createdAt, right.createdAt) || compareText(left.id, right.id));
    for (const run of runs) {
      if (this.#summaries.has(run.id)) continue;
      if (run.endedAt !== null) this.#summaries.set(run.id, summaryOf(run));
      else this.save(mend(run));
    }
    this.#forget();
    await this.settled();
  }

  summaries(): readonly RunSummary[] {
    return [...this.#summaries.values()];
  }

  has(id: string): boolean {
    return this.#summaries.has(id);
  }

  async get(id: string): Promise<RunReport | undefined> {
    return this.#unwritten.get(id) ?? this.#records.get(id);
  }

  /** Remembers a run as it is now; written in order, in the background. */
  save(run: RunReport): void {
    this.#summaries.set(run.id, summaryOf(run));
    this.#unwritten.set(run.id, bounded(run));
    this.#forget();
    this.#writing = this.#writing.then(() => this.#write());
  }

  /** Resolves when everything so far was written, or could not be. */
  settled(): Promise<void> {
    return this.#writing;
  }

  #forget(): void {
    for (const [id, { endedAt }] of this.#summaries) {
      if (this.#summaries.size <= MAX_REMEMBERED_RUNS) return;
      if (endedAt === null) continue;
      this.#summaries.delete(id);
      this.#unwritten.set(id, undefined);
    }
  }

  async #write(): Promise<void> {
    for (const [id, run] of this.#unwritten) {
      try {
        if (run === undefined) await this.#records.delete(id);
        else await this.#records.put(id, run);
        if (this.#unwritten.get(id) === run) this.#unwritten.delete(id);
      } catch (error) {
        this.#onProblem(error);
        return;
      }
    }
  }
}

function bounded(run: RunReport): RunReport {
  if (run.result === null || JSON.stringify(run.result).length <= MAX_RESULT_CHARACTERS) return run;
  return { ...run, result: null, notices: [...run.notices, 'the result was too large to be kept'] };
}

function compareText(left: string, right: string): number {
  if (left === right) return 0;
  return left < right ? -1 : 1;
}
