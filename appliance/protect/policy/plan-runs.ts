// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../../core/error-codes.ts';
import type { Policy } from './policy.ts';

/** A machine with a policy, as the planner needs it. Ages are counted by the host's uptime, which no setting of a clock moves. */
export interface PlanMachine {
  readonly id: string;
  readonly name: string;
  /** The hypervisor's URI. */
  readonly host: string;
  readonly policy: Policy;
  /** Of the newest good recovery point; null when there is none. */
  readonly newestAgeMs: number | null;
  /** Since the last run that a policy made successfully began; null when there was none that is known. */
  readonly runAgeMs: number | null;
  /** Since the machine is known. */
  readonly seenAgeMs: number;
  readonly failure: RunFailure | null;
  /** Its policy protects it continuously, and it is not yet, or otherwise. */
  readonly isProtectionDue: boolean;
  readonly isRunning: boolean;
}

/** Failures in a row. */
export interface RunFailure {
  readonly attempts: number;
  /** In the planner's steady time: not before. */
  readonly retryAtMs: number;
  readonly code: ErrorCode;
  readonly message: string;
}

export interface PlanHost {
  readonly running: number;
  /** Why nothing can be done on it now, in words; null when something can. */
  readonly problem: string | null;
}

export interface PlanInput {
  readonly machines: readonly PlanMachine[];
  readonly hosts: ReadonlyMap<string, PlanHost>;
  readonly limits: { readonly perHost: number; readonly perRepository: number };
  /** Runs of all hosts. */
  readonly running: number;
  /** The repository takes nothing before this (steady time), and then one run that tries it; null when it is well. */
  readonly repositoryRetryAtMs: number | null;
  readonly wallMs: number;
  /** Never jumps; the origin does not matter. */
  readonly steadyMs: number;
}

/** What keeps a machine from running now. */
export type WaitReason =
  | { readonly kind: 'running' }
  | { readonly kind: 'not-due' }
  | { readonly kind: 'retry'; readonly failure: RunFailure }
  | { readonly kind: 'window' }
  | { readonly kind: 'host'; readonly problem: string }
  | { readonly kind: 'repository' }
  | { readonly kind: 'host-limit' }
  | { readonly kind: 'repository-limit' };

export interface Waiting {
  readonly machine: PlanMachine;
  readonly reason: WaitReason;
  /** In steady time; infinite for a schedule that never comes again. For one that is due: since when. */
  readonly dueAtMs: number;
}

export interface RunPlan {
  /** To be started now, in this order: the most overdue first. */
  readonly runs: readonly PlanMachine[];
  /** All others. */
  readonly waiting: readonly Waiting[];
  /** In steady time: nothing becomes due before, unless something changes. */
  readonly wakeAtMs: number;
}

/** An occurrence counts as served by a run that began so little before it: a clock that is set back doubles nothing. */
const MAX_SLACK_MS = 2 * 3_600_000;
/** How far ahead a plan looks: window and calendar are looked at again then, whatever the clock did. */
export const MAX_SLEEP_MS = 60_000;

/**
 * Says which machines run now, and why the others do not.
 *
 * The most overdue comes first: by the age of its newest point in units of its policy's RPO target. A machine without any point
 * counts as overdue by one target from the moment it is known. One that failed waits for its next attempt and keeps nobody from running; a
 * calendar's occurrences that were missed are caught up by one run.
 *
 * Invariants (test/protect/policy/plan-runs.test.ts): no machine twice, none that runs already; no limit exceeded; no run outside of its window,
 * on a host with a problem or before its next attempt; whoever is left waiting at a limit is not more overdue than one that runs there; the order of the
 * machines does not matter.
 */
