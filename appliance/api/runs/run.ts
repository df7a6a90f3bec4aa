// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../../access/principal.ts';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';
import { withoutSecrets } from '../operation-routes.ts';
import type { OperationContext, OperationName, Progress } from '../operations.ts';
import type { RunReport, RunState, RunSummary } from '../schemas/runs.ts';
import { encodeError } from '../wire-error.ts';

/** Progress is for eyes: more often than this it is left out, except for a new phase and the end of one. */
const PROGRESS_INTERVAL_MS = 100;

/** Notices that a run keeps: the first ones, and as many of the newest. */
const MAX_FIRST_NOTICES = 100;
const MAX_NEWEST_NOTICES = 100;
const MAX_NOTICE_CHARACTERS = 1_000;

/** What somebody who follows a run is told. `number` counts the notices of the run from 1. */
export type RunMessage =
  | { readonly type: 'run'; readonly run: RunReport }
  | { readonly type: 'progress'; readonly progress: Progress }
  | { readonly type: 'notice'; readonly number: number; readonly notice: string };

export interface RunRequest {
  readonly operation: OperationName;
  /** Checked. */
  readonly params: Readonly<Record<string, unknown>>;
  readonly principal: Principal;
  readonly requestId?: string;
  /** Where it was asked for; left out for this host. */
  readonly address?: string;
  /** Of the machine that it is about, where it is known already. */
  readonly machineId?: string | undefined;
}

/** Names of parameters that name the machine, or a state of it. */
const MACHINE_PARAMETERS = ['machine', 'target', 'name', 'point'] as const;

/**
 * One run that has not ended, or has just done so. Invariants: the state goes queued → running → an end, or queued →
 * cancelled; nothing changes after an end; `ended` resolves then, and never rejects.
 */
export class Run {
  readonly id: string;
  readonly request: RunRequest;
  readonly ended: Promise<void>;
  readonly #clock: Clock;
  readonly #controller = new AbortController();
  readonly #end = Promise.withResolvers<void>();
  readonly #listeners = new Set<(message: RunMessage) => void>();
  readonly #firstNotices: string[] = [];
  #newestNotices: string[] = [];
  #noticeCount = 0;
  #report: RunReport;
  #lastProgress: { readonly phase: string; readonly atMs: number } | undefined;

