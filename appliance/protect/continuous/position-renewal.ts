// SPDX-License-Identifier: Apache-2.0

import type { CyclePosition } from './cycle-position.ts';
import type { SessionStorage } from './ports.ts';

export interface RenewalParts {
  readonly storage: SessionStorage;
  /** While the stretch lasts that began with it. */
  readonly isUnbroken: () => boolean;
  /** The tracker has no position that can be used: there should be one soon. */
  readonly isUrgent: boolean;
  readonly renewMs: number;
  readonly startedMs: number;
}

/** Much longer than a write may be under way. */
const URGENT_MS = 30_000;

/**
 * Keeps the tracker's position young while every write is kept, so that a catch-up reads what was written in the last few
 * minutes and not since protection began. Times are elapsed milliseconds.
 *
 * A new position becomes that of the next catch-up only when another one was made after it in the same stretch: QEMU ends
 * everything under way before it begins to count for a position, and a write that the disk had and the journal had not would
 * have ended the stretch by then. So the journal has all that the disk had at that position.
 */
export class PositionRenewal {
  readonly #parts: RenewalParts;
  #isUrgent: boolean;
  #dueMs: number;
  #candidate: CyclePosition | undefined;
  #running: Promise<void> | undefined;

  constructor(parts: RenewalParts) {
    this.#parts = parts;
    this.#isUrgent = parts.isUrgent;
    this.#dueMs = parts.isUrgent ? parts.startedMs : parts.startedMs + parts.renewMs;
  }

  /** Asked several times a second. */
  tick(nowMs: number): void {
    if (nowMs < this.#dueMs || this.#running !== undefined) return;
    const { renewMs } = this.#parts;
    this.#dueMs = nowMs + (this.#isUrgent ? Math.min(renewMs, URGENT_MS) : renewMs);
    // When it fails the old position stays good, and a catch-up only reads more.
    this.#running = this.#renew()
      .catch(() => undefined)
      .finally(() => {
        this.#running = undefined;
      });
  }

  /** Settles when nothing of it runs. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #renew(): Promise<void> {
    const { storage, isUnbroken } = this.#parts;
    if (!isUnbroken()) return;
    const newer = await storage.newPosition();
    if (newer === undefined || !isUnbroken()) return;
    if (this.#candidate !== undefined) {
      await storage.adoptPosition(this.#candidate, newer);
      this.#isUrgent = false;
    }
    this.#candidate = newer;
  }
}
