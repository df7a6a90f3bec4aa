// SPDX-License-Identifier: Apache-2.0
import { createServer } from 'node:http';
import type { Logger } from 'pino';
import { systemClock } from '../../core/clock.ts';
import type { InvariantViolation } from '../../core/invariant.ts';
import type { ApplianceHost } from '../appliance-host.ts';
import { controlSocketPath, listenAt } from '../control-socket.ts';
import type { ServiceHealth } from '../service-health.ts';
import { Activity } from './activity.ts';
import { buildApiApp } from './api-app.ts';
import type { ApiContext, ApiExtension, NetworkAccess } from './api-context.ts';
import { ExportHolds } from './export-holds.ts';
import { IdempotencyKeys } from './idempotency.ts';
import { localAccess } from './local-access.ts';
import { closeApp, type Listener, listenOnNetwork, type NetworkOptions } from './network.ts';
import { logRuns } from './run-log.ts';
import { SERVER_LIMITS } from './server-limits.ts';
import { addStopRoute, healthOf } from './service-routes.ts';
import { StreamRoutes } from './stream-routes.ts';
import type { CertificateFiles } from './tls/certificate-source.ts';

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
  /** How often those who listen to events are asked again who they are. */
  readonly recheckIntervalMs?: number;
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
  readonly #listeners: AsyncDisposable[] = [];
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
    this.#streams = new StreamRoutes(this.#context, options.recheckIntervalMs);
    this.#log = logRuns(host.eventHub, logger);
  }

  /** @throws LOCKED when another process serves there; IO_FAILED, NO_SPACE */
  static async listen(options: ApiServerOptions): Promise<ApiServer> {
    const server = new ApiServer(options);
    const app = await buildApiApp({
      context: server.#context,
      access: localAccess(options.host.guard),
      streams: server.#streams,
      transport: 'local',
      extensions: [...server.#extensions, addStopRoute],
      createServer: (handler) => createServer(SERVER_LIMITS, handler),
    });
    await app.ready();
    const address = await listenAt(app.server, server.path);
    server.#listeners.push({
      [Symbol.asyncDispose]: async () => {
        await closeApp(app);
        address[Symbol.dispose]();
      },
    });
    return server;
  }

  /**
   * Also listens on the network, for those whom `access` lets in; all listeners end with the server.
   * @throws ApplianceError BAD_ARGUMENT, LISTEN_FAILED, CERTIFICATE_INVALID, IO_FAILED
   */
  async listenOnNetwork(
    options: Pick<NetworkOptions, 'https' | 'http'> & { readonly files?: CertificateFiles | undefined },
    { access, extensions = [] }: NetworkAccess,
  ): Promise<readonly Listener[]> {
    const { stateDirectory, logger } = this.#context;
    const { files, ...addresses } = options;
    const certificate = { stateDirectory, files, logger, clock: systemClock };
    const listeners = await listenOnNetwork({ ...addresses, certificate }, (scheme, create) =>
      buildApiApp({
        context: this.#context,
        access,
        streams: this.#streams,
        transport: scheme,
        extensions: [...this.#extensions, ...extensions],
        createServer: create,
      }),
    );
    this.#listeners.push(...listeners);
    return listeners;
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
    await Promise.all(this.#listeners.map((listener) => listener[Symbol.asyncDispose]()));
    this.#log[Symbol.dispose]();
  }
}
