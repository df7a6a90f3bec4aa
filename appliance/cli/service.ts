// SPDX-License-Identifier: Apache-2.0
import { type Logger, pino, stdTimeFunctions } from 'pino';
import type { ApplianceHost } from '../api/appliance-host.ts';
import { connectAppliance } from '../api/connect-appliance.ts';
import { ApiServer } from '../api/server/api-server.ts';
import { SETUP_PATH } from '../api/server/login/setup-page.ts';
import { EXIT_CODES } from '../core/error-codes.ts';
import { ApplianceError } from '../core/errors.ts';
import type { CliDependencies } from './dependencies.ts';
import type { CliIo } from './io.ts';
import { journalLines, LogFile } from './log-file.ts';
import { raiseOpenFiles, supervise } from './supervision.ts';

/** How long running operations may take to stop at a safe place, and then the appliance to close. */
const STOP_LIMIT_MS = 60_000;
const CLOSE_LIMIT_MS = 30_000;

export interface ServiceReady {
  readonly pid: number;
  /** The state directory. */
  readonly state: string;
  readonly socket: string;
  /** What else it listens on; left out when there is nothing. */
  readonly listeners?: readonly ListenerReport[];
  /** The link with which the first administrator is made, once; left out when there is one. In no log. */
  readonly setup?: string;
}

export interface ListenerReport {
  readonly url: string;
  /** SHA-256 of the certificate; null without encryption. */
  readonly fingerprint: string | null;
}

/** Where to listen besides the unix socket. */
export interface NetworkWishes {
  readonly https?: string | undefined;
  readonly http?: string | undefined;
  /** The operator's own certificate. */
  readonly files?: { readonly certificate: string; readonly key: string } | undefined;
}

export interface ServiceOptions {
  readonly stateDirectory: string;
  readonly connect?: string;
  readonly logFile?: string;
  readonly logLevel: string;
  readonly network: NetworkWishes;
  /** Aborted: stop at a safe place and return. */
  readonly signal: AbortSignal;
  readonly io: CliIo;
  readonly dependencies: CliDependencies;
  /** Called once, when commands are answered. */
  readonly onReady: (service: ServiceReady) => void;
}

/**
 * Owns a state directory until the signal is aborted. What does not stop within its time is cut off: the process ends
 * then, and the next start recovers, as after a power failure.
 *
 * @throws LOCKED when another process holds the state directory; INTERNAL after a broken invariant or when a thread died: the
 * process must not go on, and whoever supervises it starts it again; what opening throws
 */
export async function runService(options: ServiceOptions): Promise<void> {
  const logger = openLog(options);
  raiseOpenFiles(logger);
  const end = Promise.withResolvers<void>();
  // Nobody may wait for it yet, or any more.
  end.promise.catch(() => undefined);
  const onFailure = (error: ApplianceError): void => {
    logger.fatal({ err: error }, 'the service cannot go on and ends');
    end.reject(error);
  };
  const host = await takeState(options, logger, onFailure);
  const onAbort = (): void => end.resolve();
  options.signal.addEventListener('abort', onAbort);
  if (options.signal.aborted) onAbort();
  try {
    const { stateDirectory } = options;
    const onDefect = (violation: Error): void => {
      logger.fatal({ err: violation }, 'an invariant does not hold; the service ends');
      end.reject(new ApplianceError('INTERNAL', violation.message, { cause: violation }));
    };
    const server = await ApiServer.listen({ host, stateDirectory, logger, onDefect, onStop: end.resolve });
    try {
      logger.info({ state: stateDirectory, socket: server.path }, 'serving');
      const listeners = await openNetwork(server, host, options.network);
      for (const listener of listeners) logger.info(listener, 'listening');
      const setup = await setupLink(host, listeners);
      const ready = {
        pid: process.pid,
        state: stateDirectory,
        socket: server.path,
        ...(setup === undefined ? {} : { setup }),
      };
      options.onReady(listeners.length === 0 ? ready : { ...ready, listeners });
      using _supervision = supervise({
        env: options.io.env,
        logger,
        status: `serving ${stateDirectory}`,
        isWorking: () => host.isWorking?.() ?? Promise.resolve(),
      });
      await end.promise;
      logger.info('stopping');
    } finally {
      await stopServer(server, options, logger);
    }
  } finally {
    options.signal.removeEventListener('abort', onAbort);
    await within(CLOSE_LIMIT_MS, host[Symbol.asyncDispose](), () => giveUp(options.io, logger));
    logger.info('stopped');
  }
}

