// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import type { Principal } from '../../access/principal.ts';
import { type Clock, systemClock } from '../../core/clock.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import { InvariantViolation } from '../../core/invariant.ts';
import type { OperationContext, OperationName } from '../operations.ts';
import type { RunReport, RunSummary } from '../schemas/runs.ts';
import { asApplianceError, encodeError } from '../wire-error.ts';
import { Run, type RunMessage, type RunRequest } from './run.ts';
import { RunHistory, type RunRecords } from './run-history.ts';

/** Runs at the same time; more wait in a queue, and more than that are refused. */
export const MAX_RUNNING_RUNS = 64;
export const MAX_QUEUED_RUNS = 1_000;

/** Runs that have ended stay whole in memory for those who come a little late. */
const MAX_FRESH_RUNS = 64;

/** Characters of an id that have to be given at least. */
const MIN_ID_CHARACTERS = 4;

/** How long `cancel` waits for the end of what it cancelled. */
export const CANCEL_PATIENCE_MS = 30_000;

export interface RunServiceParts {
  /** Does an operation. */
  readonly perform: (
    operation: OperationName,
    params: RunRequest['params'],
    context: OperationContext,
  ) => Promise<unknown>;
  readonly records: RunRecords;
  /** Called for every change of any run. */
  readonly onMessage?: (run: Run, message: RunMessage) => void;
  readonly onNotice: (sentence: string) => void;
  /** An assumption of our own code did not hold: the process must not go on. */
  readonly onDefect: (violation: InvariantViolation) => void;
  readonly clock?: Clock;
}

/** Operations that take their time: started, followed, listed, cancelled; what became of them is remembered. */
export class RunService {
  readonly #parts: RunServiceParts;
  readonly #clock: Clock;
  readonly #history: RunHistory;
  /** Running and queued ones, oldest first. */
  readonly #live = new Map<string, Run>();
  readonly #fresh = new Map<string, Run>();
  #running = 0;
  #loading: Promise<void> | undefined;
  #isStopping = false;

