// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import type { SshTarget } from './libvirt/endpoint.ts';

export interface SshTunnelOptions {
  readonly target: SshTarget;
  /** A unix socket that is made here, for our user alone; its directory exists. */
  readonly socketPath: string;
  /** Where connections come out, as seen from the other host. */
  readonly remote: { readonly host: string; readonly port: number };
  readonly signal?: AbortSignal;
}

const START_TIMEOUT_MS = 30_000;
const POLL_MS = 20;
const STOP_TIMEOUT_MS = 5_000;
const STDERR_TAIL_LENGTH = 2000;

/**
 * An `ssh` process that carries connections from a socket here to a port there, until it is closed. It asks nothing: keys
 * and known hosts are those that libvirt's own connection uses.
 * @throws ApplianceError TOOL_MISSING, SSH_FAILED with the program's message, TIMED_OUT, ABORTED
 */
export class SshTunnel implements AsyncDisposable {
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

  static async open(options: SshTunnelOptions): Promise<SshTunnel> {
    // It must not outlive us: the machine's disks are at its other end.
    const command = ['--pdeathsig', 'KILL', '--', options.target.command, ...tunnelArguments(options)];
    const child = spawn('setpriv', command, { stdio: ['ignore', 'ignore', 'pipe'] });
    const failed = Promise.withResolvers<never>();
    child.on('error', (cause) => {
      const isMissing = systemErrorCode(cause) === 'ENOENT';
      failed.reject(new ApplianceError(isMissing ? 'TOOL_MISSING' : 'TOOL_FAILED', 'ssh cannot be run', { cause }));
    });
    const tunnel = new SshTunnel(child);
    try {
      await Promise.race([failed.promise, tunnel.#waitUntilOpen(options)]);
      return tunnel;
    } catch (error) {
      await tunnel.close();
      throw error;
    }
  }

  /** The end of what ssh had to say. */
  get lastWords(): string {
    return this.#stderr.trim();
  }

  /** Ends the process and waits for it. Idempotent. */
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

  async #waitUntilOpen({ target, socketPath, signal }: SshTunnelOptions): Promise<void> {
    const deadline = systemClock.elapsedMs() + START_TIMEOUT_MS;
    // ssh makes the socket when it has logged in.
    while (!existsSync(socketPath)) {
      if (signal?.aborted === true) throw new ApplianceError('ABORTED', 'interrupted', { cause: signal.reason });
      if (this.#hasExited) {
        throw new ApplianceError('SSH_FAILED', `ssh to ${target.host} failed: ${this.#stderr.trim()}`, {
          details: { host: target.host, stderr: this.#stderr },
        });
      }
      if (systemClock.elapsedMs() > deadline) {
        throw new ApplianceError('TIMED_OUT', `ssh to ${target.host} does not get through`);
      }
      await delay(POLL_MS);
    }
  }
}

/** Exported for tests. As libvirt calls ssh, with a forwarding in place of a command. */
export function tunnelArguments({ target, socketPath, remote }: SshTunnelOptions): string[] {
  const remoteHost = remote.host.includes(':') ? `[${remote.host}]` : remote.host;
  const args = ['-N', '-T', '-e', 'none', '-o', 'BatchMode=yes', '-o', 'ExitOnForwardFailure=yes'];
  args.push('-o', 'StreamLocalBindMask=0177', '-o', 'ControlPath=none', '-o', 'Compression=no');
  if (!target.isHostVerified) args.push('-o', 'StrictHostKeyChecking=no');
  if (target.user !== undefined) args.push('-l', target.user);
  if (target.port !== undefined) args.push('-p', String(target.port));
  if (target.keyFile !== undefined) args.push('-i', target.keyFile);
  return [...args, '-L', `${socketPath}:${remoteHost}:${remote.port}`, '--', target.host];
}
