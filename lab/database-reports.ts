// SPDX-License-Identifier: Apache-2.0
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { type DatabaseState, parseState } from './database-guest.ts';

export interface ReportedCommit {
  readonly number: number;
  /** When the report arrived, by the clock of this machine, ms since 1970: later than the commit. */
  readonly atMs: number;
}

const CONNECT_RETRY_MS = 20;
const CONNECT_TIMEOUT_MS = 10_000;
const DEFAULT_TIMEOUT_MS = 60_000;

/** What a guest with a database reports, as long as it runs. Disposing hangs up; the guest then waits with its next commit. */
export class DatabaseReports implements Disposable {
  readonly commits: ReportedCommit[] = [];
  #state: DatabaseState | undefined;
  #failure: string | undefined;
  #hasEnded: boolean = false;
  #buffer: string = '';
  readonly #socket: Socket;
  #watchers: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      const lines = (this.#buffer + chunk).split('\n');
      this.#buffer = lines.pop() ?? '';
      for (const line of lines) this.#receive(line.trimEnd());
      this.#notify();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#hasEnded = true;
      this.#notify();
    });
  }

  static async connect(socketPath: string): Promise<DatabaseReports> {
    const deadline = systemClock.elapsedMs() + CONNECT_TIMEOUT_MS;
    for (;;) {
      const socket = connect(socketPath);
      const isConnected = await new Promise<boolean>((resolve) => {
        socket.once('connect', () => resolve(true));
        socket.once('error', () => resolve(false));
      });
      if (isConnected) return new DatabaseReports(socket);
      if (systemClock.elapsedMs() > deadline) throw new ApplianceError('TIMED_OUT', `nobody listens on ${socketPath}`);
      await delay(CONNECT_RETRY_MS);
    }
  }

  /** The newest number that was reported as committed or found intact; 0 before. */
  get newest(): number {
    const found = this.#state !== undefined && 'intactAt' in this.#state ? this.#state.intactAt : 0;
    return this.commits.at(-1)?.number ?? found;
  }

  /** What went wrong in the guest: a broken rule, or an error of its database. */
  get failure(): string | undefined {
    return this.#failure;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** What the guest found when it started. @throws ApplianceError TIMED_OUT, CLOSED */
  async state(timeoutMs: number = DEFAULT_TIMEOUT_MS): Promise<DatabaseState> {
    await this.#until(() => this.#state !== undefined, 'what the database is like', timeoutMs);
    return this.#state ?? { broken: 'nothing was said' };
  }

  /** Settles when a number has been reported. @throws ApplianceError TIMED_OUT, CLOSED, TOOL_FAILED when the guest fails */
  async until(number: number, timeoutMs: number = DEFAULT_TIMEOUT_MS): Promise<void> {
    await this.#until(() => this.newest >= number || this.#failure !== undefined, `commit ${number}`, timeoutMs);
    if (this.newest < number) throw new ApplianceError('TOOL_FAILED', `the database failed: ${this.#failure}`);
  }

  /** Settles when the guest is gone. @throws ApplianceError TIMED_OUT */
  async ended(timeoutMs: number = DEFAULT_TIMEOUT_MS): Promise<void> {
    await this.#until(() => this.#hasEnded, 'its end', timeoutMs);
  }

  close(): void {
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #receive(line: string): void {
    const number = /^COMMIT (\d+)$/.exec(line)?.[1];
    if (number !== undefined) {
      this.commits.push({ number: Number(number), atMs: systemClock.nowMs() });
      return;
    }
    const state = parseState(line);
    if (state === undefined) return;
    this.#state ??= state;
    if ('broken' in state) this.#failure ??= state.broken;
  }

  async #until(condition: () => boolean, what: string, timeoutMs: number): Promise<void> {
    const deadline = systemClock.elapsedMs() + timeoutMs;
    while (!condition()) {
      if (this.#hasEnded) throw new ApplianceError('CLOSED', `the guest ended before ${what} was reported`);
      const leftMs = deadline - systemClock.elapsedMs();
      if (leftMs <= 0) throw new ApplianceError('TIMED_OUT', `${what} was not reported within ${timeoutMs} ms`);
      const changed = Promise.withResolvers<void>();
      this.#watchers.push(changed.resolve);
      const timer = setTimeout(changed.resolve, leftMs);
      await changed.promise;
      clearTimeout(timer);
    }
  }

  #notify(): void {
    const watchers = this.#watchers;
    this.#watchers = [];
    for (const watcher of watchers) watcher();
  }
}
