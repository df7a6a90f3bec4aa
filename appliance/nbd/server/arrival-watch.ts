// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import { yieldProcessor } from '../../core/libc.ts';

/** What a watch takes from its surroundings, so that tests own time. */
export interface WatchOptions {
  readonly clock: Clock;
  /** Calls back after one turn of the event loop, which looks for input without sleeping. */
  readonly nextTurn?: (turn: () => void) => void;
}

/** So long after an answer the next request is looked for. */
const WINDOW_MS = 0.4;
/** What comes sooner was sent without waiting for the answer: such requests are better served together, after some sleep. */
const SOONEST_MS = 0.03;
/** So many more requests must have come within the window than not, one that did not counting as two. */
const ENOUGH_CREDIT = 8;
const MAX_CREDIT = 32;
const MISS_COST = 2;
/** Between two turns: somebody else wanted the processor, who shall have it. */
const HELD_UP_MS = 2;
/** So many requests are not watched for after that; twice as many each time that it happens again soon, up to a limit. */
const FIRST_REST = 64;
const MAX_REST = 4_096;
/**
 * The next rest is half as long after so many requests that were watched for without. A host that is held up once in two hundred requests
 * thus goes on with short rests, which its median needs; one that is held up in each twentieth rests nearly always.
 */
const CALM_REQUESTS = 64;

/**
 * Keeps the event loop from sleeping for a moment after an answer, while requests follow one another closely: a guest that writes
 * one block after the other waits for each, and waking a sleeping process takes longer than the write itself. (Hypervisors
 * do the same for their guests: Linux, Documentation/virt/kvm/halt-polling.rst.)
 *
 * Bounds: it lasts while more than two of three requests come 0.03 to 0.4 ms behind the answer before, which it learns without
 * watching, and ends 0.4 ms after the last event. One turn in which the processor was needed elsewhere ends it for 64 requests, or
 * for ever more of them while that happens again and again; requests beside one another end it until there were enough single
 * ones again: served one by one, they take twice the processor.
 * Each turn lets everything else run that is ready. Each connection has its own.
 */
export class ArrivalWatch {
  readonly #clock: Clock;
  readonly #nextTurn: (turn: () => void) => void;
  #credit = 0;
  #isAnswered = false;
  #isTurning = false;
  /** The last arrival or answer. */
  #eventMs = 0;
  #turnMs = 0;
  /** Requests that are not watched for any more. */
  #resting = 0;
  /** How long the next rest is. */
  #rest = FIRST_REST;
  /** Requests since the last hold-up or change of the rest, those of rests left out. */
  #calm = 0;

  constructor(options: WatchOptions) {
    this.#clock = options.clock;
    this.#nextTurn = options.nextTurn ?? yieldThenTurn;
  }

  /** True while the event loop is kept awake. */
  get isWatching(): boolean {
    return this.#isTurning;
  }

  /** Something came from the peer. */
  arrived(): void {
    const nowMs = this.#clock.elapsedMs();
    if (this.#isAnswered) this.#judge(nowMs - this.#eventMs);
    if (this.#resting > 0) this.#resting -= 1;
    else this.#grow();
    this.#isAnswered = false;
    this.#eventMs = nowMs;
  }

  /** Several requests are under way: nobody waits for a single one, and what comes while others are served is served together. */
  crowded(): void {
    this.#credit = 0;
  }

  /** Nothing is under way any more. */
  answered(): void {
    this.#isAnswered = true;
    this.#eventMs = this.#clock.elapsedMs();
    if (this.#isTurning || this.#resting > 0 || this.#credit < ENOUGH_CREDIT) return;
    this.#isTurning = true;
    this.#turnMs = this.#eventMs;
    this.#nextTurn(this.#turn);
  }

  /** The connection is gone. */
  close(): void {
    this.#credit = 0;
  }

  #judge(waitedMs: number): void {
    if (waitedMs >= SOONEST_MS && waitedMs <= WINDOW_MS) this.#credit = Math.min(MAX_CREDIT, this.#credit + 1);
    else this.#credit = Math.max(0, this.#credit - MISS_COST);
  }

  #heldUp(): void {
    this.#credit = 0;
    this.#calm = 0;
    this.#resting = this.#rest;
    this.#rest = Math.min(MAX_REST, this.#rest * 2);
  }

  /** Calm shortens the next rest. */
  #grow(): void {
    this.#calm += 1;
    if (this.#calm < CALM_REQUESTS) return;
    this.#calm = 0;
    this.#rest = Math.max(FIRST_REST, this.#rest / 2);
  }

  readonly #turn = (): void => {
    const nowMs = this.#clock.elapsedMs();
    if (nowMs - this.#turnMs > HELD_UP_MS) this.#heldUp();
    this.#turnMs = nowMs;
    if (nowMs - this.#eventMs <= WINDOW_MS && this.#credit >= ENOUGH_CREDIT) this.#nextTurn(this.#turn);
    else this.#isTurning = false;
  };
}

/** Who needs the processor is often the one whose request is looked for: QEMU's threads, on a host with few processors. */
function yieldThenTurn(turn: () => void): void {
  yieldProcessor();
  setImmediate(turn);
}
