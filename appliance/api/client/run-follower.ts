// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { API_ROOT } from '../operation-routes.ts';
import type { OperationContext, Progress } from '../operations.ts';
import type { RunReport } from '../schemas/runs.ts';
import { decodeError } from '../wire-error.ts';
import type { Endpoint } from './endpoint.ts';
import { EventSource, type ServerEvent } from './event-source.ts';
import { jsonAnswer } from './json-answer.ts';

/** How long a cancelled run may take to end in the service before its client stops waiting for it. */
const CANCEL_LIMIT_MS = 30_000;

/** A stream that breaks is opened again, so often without hearing anything, and after these pauses. */
const RECONNECT_PAUSES_MS = [0, 200, 1_000, 3_000] as const;

/**
 * Follows a run to its end: what it says goes to the context, its outcome is the outcome of the call. When the context's signal is
 * aborted the run is cancelled, and its end waited for.
 */
export class RunFollower {
  readonly #endpoint: Endpoint;
  readonly #context: OperationContext;
  readonly #run: RunReport;
  #noticesSeen = 0;
  #source: EventSource | undefined;
  #cancelLimit: NodeJS.Timeout | undefined;
  #isGivenUp = false;

  constructor(endpoint: Endpoint, run: RunReport, context: OperationContext) {
    this.#endpoint = endpoint;
    this.#run = run;
    this.#context = context;
  }

  /** @throws the error of the run; ABORTED, SERVICE_UNREACHABLE */
  async result(): Promise<unknown> {
    const { signal } = this.#context;
    const onAbort = (): void => void this.#cancel();
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      const run = await this.#follow();
      if (run.state === 'succeeded') return run.result;
      throw decodeError(run.error);
    } finally {
      clearTimeout(this.#cancelLimit);
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #follow(): Promise<RunReport> {
    let attempt = 0;
    for (;;) {
      const heard = { any: false };
      try {
        const run = await this.#listen(heard);
        if (run !== undefined) return run;
        throw new Error('the connection was closed');
      } catch (thrown) {
        if (this.#isGivenUp) throw new ApplianceError('ABORTED', `${this.#run.operation} was interrupted`);
        attempt = heard.any ? 1 : attempt + 1;
        const pause = RECONNECT_PAUSES_MS[attempt - 1];
        if (pause === undefined || !this.#mayComeBack(thrown)) throw this.#describe(thrown);
        await delay(pause);
      }
    }
  }

  /** The run at its end; undefined when the stream ended before. */
  async #listen(heard: { any: boolean }): Promise<RunReport | undefined> {
    const path = `${API_ROOT}/runs/${this.#run.id}/events`;
    const source = await EventSource.open(this.#endpoint, { path });
    this.#source = source;
    try {
      for await (const event of source.events()) {
        heard.any = true;
        const end = this.#take(event);
        if (end !== undefined) return end;
      }
      return undefined;
    } finally {
      source.close();
    }
  }

  #take({ event, data }: ServerEvent): RunReport | undefined {
    if (event === 'progress') this.#context.onProgress(data as Progress);
    if (event === 'notice') {
      const { number, notice } = data as { readonly number: number; readonly notice: string };
      if (number <= this.#noticesSeen) return undefined;
      this.#noticesSeen = number;
      this.#context.onNotice(notice);
    }
    if (event !== 'run') return undefined;
    const run = data as RunReport;
    if (run.endedAt === null && run.progress !== null) this.#context.onProgress(run.progress);
    return run.endedAt === null ? undefined : run;
  }

  async #cancel(): Promise<void> {
    this.#cancelLimit = setTimeout(() => {
      this.#isGivenUp = true;
      this.#source?.close();
    }, CANCEL_LIMIT_MS);
    try {
      await jsonAnswer(
        this.#endpoint.send({ method: 'POST', path: `${API_ROOT}/runs/${this.#run.id}/cancel`, body: {} }),
      );
    } catch (error) {
      // A service that stops cancels it anyway; where it is gone, the stream says so.
      if (hasCode(error, 'SERVICE_UNREACHABLE') || !(error instanceof ApplianceError)) return;
      this.#context.onNotice(`the run ${this.#run.id} could not be cancelled: ${error.message}`);
    }
  }

  #mayComeBack(thrown: unknown): boolean {
    if (!(thrown instanceof ApplianceError)) return true;
    return hasCode(thrown, 'TOO_BUSY');
  }

  #describe(thrown: unknown): ApplianceError {
    if (thrown instanceof ApplianceError) return thrown;
    const error = toError(thrown);
    const { operation, id } = this.#run;
    const described = this.#endpoint.describe(new Error(error.message, { cause: error }), operation);
    return new ApplianceError(described.code, described.message, {
      cause: error,
      details: { ...described.details, run: id },
      hint: described.hint,
    });
  }
}
