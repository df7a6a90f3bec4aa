// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError, toError } from '../appliance/core/errors.ts';
import { childEnvironment, type ProcessOptions, readProbe } from './measured-process.ts';
import type { ProbeReport } from './probe.ts';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 10;
const STDERR_TAIL_LENGTH = 2000;

export interface ServerProcessOptions extends ProcessOptions {
  readonly socketPath: string;
  readonly stopSignal?: NodeJS.Signals;
}

/** An NBD server in a process of its own, until it is closed. */
export class ServerProcess implements AsyncDisposable {
  readonly socketPath: string;
  readonly #child: ChildProcess;
  readonly #options: ServerProcessOptions;
  readonly #exited: Promise<void>;
  #hasExited = false;
  #output = '';

  private constructor(child: ChildProcess, options: ServerProcessOptions) {
    this.socketPath = options.socketPath;
    this.#child = child;
    this.#options = options;
    const exited = Promise.withResolvers<void>();
    this.#exited = exited.promise;
    const end = (error?: unknown): void => {
      if (error !== undefined) this.#output += toError(error).message;
      this.#hasExited = true;
      exited.resolve();
    };
    child.on('error', end);
    child.on('exit', () => {
      end();
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-STDERR_TAIL_LENGTH);
      });
    }
  }

  /** Starts it and waits until its socket answers. @throws ApplianceError TOOL_FAILED, TIMED_OUT */
  static async start(command: string, args: readonly string[], options: ServerProcessOptions): Promise<ServerProcess> {
    const child = spawn(command, [...args], { stdio: ['ignore', 'pipe', 'pipe'], env: childEnvironment(options) });
    const server = new ServerProcess(child, options);
    const deadline = systemClock.elapsedMs() + START_TIMEOUT_MS;
    while (!(await answers(options.socketPath))) {
      if (server.#hasExited) throw new ApplianceError('TOOL_FAILED', `${command} ended: ${server.#output.trim()}`);
      if (systemClock.elapsedMs() > deadline) {
        await server.close();
        throw new ApplianceError('TIMED_OUT', `${command} does not answer: ${server.#output.trim()}`);
      }
      await delay(POLL_MS);
    }
    return server;
  }

  uri(exportName = ''): string {
    return `nbd+unix:///${exportName}?socket=${encodeURIComponent(this.socketPath)}`;
  }

  /** Ends it; settles with what the probe left, if it was loaded. Idempotent. */
  async close(): Promise<ProbeReport | undefined> {
    if (!this.#hasExited) {
      this.#child.kill(this.#options.stopSignal ?? 'SIGTERM');
      const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
      await this.#exited;
      clearTimeout(timer);
    }
    return readProbe(this.#options.probeDirectory, this.#child.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** `nbdkit file`: the source of every first backup. It tells holes, and reads through the page cache. */
export function serveRaw(path: string, socketPath: string): Promise<ServerProcess> {
  const args = ['--foreground', '--readonly', '--exit-with-parent', '--unix', socketPath, 'file', path];
  return ServerProcess.start('nbdkit', args, { socketPath });
}

export interface QemuNbdImage {
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
  readonly socketPath: string;
  readonly bitmap?: string;
  readonly isWritable?: boolean;
  /** What was written is of no interest: it is not flushed in the end. */
  readonly isKilled?: boolean;
}

/** `qemu-nbd` with its defaults: reads through the page cache, up to 8 connections. */
export function serveByQemu(image: QemuNbdImage): Promise<ServerProcess> {
  const args = ['--persistent', '--shared=8', '--format', image.format, '--socket', image.socketPath];
  if (image.isWritable !== true) args.push('--read-only');
  if (image.bitmap !== undefined) args.push('--bitmap', image.bitmap);
  const stop = image.isKilled === true ? { stopSignal: 'SIGKILL' as const } : {};
  return ServerProcess.start('qemu-nbd', [...args, image.path], { socketPath: image.socketPath, ...stop });
}

function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => {
      resolve(false);
    });
  });
}
