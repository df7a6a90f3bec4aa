// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { SessionMachines } from './session-machines.ts';
import type { SessionRegistry } from './session-registry.ts';

const TICK_MS = 500;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8_000;

/**
 * Lets guests go on that QEMU has paused because a disk of theirs failed. After a restart of the service QEMU connects
 * again only when the guest asks for something, fails that request, and pauses the guest (unless libvirt could tell it to
 * wait: 9.1 and later); the next try finds the connection. When the log is out of space, the guest goes on once there is
 * some. Tries again after 0.25 s, then ever more slowly, up to 8 s.
 */
export class ResumeWatch {
  readonly #registry: SessionRegistry;
  readonly #machines: SessionMachines;
  readonly #elapsedMs: () => number;
  readonly #waits = new Map<string, { waitMs: number; untilMs: number }>();
  #timer: NodeJS.Timeout | undefined;
  #tick: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(registry: SessionRegistry, machines: SessionMachines, elapsedMs: () => number) {
    this.#registry = registry;
    this.#machines = machines;
    this.#elapsedMs = elapsedMs;
  }

  /** Idempotent. The watch does not keep the process alive. */
  start(): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    this.#timer = setTimeout(() => {
      this.#tick = this.#look().then(() => {
        this.#timer = undefined;
        this.start();
      });
    }, TICK_MS).unref();
  }

  /** Settles when nothing of it runs any more. Idempotent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#tick;
  }

  async #look(): Promise<void> {
    for (const session of this.#registry.all()) {
      if (this.#isClosed || session.phase !== 'running' || this.#registry.isBusy(session.name)) continue;
      const wait = this.#waits.get(session.id);
      if (wait !== undefined && this.#elapsedMs() < wait.untilMs) continue;
      try {
        const wasPaused = await this.#machines.resumeAfterError(session);
        if (wasPaused) this.#slowDown(session.id, wait?.waitMs);
        else this.#waits.delete(session.id);
      } catch (error) {
        // libvirt does not answer, or the domain changed under us: the next look will tell.
        if (!(error instanceof ApplianceError)) throw error;
        this.#slowDown(session.id, wait?.waitMs);
      }
    }
  }

  #slowDown(id: string, before: number | undefined): void {
    const waitMs = before === undefined ? FIRST_WAIT_MS : Math.min(2 * before, LONGEST_WAIT_MS);
    this.#waits.set(id, { waitMs, untilMs: this.#elapsedMs() + waitMs });
  }
}
