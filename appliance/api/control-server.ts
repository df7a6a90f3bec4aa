// SPDX-License-Identifier: Apache-2.0
import { createServer } from 'node:http';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import type { InvariantViolation } from '../core/invariant.ts';
import {
  CONTENT_TYPE,
  encodeMessage,
  HEALTH_PATH,
  MAX_REQUEST_BYTES,
  OPERATIONS_PATH,
  programVersion,
  type ServiceHealth,
  STOP_PATH,
} from './control-protocol.ts';
import { controlSocketPath, listenAt, type SocketAddress } from './control-socket.ts';
import { isOperationName } from './operation-routes.ts';
import { OperationRun } from './operation-run.ts';
import type { Appliance } from './operations.ts';
import { checkParams } from './schemas/check.ts';
import { encodeError } from './wire-error.ts';

/** Operations that run at the same time; more are refused, so that clients cannot make the service hold without bound. */
export const MAX_RUNNING_OPERATIONS = 128;

export interface ControlServerOptions {
  /** Stays the caller's; it must outlive the server. */
  readonly appliance: Appliance;
  readonly stateDirectory: string;
  readonly logger: Logger;
  /** Called when an operation broke an invariant: the process has to end. */
  readonly onDefect: (violation: InvariantViolation) => void;
  /** Called when a client asks the service to end. */
  readonly onStop: () => void;
}

/**
 * The service's side of `control-protocol.ts`. The caller holds the state directory's lock, so that a socket that is there
 * already is a leftover. Only the owner of the state directory can connect (mode 0600).
 */
export class ControlServer implements AsyncDisposable {
  readonly path: string;
  private readonly options: ControlServerOptions;
  private readonly app: FastifyInstance;
  private readonly runs = new Map<string, OperationRun>();
  private readonly version = programVersion();
  private readonly startedAt = new Date(systemClock.nowMs()).toISOString();
  private address: SocketAddress | undefined;
  private isStopping = false;
  private closing: Promise<void> | undefined;

  private constructor(options: ControlServerOptions) {
    this.options = options;
    this.path = controlSocketPath(options.stateDirectory);
    this.app = fastify({
      bodyLimit: MAX_REQUEST_BYTES,
      serverFactory: (handler) => createServer(handler),
    });
    this.addRoutes();
  }

  /** @throws LOCKED when another process serves there; IO_FAILED, NO_SPACE */
  static async listen(options: ControlServerOptions): Promise<ControlServer> {
    const server = new ControlServer(options);
    await server.app.ready();
    server.address = await listenAt(server.app.server, server.path);
    return server;
  }

  health(): ServiceHealth {
    return {
      pid: process.pid,
      version: this.version,
      state: this.options.stateDirectory,
      phase: this.isStopping ? 'stopping' : 'serving',
      startedAt: this.startedAt,
      running: [...this.runs.values()].map((run) => run.name),
    };
  }

  /**
   * Takes no new operation, aborts those that run, and waits for them. False when some still ran at the deadline; their
   * clients are cut off by `close` then.
   */
  async stop({ deadlineMs }: { readonly deadlineMs: number }): Promise<boolean> {
    this.isStopping = true;
    for (const run of this.runs.values()) run.abort('the service stops');
    const all = Promise.all([...this.runs.values()].map((run) => run.outcome));
    const deadline = Promise.withResolvers<void>();
    const timer = setTimeout(deadline.resolve, deadlineMs);
    await Promise.race([all, deadline.promise]);
    clearTimeout(timer);
    return this.runs.size === 0;
  }

  /** Stops listening and cuts off every client, which aborts what still runs; idempotent. */
  close(): Promise<void> {
    this.closing ??= this.closeOnce();
    return this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async closeOnce(): Promise<void> {
    this.isStopping = true;
    const { server } = this.app;
    const closed = new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
    server.closeAllConnections();
    await closed;
    await Promise.all([...this.runs.values()].map((run) => run.outcome));
    await this.app.close();
    this.address?.[Symbol.dispose]();
  }

  private addRoutes(): void {
    this.app.get(HEALTH_PATH, () => this.health());
    this.app.post(STOP_PATH, async (_request, reply) => {
      this.options.logger.info('a client asks the service to end');
      this.options.onStop();
      return reply.code(202).send({ pid: process.pid });
    });
    this.app.post<{ Params: { name: string } }>(`${OPERATIONS_PATH}/:name`, (request, reply) =>
      this.start(request, reply),
    );
    this.app.delete<{ Params: { id: string } }>(`${OPERATIONS_PATH}/:id`, async (request, reply) => {
      const run = this.runs.get(request.params.id);
      run?.abort('interrupted');
      return reply.code(run === undefined ? 404 : 202).send({ aborted: run !== undefined });
    });
    this.app.setNotFoundHandler((request, reply) => {
      const error = new ApplianceError('BAD_ARGUMENT', `there is no ${request.method} ${request.url}`);
      return refuse(reply, 404, error);
    });
    this.app.setErrorHandler((thrown, _request, reply) => {
      const error = toError(thrown);
      const statusCode = 'statusCode' in error && typeof error.statusCode === 'number' ? error.statusCode : 500;
      if (statusCode < 500) return refuse(reply, statusCode, new ApplianceError('BAD_ARGUMENT', error.message));
      this.options.logger.error({ err: error }, 'a request failed');
      return refuse(reply, statusCode, error);
    });
  }

  private start(request: FastifyRequest<{ Params: { name: string } }>, reply: FastifyReply): unknown {
    const { name } = request.params;
    if (this.isStopping) return refuse(reply, 503, stopping());
    if (this.runs.size >= MAX_RUNNING_OPERATIONS) return refuse(reply, 503, tooMany());
    if (!isOperationName(name)) {
      const error = new ApplianceError('BAD_ARGUMENT', `the service knows no operation ${JSON.stringify(name)}`, {
        hint: 'The command and the running service may be of different versions; restart the service.',
      });
      return refuse(reply, 404, error);
    }
    let params: ReturnType<typeof checkParams<typeof name>>;
    try {
      params = checkParams(name, request.body ?? {});
    } catch (error) {
      return refuse(reply, 400, error);
    }
    reply.hijack();
    const { appliance, logger, onDefect } = this.options;
    const run = new OperationRun({ appliance, name, params, response: reply.raw, logger, onDefect });
    this.runs.set(run.id, run);
    void run.outcome.then((code) => {
      this.runs.delete(run.id);
      if (name === 'unexport' && code === undefined && 'id' in params) this.releaseExport(params.id);
    });
    return reply;
  }

  private releaseExport(exportId: string): void {
    for (const run of this.runs.values()) if (run.exportId === exportId) run.releaseExport();
  }
}

function stopping(): ApplianceError {
  return new ApplianceError('SERVICE_UNREACHABLE', 'the service is stopping', {
    hint: 'Run the command again when it has stopped.',
  });
}

function tooMany(): ApplianceError {
  return new ApplianceError('LOCKED', `${MAX_RUNNING_OPERATIONS} operations run already`, {
    hint: 'Wait until some have ended.',
  });
}

function refuse(reply: FastifyReply, statusCode: number, error: unknown): FastifyReply {
  return reply
    .code(statusCode)
    .type(CONTENT_TYPE)
    .send(encodeMessage({ error: encodeError(error) }));
}
