// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import { type ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { CHORES, type Chore, type ChoreRecord, nextChore } from './plan.ts';

/** How often it looks whether something is due. */
const LOOK_INTERVAL_MS = 60_000;

export type ChoreRecords = Readonly<Partial<Record<Chore, ChoreRecord>>>;

/** What the housekeeper uses. Each may throw ApplianceError, which is said and tried again later. */
export interface HousekeeperPorts {
  readonly clock: Clock;
  readonly load: () => Promise<ChoreRecords>;
  readonly save: (records: ChoreRecords) => Promise<void>;
  /** Does a chore; ends soon after the signal is aborted, with ABORTED. What it had done by then stays done. */
  readonly perform: (chore: Chore, signal: AbortSignal) => Promise<void>;
  /** Looks at the room there is; true where it is short. */
  readonly measure: () => Promise<boolean>;
  readonly onNotice: (sentence: string) => void;
}

/**
 * Does what is due, one thing at a time, for as long as it is open. A chore that is interrupted, by `withoutChores` or by the
 * end of the process, is due again at once and goes on where it was; one that fails is tried again after a while, and said once.
 */
export class Housekeeper implements AsyncDisposable {
  readonly #ports: HousekeeperPorts;
  readonly #upSinceMs: number;
  #records: ChoreRecords | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #running: AbortController | undefined;
  #pauses = 0;
  #isClosed = false;
  /** What was said last, by what it is about. */
  readonly #said = new Map<Chore | 'look' | 'record', string>();

  constructor(ports: HousekeeperPorts) {
    this.#ports = ports;
    this.#upSinceMs = ports.clock.nowMs();
  }

  /** Looks every minute from now on. */
  start(): void {
    this.#timer ??= setInterval(() => void this.look(), LOOK_INTERVAL_MS).unref();
  }

  /** How the chores went last. Errors as the port's. */
  async records(): Promise<ChoreRecords> {
    this.#records ??= await this.#ports.load();
    return this.#records;
  }

  /** Does the chore that is due longest, if one is. Never rejects; settles when it is done. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .then(() => void this.#said.delete('look'))
      .catch((error: unknown) => this.#say('look', `housekeeping: ${toError(error).message}`))
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  /** Does somebody's own collection or check: a chore that runs gives way to it, and none begins meanwhile. */
  async withoutChores<T>(work: () => Promise<T>): Promise<T> {
    this.#pauses += 1;
    try {
      this.#running?.abort();
      await this.#looking;
      return await work();
    } finally {
      this.#pauses -= 1;
    }
  }

  /** Somebody did what the chore would have done. */
  async noteDone(chore: Chore, startedMs: number): Promise<void> {
    await this.#note(chore, { startedMs, endedMs: this.#ports.clock.nowMs(), failures: 0, problem: null });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#running?.abort();
    await this.#looking;
  }

  async #look(): Promise<void> {
    const isSpaceLow = await this.#ports.measure();
    const records = await this.records();
    if (this.#isClosed || this.#pauses > 0) return;
    const facts = { nowMs: this.#ports.clock.nowMs(), upSinceMs: this.#upSinceMs, isSpaceLow };
    const chore = nextChore(records, facts);
    if (chore !== undefined) await this.#do(chore, records[chore]?.failures ?? 0);
  }

  async #do(chore: Chore, failuresBefore: number): Promise<void> {
    const { clock, perform } = this.#ports;
    const startedMs = clock.nowMs();
    const controller = new AbortController();
    this.#running = controller;
    try {
      await perform(chore, controller.signal);
      await this.noteDone(chore, startedMs);
      this.#said.delete(chore);
    } catch (thrown) {
      const error = toError(thrown);
      // Interrupted, or somebody does the same at this moment: due as before.
      if (controller.signal.aborted || hasCode(error, 'LOCKED')) return;
      const failures = failuresBefore + 1;
      this.#say(chore, `${NAMES[chore]} failed: ${error.message}`);
      await this.#note(chore, { startedMs, endedMs: clock.nowMs(), failures, problem: describe(error) });
    } finally {
      this.#running = undefined;
    }
  }

  async #note(chore: Chore, record: ChoreRecord): Promise<void> {
    this.#records = { ...(await this.records()), [chore]: record };
    try {
      await this.#ports.save(this.#records);
      this.#said.delete('record');
    } catch (error) {
      // What was done is done: on a full disk, of which it may be the cure, it is known for as long as this process lives.
      if (!hasCode(error, 'NO_SPACE')) throw error;
      this.#say('record', `housekeeping cannot be recorded: ${error.message}`);
    }
  }

  /** The same problem again is not news. */
  #say(about: Chore | 'look' | 'record', sentence: string): void {
    if (this.#said.get(about) !== sentence) this.#ports.onNotice(sentence);
    this.#said.set(about, sentence);
  }
}

const NAMES: Readonly<Record<Chore, string>> = {
  collection: 'the garbage collection',
  scrub: 'the scrub',
};

/** As it was stored, or nothing of what is no chore any more. */
export function choreRecords(stored: unknown): ChoreRecords {
  const records = (stored ?? {}) as ChoreRecords;
  return Object.fromEntries(CHORES.filter((chore) => records[chore] !== undefined).map((c) => [c, records[c]]));
}

function describe(error: Error): string {
  return 'code' in error ? `${String((error as ApplianceError).code)}: ${error.message}` : error.message;
}
