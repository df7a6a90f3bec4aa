// SPDX-License-Identifier: Apache-2.0
import { systemClock } from '../appliance/core/clock.ts';
import { ApplianceError } from '../appliance/core/errors.ts';
import { shellSocketPath } from '../lab/guest.ts';
import { GuestConsole, type GuestResult } from '../lab/guest-console.ts';
import type { Stage } from './stage.ts';

const ANSWER_LIMIT_MS = 120_000;
const COMMAND_LIMIT_MS = 120_000;

/** The shell of a guest on stage, which an abort interrupts. */
export class GuestShell implements AsyncDisposable {
  /** When the guest's user space answered for the first time, on the clock of `systemClock.elapsedMs`. */
  readonly answeredAtMs: number;
  readonly #console: GuestConsole;
  readonly #signal: AbortSignal;

  private constructor(console: GuestConsole, signal: AbortSignal) {
    this.#console = console;
    this.#signal = signal;
    this.answeredAtMs = systemClock.elapsedMs();
  }

  /** Waits until the guest's user space answers. @throws ApplianceError TIMED_OUT; the reason of an abort */
  static async connect(stage: Stage, machineName: string): Promise<GuestShell> {
    const socketPath = shellSocketPath(await stage.virsh('dumpxml', machineName));
    if (socketPath === undefined) throw new ApplianceError('TOOL_FAILED', `${machineName} has no shell port`);
    const connecting = GuestConsole.connect(socketPath, ANSWER_LIMIT_MS);
    return new GuestShell(await unlessAborted(connecting, stage.signal), stage.signal);
  }

  async run(command: string): Promise<GuestResult> {
    return await unlessAborted(this.#console.run(command, { timeoutMs: COMMAND_LIMIT_MS }), this.#signal);
  }

  /** The output of a command that must succeed. @throws ApplianceError TOOL_FAILED */
  async expect(command: string): Promise<string> {
    return await unlessAborted(this.#console.expect(command, { timeoutMs: COMMAND_LIMIT_MS }), this.#signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#console.close();
  }
}

/** Gives up waiting when aborted. What was waited for ends with the guest. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    promise.catch(() => undefined);
  }
}
