// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { LogSpace } from './log-space.ts';
import type { PendingNames } from './pending-names.ts';
import type { SessionDisks } from './session-disks.ts';
import type { SessionMachines } from './session-machines.ts';
import type { SessionRegistry } from './session-registry.ts';
import type { Session } from './session-store.ts';

interface Watched {
  readonly registry: SessionRegistry;
  readonly machines: SessionMachines;
  readonly names: PendingNames;
  readonly space: LogSpace;
  readonly disks: SessionDisks;
}

const TICK_MS = 500;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8_000;

/**
 * Lets guests go on that QEMU has paused because a disk of theirs failed. After a restart of the service QEMU connects
 * again only when the guest asks for something, fails that request, and pauses the guest (unless libvirt could tell it to
 * wait: 9.1 and later); the next try finds the connection. When the log is out of space, the guest goes on once there is
 * some. Tries again after 0.25 s, then ever more slowly, up to 8 s. The histories of the machines follow what it sees.
 */
export class ResumeWatch {
  readonly #registry: SessionRegistry;
  readonly #machines: SessionMachines;
  readonly #names: PendingNames;
  readonly #space: LogSpace;
  readonly #disks: SessionDisks;
  readonly #elapsedMs: () => number;
  readonly #waits = new Map<string, { waitMs: number; untilMs: number }>();
  #timer: NodeJS.Timeout | undefined;
  #tick: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(watched: Watched, elapsedMs: () => number) {
    this.#registry = watched.registry;
    this.#machines = watched.machines;
    this.#names = watched.names;
    this.#space = watched.space;
    this.#disks = watched.disks;
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
    await this.#unlessRefused(() => this.#names.look());
    const running = this.#registry.all().filter(({ phase }) => phase === 'running');
    await this.#unlessRefused(() => this.#space.look(running.length));
    for (const session of running) {
      if (this.#isClosed || !this.#mayResume(session)) continue;
      const wait = this.#waits.get(session.id);
      if (wait !== undefined && this.#elapsedMs() < wait.untilMs) continue;
      try {
        const wasPaused = await this.#resume(session);
        if (wasPaused) this.#slowDown(session.id, wait?.waitMs);
        else this.#waits.delete(session.id);
      } catch (error) {
        // libvirt does not answer, or the domain changed under us: the next look will tell.
        if (!(error instanceof ApplianceError)) throw error;
        this.#slowDown(session.id, wait?.waitMs);
      }
    }
  }

  /** Whether it was found paused. Without room it stays so. */
  async #resume(session: Session): Promise<boolean> {
    const { isOff, isPausedByError } = await this.#machines.powerOf(session);
    await this.#unlessRefused(() => this.#follow(session, isOff));
    if (this.#space.isFull) {
      if (isPausedByError) this.#space.paused(session.name);
      return false;
    }
    if (isPausedByError) await this.#machines.resume(session);
    this.#space.runs(session.name);
    return isPausedByError;
  }

  /** A stretch of its history lasts as long as the machine runs, and is folded from time to time. */
  async #follow(session: Session, isOff: boolean): Promise<void> {
    const history = this.#disks.servedHistory(session);
    if (history === undefined) return;
    history.foldIfDue();
    // An operation that began meanwhile knows better.
    if (this.#registry.isBusy(session.name)) return;
    if (isOff) await history.log.end('the machine was shut off');
    else if (this.#registry.find(session.name)?.migration === undefined) await history.log.begin();
  }

  /** A migration takes long, and its guest is not to wait for the end of it. */
  #mayResume(session: Session): boolean {
    return !this.#registry.isBusy(session.name) || session.migration !== undefined;
  }

  /** libvirt may not answer, a file system not be there: the next look will tell. */
  async #unlessRefused(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
    }
  }

  #slowDown(id: string, before: number | undefined): void {
    const waitMs = before === undefined ? FIRST_WAIT_MS : Math.min(2 * before, LONGEST_WAIT_MS);
    this.#waits.set(id, { waitMs, untilMs: this.#elapsedMs() + waitMs });
  }
}
