// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';

/**
 * `seeding`: nothing can be recovered from the journal yet. `protected`: every write, or every interval, is kept.
 * `behind`: protection was interrupted, and is taken up again. `resyncing`: what was missed is being found. `paused`: the
 * machine is off, or the operator wants it.
 */
export type SessionState = 'seeding' | 'protected' | 'behind' | 'resyncing' | 'paused';
/** How changes come: each write, or what changed in an interval. */
export type SessionMode = 'writes' | 'interval';

export interface StateChange {
  readonly state: SessionState;
  readonly mode: SessionMode;
  /** A sentence without a full stop. */
  readonly reason: string;
  readonly atMs: number;
}

/** So many changes are remembered. */
const MAX_CHANGES = 200;

/** The states of a session, each with its time and reason, oldest first. */
export class StateHistory {
  readonly #clock: Clock;
  readonly #onChange: (change: StateChange) => void;
  readonly #changes: StateChange[] = [];
  #current: StateChange;

  constructor(clock: Clock, mode: SessionMode, onChange: (change: StateChange) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
    this.#current = { state: 'seeding', mode, reason: 'protection begins', atMs: clock.nowMs() };
    this.#changes.push(this.#current);
  }

  get current(): StateChange {
    return this.#current;
  }

  all(): StateChange[] {
    return [...this.#changes];
  }

  /** Notes a change; the same again is none. */
  move(state: SessionState, mode: SessionMode, reason: string): void {
    const { current } = this;
    if (current.state === state && current.mode === mode && current.reason === reason) return;
    this.#current = { state, mode, reason, atMs: this.#clock.nowMs() };
    this.#changes.push(this.#current);
    if (this.#changes.length > MAX_CHANGES) this.#changes.shift();
    this.#onChange(this.#current);
  }
}

/** Why a round of a session ended, and what follows. The first one counts. */
export type RoundEnd =
  /** The machine is not what it was: look again at once. */
  | { readonly kind: 'changed'; readonly reason: string }
  /** Something failed: try again after a while. */
  | { readonly kind: 'failed'; readonly reason: string }
  /** The guest would have to wait for us: intervals for a while. */
  | { readonly kind: 'slow'; readonly reason: string }
  /** Intervals have lasted long enough, or the operator asks for something else. */
  | { readonly kind: 'asked'; readonly reason: string };

/** A round that can be ended from many places, once. */
export class RoundStop {
  readonly promise: Promise<RoundEnd>;
  readonly signal: AbortSignal;
  readonly #abort = new AbortController();
  readonly #resolve: (end: RoundEnd) => void;
  readonly #clock: Clock;
  #end: RoundEnd | undefined;
  #endMs = 0;
  #onStop: ((end: RoundEnd) => void) | undefined;

  constructor(clock: Clock) {
    const { promise, resolve } = Promise.withResolvers<RoundEnd>();
    this.#clock = clock;
    this.promise = promise;
    this.#resolve = resolve;
    this.signal = this.#abort.signal;
  }

  get end(): RoundEnd | undefined {
    return this.#end;
  }

  /** When it was stopped. */
  get endMs(): number {
    return this.#endMs;
  }

  /** Called in the very turn in which the round is stopped. */
  onStop(listener: (end: RoundEnd) => void): void {
    if (this.#end === undefined) this.#onStop = listener;
    else listener(this.#end);
  }

  now(end: RoundEnd): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    this.#endMs = this.#clock.nowMs();
    this.#onStop?.(end);
    this.#abort.abort(new Error(end.reason));
    this.#resolve(end);
  }
}