export function planRuns(input: PlanInput): RunPlan {
  const { steadyMs } = input;
  const waiting: Waiting[] = [];
  const due: { readonly machine: PlanMachine; readonly dueAtMs: number; readonly urgency: number }[] = [];
  let wakeAtMs = steadyMs + MAX_SLEEP_MS;
  for (const machine of input.machines) {
    const dueAtMs = dueAt(machine, input);
    const reason = standstill(machine, dueAtMs, input);
    if (reason === undefined) due.push({ machine, dueAtMs, urgency: urgencyOf(machine) });
    else {
      waiting.push({ machine, reason, dueAtMs });
      const nextMs = reason.kind === 'retry' ? reason.failure.retryAtMs : dueAtMs;
      if (nextMs > steadyMs && nextMs < wakeAtMs) wakeAtMs = nextMs;
    }
  }
  due.sort((a, b) => b.urgency - a.urgency || a.dueAtMs - b.dueAtMs || (a.machine.id < b.machine.id ? -1 : 1));
  const runs: PlanMachine[] = [];
  const free = new FreePlaces(input);
  for (const { machine, dueAtMs } of due) {
    const reason = free.take(machine.host);
    if (reason === undefined) runs.push(machine);
    else waiting.push({ machine, reason, dueAtMs });
  }
  return { runs, waiting, wakeAtMs: Math.max(wakeAtMs, steadyMs) };
}

/** How overdue a machine is, in units of its target; see `planRuns`. */
export function urgencyOf({ newestAgeMs, seenAgeMs, policy: { rpoTargetMs } }: PlanMachine): number {
  return newestAgeMs === null ? 1 + seenAgeMs / rpoTargetMs : newestAgeMs / rpoTargetMs;
}

/** When the schedule wants the machine's next run, in steady time; failures and windows are not looked at. */
export function dueAt(machine: PlanMachine, { wallMs, steadyMs }: Pick<PlanInput, 'wallMs' | 'steadyMs'>): number {
  const { schedule } = machine.policy;
  const { newestAgeMs, runAgeMs, seenAgeMs } = machine;
  if (schedule === undefined) return machine.isProtectionDue ? steadyMs - seenAgeMs : Number.POSITIVE_INFINITY;
  if (schedule.everyMs !== undefined) {
    const ageMs = Math.min(newestAgeMs ?? Number.POSITIVE_INFINITY, runAgeMs ?? Number.POSITIVE_INFINITY);
    return ageMs === Number.POSITIVE_INFINITY ? steadyMs - seenAgeMs : steadyMs - ageMs + schedule.everyMs;
  }
  const { latest, before, next } = schedule.around(wallMs);
  // What time it was then, by the clock as it is set now.
  const servedMs = wallMs - (runAgeMs ?? newestAgeMs ?? seenAgeMs);
  const slackMs = runAgeMs === null ? 0 : slackBefore(latest, before);
  if (latest !== undefined && latest > servedMs + slackMs) return steadyMs - (wallMs - latest);
  return next === undefined ? Number.POSITIVE_INFINITY : steadyMs + (next - wallMs);
}

function slackBefore(latest: number | undefined, before: number | undefined): number {
  return latest === undefined || before === undefined ? 0 : Math.min(MAX_SLACK_MS, (latest - before) / 2);
}

/** Why the machine cannot run now, whatever the others do; undefined when it can. */
function standstill(machine: PlanMachine, dueAtMs: number, input: PlanInput): WaitReason | undefined {
  const { steadyMs, wallMs } = input;
  if (machine.isRunning) return { kind: 'running' };
  if (dueAtMs > steadyMs) return { kind: 'not-due' };
  const { failure } = machine;
  if (failure !== null && failure.retryAtMs > steadyMs) return { kind: 'retry', failure };
  if (machine.policy.window?.isOpen(wallMs) === false) return { kind: 'window' };
  const problem = input.hosts.get(machine.host)?.problem ?? null;
  if (problem !== null) return { kind: 'host', problem };
  const { repositoryRetryAtMs } = input;
  if (repositoryRetryAtMs !== null && repositoryRetryAtMs > steadyMs) return { kind: 'repository' };
  return undefined;
}

/** What of the limits is not used. */
class FreePlaces {
  readonly #perHost: number;
  readonly #running: Map<string, number>;
  #left: number;

  constructor({ hosts, limits, running, repositoryRetryAtMs }: PlanInput) {
    this.#perHost = limits.perHost;
    this.#running = new Map([...hosts].map(([uri, host]) => [uri, host.running]));
    // A repository that was full is tried with one run.
    this.#left = (repositoryRetryAtMs === null ? limits.perRepository : Math.min(1, limits.perRepository)) - running;
  }

  take(host: string): WaitReason | undefined {
    const running = this.#running.get(host) ?? 0;
    if (this.#left <= 0) return { kind: 'repository-limit' };
    if (running >= this.#perHost) return { kind: 'host-limit' };
    this.#left -= 1;
    this.#running.set(host, running + 1);
    return undefined;
  }
}
