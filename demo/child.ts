// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError, systemErrorCode, toError } from '../appliance/core/errors.ts';

export interface ChildOptions {
  readonly signal: AbortSignal;
  readonly env?: NodeJS.ProcessEnv;
  /** The program draws on this terminal with its standard error. */
  readonly inheritStderr?: boolean;
}

export interface ChildEnd {
  /** The exit code, or 128 when a signal ended it. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
}

/** How long an interrupted program may take to end by itself. */
const END_LIMIT_MS = 10_000;
const EXIT_BY_SIGNAL = 128;
/** No command of the demo takes that long, whatever else the machine does. */
const COMMAND_LIMIT_MS = 600_000;

/**
 * Runs a program to its end, with empty standard input. When aborted it is interrupted, as by Ctrl-C, and the promise is
 * rejected with the signal's reason once it has ended: nothing of it runs then.
 * @throws ApplianceError TOOL_MISSING, TIMED_OUT; the reason of the abort
 */
export async function runChild(command: readonly string[], options: ChildOptions): Promise<ChildEnd> {
  options.signal.throwIfAborted();
  const limit = new AbortController();
  const limitTimer = setTimeout(() => {
    limit.abort(
      new ApplianceError('TIMED_OUT', `not at its end after ${COMMAND_LIMIT_MS / 1000} s: ${command.join(' ')}`),
    );
  }, COMMAND_LIMIT_MS);
  const signal = AbortSignal.any([options.signal, limit.signal]);
  const [program = '', ...args] = command;
  const startedMs = systemClock.elapsedMs();
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`;
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', options.inheritStderr === true ? 'inherit' : 'pipe'],
    env: { ...(options.env ?? process.env), PATH: path },
  });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  let killTimer: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    child.kill('SIGINT');
    killTimer = setTimeout(() => child.kill('SIGKILL'), END_LIMIT_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const exitCode = await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => {
        resolve(code ?? EXIT_BY_SIGNAL);
      });
    });
    signal.throwIfAborted();
    return { exitCode, stdout, stderr, durationMs: systemClock.elapsedMs() - startedMs };
  } catch (error) {
    signal.throwIfAborted();
    const code = systemErrorCode(error) === 'ENOENT' ? 'TOOL_MISSING' : 'TOOL_FAILED';
    throw new ApplianceError(code, `${program}: ${toError(error).message}`, { cause: error });
  } finally {
    clearTimeout(limitTimer);
    clearTimeout(killTimer);
    signal.removeEventListener('abort', onAbort);
  }
}

/** The same for a program that must succeed. @throws ApplianceError TOOL_FAILED with what it said */
export async function expectChild(command: readonly string[], options: ChildOptions): Promise<ChildEnd> {
  const end = await runChild(command, options);
  if (end.exitCode === 0) return end;
  const said = end.stderr.trim() || end.stdout.trim() || 'it said nothing';
  throw new ApplianceError('TOOL_FAILED', `exit code ${end.exitCode} of: ${command.join(' ')}\n${said}`);
}