  constructor(parts: RunServiceParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#history = new RunHistory(parts.records, (error) => {
      // The catalog is being rebuilt: it is written afterwards.
      if (hasCode(error, 'LOCKED')) return;
      parts.onNotice(`the history of runs could not be written: ${asApplianceError(error).message}`);
    });
  }

  /** Reads the history, once. A run that had not ended did so with its process: it has failed with INTERRUPTED. */
  load(): Promise<void> {
    const loading = (this.#loading ??= this.#history.load((run) => (this.#live.has(run.id) ? run : this.#mend(run))));
    loading.catch(() => {
      if (this.#loading === loading) this.#loading = undefined;
    });
    return loading;
  }

  /** Starts one, or queues it. @throws TOO_BUSY; SERVICE_UNREACHABLE when no new ones are taken */
  start(request: RunRequest): Run {
    if (this.#isStopping) throw stopping();
    const queued = this.#live.size - this.#running;
    if (this.#running >= MAX_RUNNING_RUNS && queued >= MAX_QUEUED_RUNS) {
      throw new ApplianceError('TOO_BUSY', `${MAX_QUEUED_RUNS} runs are waiting already`);
    }
    const run = new Run(randomBytes(8).toString('hex'), request, this.#clock);
    this.#live.set(run.id, run);
    run.follow((message) => this.#parts.onMessage?.(run, message));
    this.#history.save(run.report());
    void run.ended.then(() => this.#settle(run));
    this.#next();
    if (run.state === 'queued') this.#parts.onMessage?.(run, { type: 'run', run: run.report() });
    return run;
  }

  /** A run that has not ended, or has just done so. */
  find(id: string): Run | undefined {
    return this.#live.get(id) ?? this.#fresh.get(id);
  }

  /** Everything of a run, by its id or the beginning of it. @throws RUN_NOT_FOUND; BAD_ARGUMENT when several begin so */
  async show(id: string): Promise<RunReport> {
    await this.load();
    const full = this.#resolve(id);
    const report = this.find(full)?.report() ?? (await this.#history.get(full));
    if (report === undefined) throw notFound(id);
    return report;
  }

  /** Newest first. */
  async list(last: number = Number.POSITIVE_INFINITY): Promise<readonly RunSummary[]> {
    await this.load();
    const summaries = this.#history.summaries().map((summary) => this.#live.get(summary.id)?.summary() ?? summary);
    return summaries.reverse().slice(0, last);
  }

  /** It takes no new ones, and has cancelled those that there were: it was not their fault. */
  get isStopping(): boolean {
    return this.#isStopping;
  }

  /** Those that have not ended, oldest first. */
  live(): readonly Run[] {
    return [...this.#live.values()];
  }

  /** Cancels a run, and waits a while for its end. One that has ended stays as it is. @throws RUN_NOT_FOUND, … as `show` */
  async cancel(id: string, by: Principal): Promise<RunReport> {
    await this.load();
    const run = this.#live.get(this.#resolve(id));
    if (run === undefined) return this.show(id);
    run.cancel(by.kind === 'local' ? 'interrupted' : `cancelled by ${by.name}`);
    await endOf([run], CANCEL_PATIENCE_MS);
    return run.report();
  }

  /**
   * Takes no new ones, cancels those that wait and run, and waits for their end; false when some still ran at the deadline.
   */
  async stop({ deadlineMs }: { readonly deadlineMs: number }): Promise<boolean> {
    this.#isStopping = true;
    const runs = this.live();
    for (const run of runs) run.cancel('the service stops');
    await endOf(runs, deadlineMs);
    await this.#history.settled();
    return this.#live.size === 0;
  }

  /** The full id. */
  #resolve(id: string): string {
    if (this.#live.has(id) || this.#history.has(id)) return id;
    if (!/^[0-9a-f]*$/.test(id) || id.length < MIN_ID_CHARACTERS) throw notFound(id);
    const found = this.#history.summaries().filter((summary) => summary.id.startsWith(id));
    const [first, second] = found;
    if (first === undefined) throw notFound(id);
    if (second !== undefined) throw new ApplianceError('BAD_ARGUMENT', `${found.length} runs begin with ${id}`);
    return first.id;
  }

  #next(): void {
    for (const run of this.#live.values()) {
      if (this.#running >= MAX_RUNNING_RUNS) return;
      if (run.state === 'queued') void this.#perform(run);
    }
  }

  async #perform(run: Run): Promise<void> {
    this.#running += 1;
    const { operation, params } = run.request;
    const thrown = await run.perform((context) => {
      this.#history.save(run.report());
      return this.#parts.perform(operation, params, context);
    });
    this.#running -= 1;
    if (thrown instanceof InvariantViolation) this.#parts.onDefect(thrown);
  }

  #settle(run: Run): void {
    this.#live.delete(run.id);
    this.#fresh.set(run.id, run);
    for (const id of this.#fresh.keys()) {
      if (this.#fresh.size <= MAX_FRESH_RUNS) break;
      this.#fresh.delete(id);
    }
    this.#history.save(run.report());
    queueMicrotask(() => this.#next());
  }

  #mend(run: RunReport): RunReport {
    const message = `the appliance ended before ${run.operation} had`;
    return {
      ...run,
      state: 'failed',
      endedAt: new Date(this.#clock.nowMs()).toISOString(),
      error: encodeError(new ApplianceError('INTERRUPTED', message)),
    };
  }
}

async function endOf(runs: readonly Run[], limitMs: number): Promise<void> {
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, limitMs);
  await Promise.race([Promise.all(runs.map((run) => run.ended)), late.promise]);
  clearTimeout(timer);
}

function notFound(id: string): ApplianceError {
  return new ApplianceError('RUN_NOT_FOUND', `there is no run ${JSON.stringify(id)}`);
}

/** What a service that ends answers. */
export function stopping(): ApplianceError {
  return new ApplianceError('SERVICE_UNREACHABLE', 'the service is stopping', {
    hint: 'Run the command again when it has stopped.',
  });
}
