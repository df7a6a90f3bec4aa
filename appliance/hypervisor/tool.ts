// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';

export interface ToolOptions {
  /** Ends the program; the promise settles when it is gone. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

export interface ToolRun extends ToolOptions {
  /** Exit codes that are answers, not failures; 0 by default. */
  readonly accepts?: readonly number[];
  /** Sees standard output as it comes, for progress. */
  readonly onOutput?: (text: string) => void;
}

export interface ToolResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

const DEFAULT_TIMEOUT_MS = 60_000;
/** `qemu-img map` of a badly fragmented image prints some 100 bytes per extent. */
const MAX_STDOUT_LENGTH = 512 * 1024 * 1024;
const STDERR_TAIL_LENGTH = 4000;
/** Between asking a program to end and ending it. */
const KILL_DELAY_MS = 2000;

/**
 * Runs a program to its end, without a shell and with its messages in English. Throws TOOL_MISSING, TOOL_FAILED with `details`
 * `{ command, exitCode, stderr }`, TIMED_OUT, ABORTED; in every case nothing of it runs any more.
 */
export async function runTool(command: string, args: readonly string[], options: ToolRun = {}): Promise<ToolResult> {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS, accepts = [0], onOutput } = options;
  if (signal?.aborted === true) throw aborted(command, signal);
  const child = spawn(command, [...args], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } });
  let stdout = '';
  let stderr = '';
  let verdict: ApplianceError | undefined;
  let killTimer: NodeJS.Timeout | undefined;
  const stop = (error: ApplianceError): void => {
    verdict ??= error;
    child.kill('SIGTERM');
    killTimer ??= setTimeout(() => child.kill('SIGKILL'), KILL_DELAY_MS);
  };
  const onAbort = (): void => {
    stop(aborted(command, signal));
  };
  const timer = setTimeout(() => {
    stop(new ApplianceError('TIMED_OUT', `${command} did not end within ${timeoutMs} ms`, { details: { command } }));
  }, timeoutMs);
  signal?.addEventListener('abort', onAbort, { once: true });
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    onOutput?.(text);
    if (onOutput !== undefined) return;
    stdout += text;
    if (stdout.length > MAX_STDOUT_LENGTH) stop(new ApplianceError('TOOL_FAILED', `${command} printed too much`));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-STDERR_TAIL_LENGTH);
  });
  try {
    const exitCode = await new Promise<number | null>((resolve, reject) => {
      child.on('error', (cause) => {
        reject(startFailure(command, cause));
      });
      child.on('close', resolve);
    });
    if (verdict !== undefined) throw verdict;
    if (exitCode !== null && accepts.includes(exitCode)) return { exitCode, stdout, stderr };
    throw new ApplianceError('TOOL_FAILED', `${command} ${args[0] ?? ''}: ${lastLine(stderr) || `exit ${exitCode}`}`, {
      details: { command: [command, ...args].join(' '), exitCode, stderr },
    });
  } finally {
    clearTimeout(timer);
    clearTimeout(killTimer);
    signal?.removeEventListener('abort', onAbort);
  }
}

function startFailure(command: string, cause: unknown): ApplianceError {
  const isMissing = systemErrorCode(cause) === 'ENOENT';
  const details = { command };
  if (isMissing) return new ApplianceError('TOOL_MISSING', `${command} is not installed`, { cause, details });
  return new ApplianceError('TOOL_FAILED', `${command} cannot be started`, { cause, details });
}

function aborted(command: string, signal: AbortSignal | undefined): ApplianceError {
  return new ApplianceError('ABORTED', `${command} was interrupted`, { cause: signal?.reason });
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
