// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';

/** What `qemu-nbd` serves: an image that no machine has open (its locks see to that). */
export interface QemuNbdOptions {
  readonly path: string;
  readonly format: string;
  readonly socketPath: string;
  readonly exportName: string;
  /** A persistent bitmap to export as `qemu:dirty-bitmap:<name>`; read-only exports only. */
  readonly bitmap?: string;
  /** Take writes; default is read-only. */
  readonly isWritable?: boolean;
  /** Read an image file that a running machine has open: what it says of places that the machine changes may be old. */
  readonly isShared?: boolean;
}

const START_TIMEOUT_MS = 15_000;
const POLL_MS = 20;
const STOP_TIMEOUT_MS = 10_000;
const STDERR_TAIL_LENGTH = 2000;

/**
 * A `qemu-nbd` process that serves one image over a unix socket until it is closed. The image is locked meanwhile: a
 * machine that has it for writing makes the start fail, and cannot start while a writable one runs.
 * @throws ApplianceError TOOL_MISSING, TOOL_FAILED with the program's message, TIMED_OUT
 */
export class QemuNbd implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #stderr = '';
  #hasExited = false;

  private constructor(child: ChildProcess) {
    this.#child = child;
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

  static async start(options: QemuNbdOptions): Promise<QemuNbd> {
    const args = ['--persistent', '--shared=8', ...imageArguments(options), '--socket', options.socketPath];
    args.push('--export-name', options.exportName, '--cache=none', '--aio=threads');
    if (options.isWritable === true) args.push('--discard=unmap', '--detect-zeroes=off');
    else args.push('--read-only');
    if (options.bitmap !== undefined) args.push('--bitmap', options.bitmap);
    // It must not outlive us: it locks the image, and the machine could not be started.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'qemu-nbd', ...args, imageOperand(options)], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const failed = Promise.withResolvers<never>();
    child.on('error', (cause) => {
      const isMissing = systemErrorCode(cause) === 'ENOENT';
      failed.reject(
        new ApplianceError(isMissing ? 'TOOL_MISSING' : 'TOOL_FAILED', 'qemu-nbd cannot be run', { cause }),
      );
    });
    const server = new QemuNbd(child);
    try {
      await Promise.race([failed.promise, server.#waitUntilReady(options)]);
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  /** Ends the process and waits for it. Idempotent. Clients should have disconnected. */
  async close(): Promise<void> {
    if (this.#hasExited || this.#child.pid === undefined) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #waitUntilReady(options: QemuNbdOptions): Promise<void> {
    const deadline = systemClock.elapsedMs() + START_TIMEOUT_MS;
    while (!(await answers(options.socketPath))) {
      if (this.#hasExited) {
        throw new ApplianceError('TOOL_FAILED', `qemu-nbd cannot serve ${options.path}: ${this.#stderr.trim()}`, {
          details: { command: 'qemu-nbd', stderr: this.#stderr },
        });
      }
      if (systemClock.elapsedMs() > deadline)
        throw new ApplianceError('TIMED_OUT', `qemu-nbd does not answer for ${options.path}`);
      await delay(POLL_MS);
    }
  }
}

function imageArguments({ isShared, format }: QemuNbdOptions): string[] {
  return isShared === true ? ['--image-opts'] : ['--format', format];
}

/**
 * qemu-nbd has no option for sharing; the image's own options have. A mirror's target is locked against all readers, so
 * locks are left out. A comma in a value is doubled.
 */
function imageOperand({ isShared, format, path }: QemuNbdOptions): string {
  if (isShared !== true) return path;
  return `driver=${format},force-share=on,file.driver=file,file.locking=off,file.filename=${path.replaceAll(',', ',,')}`;
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
