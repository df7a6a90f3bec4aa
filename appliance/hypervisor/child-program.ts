// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';

export interface ChildProgramOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** Whether it does what it was started for. Asked again and again. */
  readonly isReady: () => Promise<boolean> | boolean;
  readonly startTimeoutMs: number;
  /** Between asking it to end and ending it. */
  readonly stopTimeoutMs: number;
  /** What to throw when it ended before it was ready, given the end of its messages. */
  readonly onEnded: (stderr: string) => ApplianceError;
  /** What to throw when it is not ready in time. */
  readonly onLate: () => ApplianceError;
  readonly signal?: AbortSignal;
}

const POLL_MS = 20;
const STDERR_TAIL_LENGTH = 2000;

/** A program that runs until it is closed, and never longer than this process. */
export class ChildProgram implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #stopTimeoutMs: number;
  readonly #exited: Promise<void>;
  #stderr = '';
  #hasExited = false;

  private constructor(child: ChildProcess, stopTimeoutMs: number) {
    this.#child = child;
    this.#stopTimeoutMs = stopTimeoutMs;
    const exited = Promise.withResolvers<void>();
    this.#exited = exited.promise;
    child.on('exit', () => {
      this.#hasExited = true;
      exited.resolve();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_TAIL_LENGTH);
    });
  }

  /** Settles when it is ready. @throws ApplianceError TOOL_MISSING, TOOL_FAILED, ABORTED, and those of the options; then it has ended */
  static async start(options: ChildProgramOptions): Promise<ChildProgram> {
    const { command, args, stopTimeoutMs } = options;
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const failed = Promise.withResolvers<never>();
    child.on('error', (cause) => {
      const code = systemErrorCode(cause) === 'ENOENT' ? 'TOOL_MISSING' : 'TOOL_FAILED';
      failed.reject(new ApplianceError(code, `${command} cannot be run`, { cause }));
    });
    const program = new ChildProgram(child, stopTimeoutMs);
    try {
      await Promise.race([failed.promise, program.#untilReady(options)]);
      return program;
    } catch (error) {
      await program.close();
      throw error;
    }
  }

  /** The end of what it had to say. */
  get lastWords(): string {
    return this.#stderr.trim();
  }

  /** Ends the process and waits for it. Idempotent. */
  async close(): Promise<void> {
    if (this.#hasExited || this.#child.pid === undefined) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), this.#stopTimeoutMs);
    await this.#exited;
    clearTimeout(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #untilReady({ isReady, startTimeoutMs, signal, onEnded, onLate }: ChildProgramOptions): Promise<void> {
    const deadline = systemClock.elapsedMs() + startTimeoutMs;
    while (!(await isReady())) {
      if (signal?.aborted === true) throw new ApplianceError('ABORTED', 'interrupted', { cause: signal.reason });
      if (this.#hasExited) throw onEnded(this.lastWords);
      if (systemClock.elapsedMs() > deadline) throw onLate();
      await delay(POLL_MS);
    }
  }
}
