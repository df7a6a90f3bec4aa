// SPDX-License-Identifier: Apache-2.0
import { ERROR_TABLE, type ErrorCode } from '../../core/error-codes.ts';
import type { ApplianceError } from '../../core/errors.ts';
import { ageMs, type Moment, type Stamp } from './moment.ts';
import type { PlanMachine, RunFailure } from './plan-runs.ts';
import type { Policy } from './policy.ts';
import { retryDelayMs } from './retry.ts';
import type { SelectableMachine } from './selection.ts';

/** What is kept of a machine through restarts, besides its recovery points. Lost, it only makes a run come sooner. */
export interface MachineRecord {
  readonly machineId: string;
  readonly name: string;
  readonly host: string;
  readonly seen: Stamp;
  /** When the last run that a policy made successfully began. */
  readonly run: Stamp | null;
  readonly failure: {
    readonly attempts: number;
    readonly at: Stamp;
    readonly delayMs: number;
    readonly code: ErrorCode;
    readonly message: string;
  } | null;
  /** When its policy's rule was applied last. */
  readonly retained: Stamp | null;
}

const MAX_MESSAGE = 500;
/** A point that is further ahead of the clock has an age that nobody knows. */
const AHEAD_MS = 60_000;

/** A machine that a policy has, while the service runs. */
export class MachineState {
  machine: SelectableMachine;
  policy: Policy | undefined;
  reason = '';
  /** Of the newest recovery point; undefined when there is none. */
  newest: { readonly takenAtMs: number; readonly stamp: Stamp } | undefined;
  /** Its points were looked for: before that nobody can say that it has none. */
  hasFacts = false;
  isProtectionDue = false;
  isRunning = false;
  #seen: Stamp;
  #run: Stamp | null;
  #failure: MachineRecord['failure'];
  #retained: Stamp | null;

  constructor(machine: SelectableMachine, now: Moment, record?: MachineRecord) {
    this.machine = machine;
    this.#seen = record?.seen ?? now;
    this.#run = record?.run ?? null;
    this.#failure = record?.failure ?? null;
    this.#retained = record?.retained ?? null;
  }

  get record(): MachineRecord {
    const { id, name, host } = this.machine;
    return {
      machineId: id,
      name,
      host,
      seen: this.#seen,
      run: this.#run,
      failure: this.#failure,
      retained: this.#retained,
    };
  }

  get failure(): MachineRecord['failure'] {
    return this.#failure;
  }

  /** A run that took a recovery point; undefined for one that began protection. */
  succeeded(began: Moment | undefined): void {
    this.#run = began ?? this.#run;
    this.#failure = null;
  }

  failed(error: ApplianceError, now: Moment, delayMs?: number): void {
    const attempts = (this.#failure?.attempts ?? 0) + 1;
    const { code } = error;
    this.#failure = {
      attempts,
      at: now,
      delayMs: delayMs ?? retryDelayMs(ERROR_TABLE[code].retry, attempts, this.machine.id),
      code,
      message: error.message.slice(0, MAX_MESSAGE),
    };
  }

  retained(now: Moment): void {
    this.#retained = now;
  }

  /** Infinite when it never was. */
  retainedAgeMs(now: Moment): number {
    return this.#retained === null
      ? Number.POSITIVE_INFINITY
      : (ageMs(this.#retained, now) ?? Number.POSITIVE_INFINITY);
  }

  newestAgeMs(now: Moment): number | null {
    return this.newest === undefined ? null : ageMs(this.newest.stamp, now);
  }

  /** What is known already is known by the uptime, and better than the clock says now. */
  learnNewest(takenAtMs: number | undefined, now: Moment): void {
    if (takenAtMs === this.newest?.takenAtMs) return;
    if (takenAtMs === undefined) {
      this.newest = undefined;
      return;
    }
    const agoMs = now.wallMs - takenAtMs;
    const isAhead = agoMs < -AHEAD_MS;
    const stamp = isAhead
      ? { wallMs: takenAtMs, bootId: '', uptimeMs: 0 }
      : { ...now, wallMs: takenAtMs, uptimeMs: now.uptimeMs - Math.max(0, agoMs) };
    this.newest = { takenAtMs, stamp };
  }

  /** The state as the planner wants it; its times are the uptime's. */
  planned(policy: Policy, now: Moment): PlanMachine {
    const { id, name, host } = this.machine;
    return {
      id,
      name,
      host,
      policy,
      newestAgeMs: this.newestAgeMs(now),
      runAgeMs: this.#run === null ? null : ageMs(this.#run, now),
      seenAgeMs: ageMs(this.#seen, now) ?? 0,
      failure: this.#plannedFailure(now),
      isProtectionDue: this.isProtectionDue,
      isRunning: this.isRunning,
    };
  }

  #plannedFailure(now: Moment): RunFailure | null {
    if (this.#failure === null) return null;
    const { attempts, at, delayMs, code, message } = this.#failure;
    // Of a failure that lies ahead of the clock nobody knows how long ago it was.
    const retryAtMs = now.uptimeMs - (ageMs(at, now) ?? delayMs) + delayMs;
    return { attempts, retryAtMs, code, message };
  }
}