/** Nobody comes over the network as long as nothing says who that is. */
async function openNetwork(
  server: ApiServer,
  host: ApplianceHost,
  wishes: NetworkWishes,
): Promise<readonly ListenerReport[]> {
  if (wishes.https === undefined && wishes.http === undefined) return [];
  const { networkAccess } = host;
  if (networkAccess === undefined) {
    throw new ApplianceError('NOT_SUPPORTED', 'this appliance knows no users, and lets nobody in over the network');
  }
  const listeners = await server.listenOnNetwork(wishes, networkAccess);
  return listeners.map(({ url, fingerprint }) => ({ url, fingerprint }));
}

/** The link for the first administrator, as long as there is none; undefined when nobody could open it. */
async function setupLink({ access }: ApplianceHost, listeners: readonly ListenerReport[]): Promise<string | undefined> {
  const [listener] = listeners;
  if (access === null || listener === undefined || access.users.hasAdmin()) return undefined;
  const { secret } = await access.invitations.setup();
  return `${listener.url}${SETUP_PATH}#${secret}`;
}

/** The appliance, opened in this process. */
async function takeState(
  options: ServiceOptions,
  logger: Logger,
  onFailure: (error: ApplianceError) => void,
): Promise<ApplianceHost> {
  const { stateDirectory, connect, dependencies, signal } = options;
  let host: ApplianceHost | undefined;
  const connection = await connectAppliance({
    stateDirectory,
    open: async () => {
      host = await dependencies.openAppliance({
        stateDirectory,
        logger,
        isService: true,
        onFailure,
        ...(connect === undefined ? {} : { connect }),
      });
      return host;
    },
    signal,
    onNotice: (sentence) => logger.info(sentence),
  });
  if (host !== undefined) return host;
  await connection[Symbol.asyncDispose]();
  const pid = connection.servicePid ?? 0;
  throw new ApplianceError('LOCKED', `a service runs on ${stateDirectory} already: process ${pid}`, {
    details: { pid, stateDirectory },
    hint: 'Commands use it by themselves.',
  });
}

async function stopServer(server: ApiServer, options: ServiceOptions, logger: Logger): Promise<void> {
  const isIdle = await server.stop({ deadlineMs: STOP_LIMIT_MS });
  if (!isIdle) {
    logger.error({ running: server.health().running }, 'operations did not stop in time');
    return giveUp(options.io, logger);
  }
  await server.close();
}

function giveUp(io: CliIo, logger: Logger): void {
  logger.fatal('the service did not stop in time and is ended; the next start recovers');
  io.exit(EXIT_CODES.failed);
}

async function within(limitMs: number, work: PromiseLike<void>, onLate: () => void): Promise<void> {
  const timer = setTimeout(onLate, limitMs);
  try {
    await work;
  } finally {
    clearTimeout(timer);
  }
}

/** JSON lines, written before the call returns: what led to the end of a process must not be lost with it. */
function openLog({ logFile, logLevel, io }: ServiceOptions): Logger {
  const redact = { paths: secretPaths(), censor: '(not logged)' };
  const options = { level: logLevel, base: { pid: process.pid }, timestamp: stdTimeFunctions.isoTime, redact };
  if (logFile !== undefined) return pino(options, new LogFile(logFile));
  return pino(options, io.env['JOURNAL_STREAM'] === undefined ? io.stderr : journalLines(io.stderr));
}

/** Members that are secrets wherever somebody puts them into a line, up to two levels down. Those of operations are left out before. */
const SECRET_MEMBERS = [
  'password',
  'passphrase',
  'secret',
  'clientSecret',
  'token',
  'recoveryKey',
  'totp',
  'cookie',
  'authorization',
] as const;

function secretPaths(): string[] {
  return SECRET_MEMBERS.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]);
}
