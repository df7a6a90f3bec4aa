// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import { type Clock, systemClock } from '../core/clock.ts';
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError } from '../core/errors.ts';
import { InvariantViolation } from '../core/invariant.ts';
import { CONTENT_TYPE, type ControlMessage, encodeMessage } from './control-protocol.ts';
import type {
  Appliance,
  ExportReport,
  OperationContext,
  OperationName,
  OperationParams,
  Progress,
} from './operations.ts';

import { asApplianceError, encodeError } from './wire-error.ts';

/** Progress is for eyes: more often than this it is left out, except for a new phase and the end of one. */
const PROGRESS_INTERVAL_MS = 100;

export interface OperationRunOptions {
  readonly appliance: Appliance;
  readonly name: OperationName;
  /** Checked against the operation's schema. */
  readonly params: OperationParams<OperationName>;
  /** Nothing was sent on it yet; it belongs to the run from now on. */
  readonly response: ServerResponse;
  readonly logger: Logger;
  /** An assumption of our own code did not hold: the process must not go on (see `invariant`). */
  readonly onDefect: (violation: InvariantViolation) => void;
  readonly clock?: Clock;
}

/**
 * One operation and the answer that it streams. Its signal is aborted when the client goes away or by `abort`; `outcome`
 * resolves to the code of its error or undefined, and never rejects, when nothing of it runs any more. An export ends
 * with its run.
 */
export class OperationRun {
  readonly id: string = randomUUID();
  readonly name: OperationName;
  readonly outcome: Promise<ErrorCode | undefined>;
  private readonly options: OperationRunOptions;
  private readonly clock: Clock;
  private readonly controller = new AbortController();
  private lastProgress: { readonly phase: string; readonly atMs: number } | undefined;
  private heldExportId: string | undefined;
  private endHold: (() => void) | undefined;

  constructor(options: OperationRunOptions) {
    this.options = options;
    this.name = options.name;
    this.clock = options.clock ?? systemClock;
    this.outcome = this.run();
  }

  abort(reason: string): void {
    this.controller.abort(new ApplianceError('ABORTED', reason));
    this.endHold?.();
  }

  /** The export that this run keeps alive, if it is one. */
  get exportId(): string | undefined {
    return this.heldExportId;
  }

  /** The export was ended by somebody else: the answer ends, and nothing is left to do. */
  releaseExport(): void {
    this.heldExportId = undefined;
    this.endHold?.();
  }

  private async run(): Promise<ErrorCode | undefined> {
    const { response, logger } = this.options;
    const startedMs = this.clock.elapsedMs();
    response.on('error', (error) => logger.debug({ err: error, operation: this.name }, 'answer not delivered'));
    response.on('close', () => {
      if (!response.writableFinished) this.abort('the client went away');
    });
    if (response.destroyed) this.abort('the client went away');
    response.writeHead(200, { 'content-type': CONTENT_TYPE, 'cache-control': 'no-store' });
    this.send({ started: { id: this.id } });
    logger.info({ operation: this.name, id: this.id, params: this.options.params }, 'started');
    const code = await this.perform();
    response.end();
    const durationMs = Math.round(this.clock.elapsedMs() - startedMs);
    logger.info({ operation: this.name, id: this.id, durationMs, outcome: code ?? 'ok' }, 'ended');
    return code;
  }

  private async perform(): Promise<ErrorCode | undefined> {
    try {
      const result = await callOperation(this.options, this.context());
      this.send({ result });
      if (this.name === 'export') await this.holdExport((result as ExportReport).id);
      return undefined;
    } catch (thrown) {
      const error = asApplianceError(thrown, this.controller.signal);
      if (error.code === 'INTERNAL') this.options.logger.error({ err: thrown, operation: this.name }, 'a defect');
      if (thrown instanceof InvariantViolation) this.options.onDefect(thrown);
      this.send({ error: encodeError(error) });
      return error.code;
    }
  }

  /** Waits for the end of the answer, and ends the export unless that has happened. */
  private async holdExport(exportId: string): Promise<void> {
    this.heldExportId = exportId;
    if (!this.controller.signal.aborted && !this.options.response.destroyed) {
      await new Promise<void>((resolve) => {
        this.endHold = resolve;
      });
    }
    if (this.heldExportId === undefined) return;
    this.heldExportId = undefined;
    const own = { signal: new AbortController().signal, onProgress: ignore, onNotice: ignore };
    await this.options.appliance.unexport({ id: exportId }, own).catch((error: unknown) => {
      this.options.logger.error({ err: error, export: exportId }, 'the export could not be ended');
    });
  }

  private context(): OperationContext {
    return {
      signal: this.controller.signal,
      onProgress: (progress) => this.sendProgress(progress),
      onNotice: (notice) => {
        this.options.logger.info({ operation: this.name, id: this.id }, notice);
        this.send({ notice });
      },
    };
  }

  private sendProgress(progress: Progress): void {
    const atMs = this.clock.elapsedMs();
    const last = this.lastProgress;
    const isEnd = progress.total > 0 && progress.done >= progress.total;
    const isDue = last === undefined || last.phase !== progress.phase || atMs - last.atMs >= PROGRESS_INTERVAL_MS;
    // A client that does not read gets no further progress: what is held for it stays small.
    if ((!isDue && !isEnd) || this.options.response.writableNeedDrain) return;
    this.lastProgress = { phase: progress.phase, atMs };
    this.send({ progress });
  }

  private send(message: ControlMessage): void {
    const { response } = this.options;
    if (!response.destroyed && !response.writableEnded) response.write(encodeMessage(message));
  }
}

function ignore(): void {
  // Nobody is there to be told.
}

/** The operation of that name. The schema has checked that these are its parameters. */
function callOperation(options: OperationRunOptions, context: OperationContext): Promise<object> {
  const { appliance, name, params } = options;
  const operation = appliance[name].bind(appliance) as (params: unknown, context: OperationContext) => Promise<object>;
  return operation(params, context);
}
