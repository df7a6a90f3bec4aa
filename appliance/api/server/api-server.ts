// SPDX-License-Identifier: Apache-2.0
import { createServer, type Server } from 'node:http';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { systemClock } from '../../core/clock.ts';
import type { InvariantViolation } from '../../core/invariant.ts';
import type { ApplianceHost } from '../appliance-host.ts';
import { controlSocketPath, listenAt, type SocketAddress } from '../control-socket.ts';
import type { ServiceHealth } from '../service-health.ts';
import { Activity } from './activity.ts';
import { buildApiApp } from './api-app.ts';
import type { ApiContext, ApiExtension } from './api-context.ts';
import { ExportHolds } from './export-holds.ts';
import { IdempotencyKeys } from './idempotency.ts';
import { localAccess } from './local-access.ts';
import { logRuns } from './run-log.ts';
import { SERVER_LIMITS } from './server-limits.ts';
import { addStopRoute, healthOf } from './service-routes.ts';
import { StreamRoutes } from './stream-routes.ts';

/** What is still being sent when the service ends may take so long. */
const FLUSH_LIMIT_MS = 2_000;

export interface ApiServerOptions {
  /** Stays the caller's; it must outlive the server. */
  readonly host: ApplianceHost;
  readonly stateDirectory: string;
  readonly logger: Logger;
  /** Called when an operation broke an invariant: the process has to end. */
  readonly onDefect: (violation: InvariantViolation) => void;
  /** Called when a client asks the service to end. */
  readonly onStop: () => void;
  /** Routes besides those of the operations. */
  readonly extensions?: readonly ApiExtension[];
}

/**
 * The HTTP interface of an appliance. The caller holds the state directory's lock, so that a socket that is there already is a
 * leftover. Only the owner of the state directory can connect to it (mode 0600).
 */
export class ApiServer implements AsyncDisposable {
  readonly path: string;
  readonly #context: ApiContext;
  readonly #streams: StreamRoutes;
  readonly #extensions: readonly ApiExtension[];
  readonly #log: Disposable;
  readonly #apps: FastifyInstance[] = [];
  #address: SocketAddress | undefined;
  #closing: Promise<void> | undefined;

  private constructor(options: ApiServerOptions) {
    const { host, stateDirectory, logger, onDefect, onStop, extensions = [] } = options;
    this.path = controlSocketPath(stateDirectory);
    this.#extensions = extensions;
    this.#context = {
      host,
      stateDirectory,
      logger,
      onDefect,
      onStop,
      activity: new Activity(),
      holds: new ExportHolds(host, logger),
      keys: new IdempotencyKeys(systemClock),
      startedAt: new Date(systemClock.nowMs()).toISOString(),
    };
    this.#streams = new StreamRoutes(this.#context);
    this.#log = logRuns(host.eventHub, logger);
  }

  /** @throws LOCKED when another process serves there; IO_FAILED, NO_SPACE */
  static async listen(options: ApiServerOptions): Promise<ApiServer> {
    const server = new ApiServer(options);
    const app = await buildApiApp({
      context: server.#context,
      access: localAccess(options.host.guard),
      streams: server.#streams,
      isLocal: true,
      extensions: [...server.#extensions, addStopRoute],
      createServer: (handler) => createServer(SERVER_LIMITS, handler),
    });
    await app.ready();
    server.#address = await listenAt(app.server, server.path);
    server.#apps.push(app);
    return server;
  }

  health(): ServiceHealth {
    return healthOf(this.#context);
  }

  /**
   * Takes nothing new, aborts what runs, and waits for it. False when some still ran at the deadline; their clients are cut off by
   * `close` then.
   */
  async stop({ deadlineMs }: { readonly deadlineMs: number }): Promise<boolean> {
    const { activity, host, holds } = this.#context;
    const [isIdle, haveEnded] = await Promise.all([
      activity.stop({ deadlineMs }),
      host.runService.stop({ deadlineMs }),
    ]);
    await holds.stop();
    this.#streams.close();
    return isIdle && haveEnded;
  }

  /** Stops listening and cuts off every client; idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#closeOnce();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #closeOnce(): Promise<void> {
    await this.#context.activity.stop({ deadlineMs: 0 });
    await this.#context.holds.stop();
    this.#streams.close();
    await Promise.all(this.#apps.map((app) => closeServer(app.server)));
    await Promise.all(this.#apps.map((app) => app.close()));
    this.#log[Symbol.dispose]();
    this.#address?.[Symbol.dispose]();
  }
}

/** Lets what is being sent arrive, shortly, and cuts off the rest. */
async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), FLUSH_LIMIT_MS);
  await closed;
  clearTimeout(timer);
}
