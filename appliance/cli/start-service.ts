// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type ApplianceConnection, connectService, pause } from '../api/connect-appliance.ts';
import type { Clock } from '../core/clock.ts';
import { ERROR_TABLE, type ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { storageError } from '../core/file-system.ts';

/** The service's log when a command started it. */
export const SERVICE_LOG = 'serve.log';

/** Held by the command that starts the service, until it answers. */
const START_LOCK = 'serve.lock';

/** How long the service may take to answer: it opens the catalog, and resumes the exports of booted machines. */
const START_LIMIT_MS = 60_000;
const POLL_MS = 50;

const LOG_TAIL_BYTES = 2_000;

export interface StartServiceOptions {
  readonly stateDirectory: string;
  readonly connect?: string;
  readonly selfCommand: readonly [program: string, ...args: string[]];
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly onNotice: (sentence: string) => void;
}

/**
 * The running service, or one that is started now: a process of its own session with its output in `serve.log`, which
 * stays when this process ends. Settles when it answers.
 *
 * @throws the error that the service ended with (LOCKED when another command holds the state directory), or
 *   SERVICE_UNREACHABLE with the end of its log; TIMED_OUT, ABORTED (it is ended then)
 */
export async function startService(options: StartServiceOptions): Promise<ApplianceConnection> {
  const giveUpMs = options.clock.elapsedMs() + START_LIMIT_MS;
  const first = await connectOrTakeTurn(options, giveUpMs);
  if (!(first instanceof FileLock)) return first;
  await using _turn = first;
  // Whoever had the turn before may have started it.
  return (await connectService(options)) ?? (await launchAndConnect(options, giveUpMs));
}

/**
 * A running service, or the turn to start one: of several commands at the same time one starts it, and the others wait for
 * it, however long it takes to open the catalog. The kernel ends a turn with its process.
 */
async function connectOrTakeTurn(
  options: StartServiceOptions,
  giveUpMs: number,
): Promise<ApplianceConnection | FileLock> {
  const { stateDirectory, clock, signal } = options;
  if (statSync(stateDirectory, { throwIfNoEntry: false }) === undefined) throw noStateDirectory(stateDirectory);
  for (;;) {
    const running = await connectService(options);
    if (running !== undefined) return running;
    try {
      return await FileLock.acquire(join(stateDirectory, START_LOCK));
    } catch (error) {
      if (!hasCode(error, 'LOCKED') || clock.elapsedMs() >= giveUpMs) throw error;
    }
    await pause(POLL_MS, signal);
  }
}

async function launchAndConnect(options: StartServiceOptions, giveUpMs: number): Promise<ApplianceConnection> {
  const child = launch(options);
  try {
    const connection = await waitForAnswer(options, child, giveUpMs);
    const pid = connection.servicePid;
    // Somebody may have started one by hand meanwhile: ours ends then.
    if (pid === child.process.pid) {
      options.onNotice(`started \`understudy serve\` in the background (process ${pid}, log ${child.logPath})`);
    }
    return connection;
  } catch (error) {
    child.process.kill('SIGTERM');
    throw error;
  } finally {
    child.process.unref();
  }
}

interface Launched {
  readonly process: ChildProcess;
  readonly logPath: string;
  /** Where the output of this start begins in the log. */
  readonly logStart: number;
  ended: { readonly code: number | null; readonly error: Error | undefined } | undefined;
}

function launch({ stateDirectory, connect, selfCommand }: StartServiceOptions): Launched {
  const [program, ...leading] = selfCommand;
  const connectArgs = connect === undefined ? [] : ['--connect', connect];
  const logPath = join(stateDirectory, SERVICE_LOG);
  const logFd = openLog(logPath);
  try {
    const logStart = statSync(logPath).size;
    const child = spawn(program, [...leading, 'serve', '--state', stateDirectory, '--log', logPath, ...connectArgs], {
      cwd: '/',
      detached: true,
      stdio: ['ignore', logFd, logFd],
    });
    const launched: Launched = { process: child, logPath, logStart, ended: undefined };
    child.once('error', (error) => {
      launched.ended ??= { code: null, error };
    });
    child.once('exit', (code) => {
      launched.ended ??= { code, error: undefined };
    });
    return launched;
  } finally {
    closeSync(logFd);
  }
}

async function waitForAnswer(
  options: StartServiceOptions,
  child: Launched,
  giveUpMs: number,
): Promise<ApplianceConnection> {
  for (;;) {
    // Asked for before the connection is tried: a service that answers although ours has ended is another command's.
    const { ended } = child;
    const connection = await connectService(options);
    if (connection !== undefined) return connection;
    if (ended !== undefined) throw describeEnd(options, child, ended);
    if (options.clock.elapsedMs() >= giveUpMs) {
      const message = `the service did not answer within ${START_LIMIT_MS / 1000} s`;
      throw new ApplianceError('TIMED_OUT', `${message}${quoted(tailOf(child))}`, { details: { log: child.logPath } });
    }
    await pause(POLL_MS, options.signal);
  }
}

function describeEnd(
  { stateDirectory }: StartServiceOptions,
  child: Launched,
  ended: NonNullable<Launched['ended']>,
): ApplianceError {
  const tail = tailOf(child);
  const details = {
    log: child.logPath,
    stateDirectory,
    ...(ended.code === null ? {} : { serviceExitCode: ended.code }),
  };
  // The service prints its error as any command does.
  const own = /^error ([A-Z_]+): (.*)(?:\nhint: (.*))?/m.exec(tail);
  if (own !== null && Object.hasOwn(ERROR_TABLE, own[1] ?? '')) {
    const [, code, message, hint] = own;
    return new ApplianceError(code as ErrorCode, `the service could not be started: ${message}`, {
      details,
      ...(hint === undefined ? {} : { hint }),
    });
  }
  return new ApplianceError('SERVICE_UNREACHABLE', `the service could not be started${quoted(tail)}`, {
    cause: ended.error,
    details,
    hint: `Its log is ${child.logPath}; run \`understudy serve\` in the foreground to see more.`,
  });
}

function openLog(path: string): number {
  try {
    return openSync(path, 'a', 0o600);
  } catch (error) {
    throw storageError(error, 'open', path);
  }
}

function noStateDirectory(path: string): ApplianceError {
  return new ApplianceError('REPOSITORY_NOT_FOUND', `there is no state directory ${path}`);
}

function quoted(tail: string): string {
  return tail === '' ? '' : `; it said:\n${tail.replace(/^/gm, '  | ')}`;
}

/** The last whole lines that this start wrote. */
function tailOf({ logPath, logStart }: Launched): string {
  try {
    const sizeBytes = statSync(logPath).size;
    const from = Math.max(logStart, sizeBytes - LOG_TAIL_BYTES);
    const bytes = Buffer.alloc(Math.max(0, sizeBytes - from));
    const fd = openSync(logPath, 'r');
    try {
      const length = readSync(fd, bytes, 0, bytes.length, from);
      const text = bytes.toString('utf8', 0, length);
      return (from > logStart ? text.slice(text.indexOf('\n') + 1) : text).trimEnd();
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    return `(its log cannot be read: ${toError(error).message})`;
  }
}