  constructor(id: string, request: RunRequest, clock: Clock) {
    this.id = id;
    this.request = request;
    this.#clock = clock;
    this.ended = this.#end.promise;
    const { kind, id: by, name } = request.principal;
    this.#report = {
      id,
      operation: request.operation,
      machine: machineIn(request.params),
      machineId: request.machineId ?? null,
      startedBy: { kind, id: by, name },
      createdAt: this.#now(),
      startedAt: null,
      endedAt: null,
      state: 'queued',
      progress: null,
      error: null,
      params: withoutSecrets(request.operation, request.params),
      notices: [],
      result: null,
    };
  }

  get state(): RunState {
    return this.#report.state;
  }

  get hasEnded(): boolean {
    return this.#report.endedAt !== null;
  }

  /** Everything of it, now. */
  report(): RunReport {
    const left = this.#noticeCount - this.#firstNotices.length - this.#newestNotices.length;
    const gap = left > 0 ? [`(${left} notices are not kept)`] : [];
    return { ...this.#report, notices: [...this.#firstNotices, ...gap, ...this.#newestNotices] };
  }

  summary(): RunSummary {
    return summaryOf(this.#report);
  }

  /** The notices that are kept, with their numbers. */
  notices(): readonly (RunMessage & { readonly type: 'notice' })[] {
    const newestFrom = this.#noticeCount - this.#newestNotices.length;
    const numbered = (from: number) => (notice: string, index: number) =>
      ({ type: 'notice', number: from + index + 1, notice }) as const;
    return [...this.#firstNotices.map(numbered(0)), ...this.#newestNotices.map(numbered(newestFrom))];
  }

  /** Calls the listener with everything from here on; the last message is the run at its end. */
  follow(listener: (message: RunMessage) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Asks it to stop at a safe place; a queued one has ended when this returns. */
  cancel(reason: string): void {
    if (this.hasEnded) return;
    const error = new ApplianceError('ABORTED', reason);
    this.#controller.abort(error);
    if (this.state === 'queued') this.#finish({ state: 'cancelled', error: encodeError(error), result: null });
  }

  /** Does it. Settles, and never rejects, when nothing of it runs any more; with what it threw, for who has to know. */
  async perform(work: (context: OperationContext) => Promise<unknown>): Promise<unknown> {
    this.#change({ state: 'running', startedAt: this.#now() });
    this.#tell({ type: 'run', run: this.report() });
    try {
      const result = await work(this.#context());
      this.#finish({ state: 'succeeded', error: null, result, ...machineOf(result) });
      return undefined;
    } catch (thrown) {
      const error = encodeError(thrown, this.#controller.signal);
      const isCancelled = error.code === 'ABORTED' && this.#controller.signal.aborted;
      this.#finish({ state: isCancelled ? 'cancelled' : 'failed', error, result: null });
      return thrown;
    }
  }

  #context(): OperationContext {
    return {
      signal: this.#controller.signal,
      principal: this.request.principal,
      ...(this.request.requestId === undefined ? {} : { requestId: this.request.requestId }),
      ...(this.request.address === undefined ? {} : { address: this.request.address }),
      onProgress: (progress) => this.#takeProgress(progress),
      onNotice: (notice) => this.#takeNotice(notice),
    };
  }

  #takeProgress(progress: Progress): void {
    if (this.hasEnded) return;
    this.#change({ progress });
    const atMs = this.#clock.elapsedMs();
    const last = this.#lastProgress;
    const isEnd = progress.total > 0 && progress.done >= progress.total;
    const isDue = last === undefined || last.phase !== progress.phase || atMs - last.atMs >= PROGRESS_INTERVAL_MS;
    if (!isDue && !isEnd) return;
    this.#lastProgress = { phase: progress.phase, atMs };
    this.#tell({ type: 'progress', progress });
  }

  #takeNotice(text: string): void {
    if (this.hasEnded) return;
    const notice = text.slice(0, MAX_NOTICE_CHARACTERS);
    this.#noticeCount += 1;
    if (this.#firstNotices.length < MAX_FIRST_NOTICES) this.#firstNotices.push(notice);
    else this.#newestNotices = [...this.#newestNotices, notice].slice(-MAX_NEWEST_NOTICES);
    this.#tell({ type: 'notice', number: this.#noticeCount, notice });
  }

  #finish(end: Partial<RunReport> & Pick<RunReport, 'state'>): void {
    this.#change({ ...end, endedAt: this.#now() });
    this.#tell({ type: 'run', run: this.report() });
    this.#listeners.clear();
    this.#end.resolve();
  }

  #change(members: Partial<RunReport>): void {
    this.#report = { ...this.#report, ...members };
  }

  #tell(message: RunMessage): void {
    for (const listener of this.#listeners) listener(message);
  }

  #now(): string {
    return new Date(this.#clock.nowMs()).toISOString();
  }
}

/** What a list shows of a run. */
export function summaryOf(run: RunReport): RunSummary {
  const { params: _params, notices: _notices, result: _result, ...summary } = run;
  return summary;
}

/** The machine that parameters name; a state names it before its `@`. */
export function machineIn(params: Readonly<Record<string, unknown>>): string | null {
  for (const name of MACHINE_PARAMETERS) {
    const value = params[name];
    if (typeof value !== 'string') continue;
    if (name !== 'point') return value;
    return value.includes('@') ? value.slice(0, value.indexOf('@')) : null;
  }
  return null;
}

/** What a result says of the machine that it is about. */
function machineOf(result: unknown): Partial<Pick<RunReport, 'machine' | 'machineId'>> {
  if (typeof result !== 'object' || result === null) return {};
  const { machine, machineId } = result as { readonly machine?: unknown; readonly machineId?: unknown };
  return {
    ...(typeof machine === 'string' ? { machine } : {}),
    ...(typeof machineId === 'string' ? { machineId } : {}),
  };
}
