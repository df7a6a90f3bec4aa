// SPDX-License-Identifier: Apache-2.0
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { shellSocketPath } from './guest.ts';

export interface GuestResult {
  /** Exit status of the command. */
  readonly status: number;
  /** Standard output and standard error together. */
  readonly output: string;
}

/** What of a libvirt domain this needs. */
export interface DomainWithPort {
  readonly name: string;
  xml(): Promise<string>;
  state(): Promise<{ readonly state: string; readonly reason: number }>;
}

export interface ConsoleOptions {
  readonly timeoutMs?: number;
  /** The path of a socket as it is seen from here. */
  readonly outside?: (path: string) => string;
}

interface PendingCommand {
  readonly id: string;
  readonly lines: string[];
  readonly settle: PromiseWithResolvers<GuestResult>;
}

const DEFAULT_TIMEOUT_MS = 20_000;
const READY_TIMEOUT_MS = 60_000;
const CONNECT_RETRY_MS = 50;
/** Base64 of a command; the guest's shell reads it as one line. */
const MAX_COMMAND_LENGTH = 32 * 1024;

/**
 * Runs shell commands in the small guest over its virtio-serial port (see `guest-init.ts`), one at a time. It is no terminal: a command's
 * input is empty, and its output comes when it has ended.
 */
export class GuestConsole implements AsyncDisposable {
  readonly #socket: Socket;
  #buffer: string = '';
  #pending: PendingCommand | undefined;
  #lastId: number = 0;
  #failure: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      this.#receive(chunk);
    });
    socket.on('error', (cause) => {
      this.#fail(new ApplianceError('IO_FAILED', `the guest's console failed: ${cause.message}`, { cause }));
    });
    socket.on('close', () => {
      this.#fail(new ApplianceError('CLOSED', "the guest's console is closed"));
    });
  }

  /** Connects and waits until the guest's shell answers. Throws TIMED_OUT when the guest does not come up. */
  static async connect(socketPath: string, timeoutMs: number = READY_TIMEOUT_MS): Promise<GuestConsole> {
    const deadline = systemClock.elapsedMs() + timeoutMs;
    const console = new GuestConsole(await connectUntil(socketPath, deadline));
    try {
      await console.run('true', { timeoutMs: Math.max(1, deadline - systemClock.elapsedMs()) });
      return console;
    } catch (error) {
      await console.close();
      throw error;
    }
  }

  /**
   * The same for a domain that is about to run: waits for its port. Throws TIMED_OUT, with the state of a domain that has none. The port takes
   * one host at a time: a console of the same guest that is still open must be closed before.
   */
  static async of(domain: DomainWithPort, options: ConsoleOptions = {}): Promise<GuestConsole> {
    const { timeoutMs = READY_TIMEOUT_MS, outside = (path): string => path } = options;
    const deadline = systemClock.elapsedMs() + timeoutMs;
    for (;;) {
      const socketPath = shellSocketPath(await domain.xml());
      const leftMs = deadline - systemClock.elapsedMs();
      if (socketPath !== undefined) return GuestConsole.connect(outside(socketPath), Math.max(1, leftMs));
      if (leftMs <= 0) {
        const { state, reason } = await domain.state();
        throw new ApplianceError('TIMED_OUT', `${domain.name} has no shell port: it is ${state} (${reason})`);
      }
      await delay(CONNECT_RETRY_MS);
    }
  }

  /** Runs `command` with `sh`. Throws TIMED_OUT; the command goes on in the guest, and the console is of no use any more. */
  async run(command: string, options: { readonly timeoutMs?: number } = {}): Promise<GuestResult> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#pending !== undefined) throw new ApplianceError('BAD_ARGUMENT', 'a command runs already in the guest');
    const encoded = Buffer.from(`${command}\n`).toString('base64');
    if (encoded.length > MAX_COMMAND_LENGTH) throw new ApplianceError('BAD_ARGUMENT', 'the command is too long');
    const id = `c${++this.#lastId}`;
    const settle = Promise.withResolvers<GuestResult>();
    this.#pending = { id, lines: [], settle };
    this.#socket.write(`${id} ${encoded}\n`);
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const timer = setTimeout(() => {
      this.#fail(new ApplianceError('TIMED_OUT', `the guest did not finish within ${timeoutMs} ms: ${command}`));
    }, timeoutMs);
    try {
      return await settle.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The output of a command that must succeed, without the white space at its end. Throws TOOL_FAILED otherwise. */
  async expect(command: string, options: { readonly timeoutMs?: number } = {}): Promise<string> {
    const { status, output } = await this.run(command, options);
    if (status === 0) return output.trimEnd();
    throw new ApplianceError('TOOL_FAILED', `in the guest, status ${status}: ${command}: ${output.trim()}`);
  }

  async close(): Promise<void> {
    if (this.#socket.destroyed) return;
    await new Promise<void>((resolve) => {
      this.#socket.once('close', () => {
        resolve();
      });
      this.#socket.destroy();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #receive(chunk: string): void {
    const lines = (this.#buffer + chunk).split('\n');
    this.#buffer = lines.pop() ?? '';
    for (const line of lines) this.#receiveLine(line.trimEnd());
  }

  #receiveLine(line: string): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    if (line === `BEGIN ${pending.id}`) {
      pending.lines.length = 0;
    } else if (line.startsWith(`END ${pending.id} `)) {
      this.#pending = undefined;
      const output = Buffer.from(pending.lines.join(''), 'base64').toString('utf8');
      pending.settle.resolve({ status: Number(line.split(' ')[2]), output });
    } else {
      pending.lines.push(line);
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#pending?.settle.reject(this.#failure);
    this.#pending = undefined;
  }
}

async function connectUntil(socketPath: string, deadline: number): Promise<Socket> {
  for (;;) {
    try {
      return await connectOnce(socketPath);
    } catch (cause) {
      if (systemClock.elapsedMs() > deadline) {
        throw new ApplianceError('TIMED_OUT', `nothing listens on ${socketPath}`, { cause });
      }
      await delay(CONNECT_RETRY_MS);
    }
  }
}

async function connectOnce(socketPath: string): Promise<Socket> {
  return await new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}
