// SPDX-License-Identifier: Apache-2.0
import type { PolicyReport, ScheduleEntry } from '../../api/schemas/policies.ts';
import type { MachineState } from '../../protect/policy/machine-state.ts';
import type { Moment } from '../../protect/policy/moment.ts';
import type { Waiting } from '../../protect/policy/plan-runs.ts';
import type { Policy } from '../../protect/policy/policy.ts';
import { decideRetention } from '../../protect/retention/decide.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';

/** Pure translations of policies and plans into what the operations answer. */

export function policyReport({ document, rpoTargetMs }: Policy, revision: number): PolicyReport {
  return { ...document, rpoTargetMs, revision };
}

export function waitingEntry({ machine, reason, dueAtMs }: Waiting, state: MachineState, now: Moment): ScheduleEntry {
  const base = entryOf(state, machine.policy, now);
  const dueAt = Number.isFinite(dueAtMs) ? isoIn(dueAtMs - now.uptimeMs, now) : null;
  const isSession = machine.policy.schedule === undefined;
  switch (reason.kind) {
    case 'running':
      return { ...base, dueAt, state: 'running', reason: 'it runs' };
    case 'not-due':
      if (isSession) return { ...base, dueAt: null, state: 'protected', reason: 'it is protected continuously' };
      return { ...base, dueAt, state: 'waiting', reason: 'it is not time yet' };
    case 'retry': {
      const again = isoIn(reason.failure.retryAtMs - now.uptimeMs, now);
      return {
        ...base,
        dueAt: again,
        state: 'failed',
        reason: `it failed, and is tried again: ${reason.failure.message}`,
      };
    }
    case 'window': {
      const opensMs = machine.policy.window?.opensAt(now.wallMs) ?? now.wallMs;
      return {
        ...base,
        dueAt: new Date(opensMs).toISOString(),
        state: 'waiting',
        reason: `it waits for its window, ${machine.policy.window?.text}`,
      };
    }
    case 'host':
      return { ...base, dueAt, state: 'waiting', reason: `the hypervisor does not answer: ${reason.problem}` };
    case 'repository':
      return { ...base, dueAt, state: 'waiting', reason: 'the repository has no room' };
    case 'host-limit':
      return { ...base, dueAt, state: 'due', reason: 'others of its hypervisor run' };
    case 'repository-limit':
      return { ...base, dueAt, state: 'due', reason: 'others run' };
  }
}

export function dueEntry(state: MachineState, policy: Policy, now: Moment): ScheduleEntry {
  return { ...entryOf(state, policy, now), dueAt: isoIn(0, now), state: 'due', reason: 'it is next' };
}

function entryOf(state: MachineState, policy: Policy, now: Moment): Omit<ScheduleEntry, 'state' | 'reason' | 'dueAt'> {
  const { failure, machine } = state;
  return {
    id: machine.id,
    machine: machine.name,
    host: machine.hostName,
    policy: policy.name,
    rpoTargetMs: policy.rpoTargetMs,
    rpoNowMs: state.newestAgeMs(now),
    attempts: failure?.attempts ?? 0,
    lastFailure:
      failure === null
        ? null
        : { at: new Date(failure.at.wallMs).toISOString(), code: failure.code, message: failure.message },
  };
}

function isoIn(ms: number, now: Moment): string {
  return new Date(Math.round(now.wallMs + ms)).toISOString();
}

/** How many of a machine's points a policy's rule keeps; holds, uses and damage are not looked at. */
export function goingIds(points: readonly RecoveryPoint[], policy: Policy, nowMs: number): ReadonlySet<string> {
  if (!policy.hasRule) return new Set();
  const facts = points.map(({ id, sequence, createdAt }) => ({
    id,
    sequence,
    timeMs: Date.parse(createdAt),
    defect: null,
    kept: [],
  }));
  const terms = { rule: policy.rule, timeZone: policy.document.timeZone, nowMs };
  return new Set(decideRetention(facts, terms).flatMap(({ id, keep }) => (keep ? [] : [id])));
}

/** So many points stay in the long run at most; null: all. */
export function keptInTheLongRun({ rule, hasRule, schedule }: Policy): number | null {
  if (!hasRule) return null;
  const { within, ...counts } = rule;
  const byCounts = Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (within === undefined) return Math.max(1, byCounts);
  const days = within.years * 365 + within.months * 30.5 + within.weeks * 7 + within.days + within.hours / 24;
  return schedule === undefined ? null : byCounts + Math.ceil((days * 86_400_000) / schedule.longestGapMs) + 1;
}

/** What a run of a machine stores on average, and what the largest stored (the first, as a rule). Undefined without any. */
export function storedBytes(
  points: readonly RecoveryPoint[],
): { readonly perRun: number; readonly largest: number } | undefined {
  const stored = points.map(({ disks }) => disks.reduce((sum, { stats }) => sum + stats.storedBytes, 0));
  if (stored.length === 0) return undefined;
  const largest = Math.max(...stored);
  const others = stored.length === 1 ? stored : stored.toSpliced(stored.indexOf(largest), 1);
  return { perRun: Math.round(others.reduce((sum, bytes) => sum + bytes, 0) / others.length), largest };
}
