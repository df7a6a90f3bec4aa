// SPDX-License-Identifier: Apache-2.0
import { parseBytes, parseDuration } from '../../core/amounts.ts';
import { ApplianceError } from '../../core/errors.ts';
import { Calendar } from '../retention/calendar.ts';
import { isEmptyRule, parseSpan, type RetentionRule } from '../retention/rule.ts';
import { DayWindow } from './day-window.ts';
import { Schedule } from './schedule.ts';

/** Which machines a policy takes: those that any of the lists names, or all, without the exceptions. */
export interface PolicySelection {
  /** Every machine, also those that come. */
  readonly all?: boolean;
  /** Names, with `*` and `?`. */
  readonly names?: readonly string[];
  /** UUIDs. */
  readonly ids?: readonly string[];
  /** As the hypervisor has them; see `docs/policies.md`. */
  readonly tags?: readonly string[];
  /** Folders with all that is beneath them: `/prod/web`. */
  readonly folders?: readonly string[];
  /** Only on these hypervisors (their URIs); all when left out. */
  readonly hypervisors?: readonly string[];
  /** Names (with `*` and `?`) and UUIDs that it leaves out. */
  readonly except?: readonly string[];
}

/** How many points stay; as the parameters of `retention`. */
export interface PolicyKeep {
  readonly last?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
  readonly within?: string;
}

/** A policy as it is kept and shown. */
export interface PolicyDocument {
  readonly name: string;
  readonly enabled: boolean;
  /** The highest wins a machine that several policies select; among equals the first by name. */
  readonly priority: number;
  readonly machines: PolicySelection;
  readonly mode: 'scheduled' | 'interval' | 'continuous';
  /** Of `scheduled`: `daily 22:00`, `every 15m`, five fields of cron. */
  readonly schedule?: string;
  /** Of `interval`: a state each so often. */
  readonly interval?: string;
  /** Of `continuous` and `interval`; as the parameters of `protect`. */
  readonly durability?: 'group' | 'write';
  readonly journalWindow?: string;
  readonly journalSize?: string;
  /** An IANA name: the calendar of schedule, window and retention. */
  readonly timeZone: string;
  /** How old the newest state may be before the machine counts as overdue. */
  readonly rpo?: string;
  /** The hours in which runs may begin: `22:00-06:00`. */
  readonly window?: string;
  /** Bytes per second that each run may read: `50MiB`. */
  readonly bandwidth?: string;
  /** Freeze the guest: if possible, or else fail, or never. */
  readonly quiesce: 'try' | 'always' | 'never';
  /** Nothing is deleted where it names nothing. */
  readonly keep: PolicyKeep;
}

/** A policy that was read and understood. */
export interface Policy {
  readonly document: PolicyDocument;
  readonly name: string;
  /** Undefined for continuous protection and intervals. */
  readonly schedule: Schedule | undefined;
  readonly intervalMs: number;
  readonly rpoTargetMs: number;
  readonly window: DayWindow | undefined;
  readonly bandwidthBytes: number | undefined;
  readonly rule: RetentionRule;
  /** False: nothing is deleted. */
  readonly hasRule: boolean;
}

export const MAX_POLICIES = 1000;
export const MAX_PATTERNS = 1000;
const MAX_PRIORITY = 1000;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const DAY_MS = 86_400_000;
const TARGETS = {
  least: 1_000,
  most: 366 * DAY_MS,
  what: 'RPO target',
  hint: 'It is 1s to 366d, for example 30m or 26h.',
};
const INTERVALS = { least: 1_000, most: DAY_MS, what: 'interval', hint: 'It is 1s to 24h, for example 5s or 1m.' };
const RATES = { least: 65_536, most: 1024 ** 4, what: 'bandwidth', hint: 'Bytes per second, at least 64KiB: 50MiB.' };
/** Where a policy names no target: so much longer than what lies between two runs. */
const TARGET_FACTOR = 1.5;
const CONTINUOUS_TARGET_MS = 60_000;

/** @throws ApplianceError BAD_ARGUMENT */
export function readPolicy(document: PolicyDocument): Policy {
  checkPolicyName(document.name);
  const { mode, timeZone } = document;
  checkParts(document);
  // Refuses an unknown time zone.
  new Calendar(timeZone);
  const schedule = mode === 'scheduled' ? Schedule.parse(document.schedule ?? '', timeZone) : undefined;
  const intervalMs = mode === 'interval' ? parseDuration(document.interval ?? '', INTERVALS) : 0;
  return {
    document,
    name: document.name,
    schedule,
    intervalMs,
    rpoTargetMs:
      document.rpo === undefined ? usualTargetMs(schedule, intervalMs) : parseDuration(document.rpo, TARGETS),
    window: document.window === undefined ? undefined : DayWindow.parse(document.window, timeZone),
    bandwidthBytes: document.bandwidth === undefined ? undefined : parseBytes(document.bandwidth, RATES),
    rule: ruleOf(document.keep),
    hasRule: !isEmptyRule(ruleOf(document.keep)),
  };
}

/** @throws ApplianceError BAD_ARGUMENT */
export function checkPolicyName(name: string): void {
  if (NAME.test(name)) return;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(name)} is no name of a policy`, {
    hint: 'Use up to 64 letters, digits, dots, hyphens and underscores.',
  });
}

function usualTargetMs(schedule: Schedule | undefined, intervalMs: number): number {
  if (schedule !== undefined) return Math.round(schedule.longestGapMs * TARGET_FACTOR);
  return Math.max(CONTINUOUS_TARGET_MS, intervalMs * 3);
}

function checkParts({ priority, mode, schedule, interval, durability, machines, ...rest }: PolicyDocument): void {
  const { journalWindow, journalSize } = rest;
  if (!Number.isInteger(priority) || Math.abs(priority) > MAX_PRIORITY) {
    throw refused(`a priority is a whole number from -${MAX_PRIORITY} to ${MAX_PRIORITY}`);
  }
  const lists = [machines.names, machines.ids, machines.tags, machines.folders];
  if (machines.all !== true && lists.every((list) => (list ?? []).length === 0)) {
    throw refused('a policy selects machines by name, id, tag or folder, or all of them');
  }
  for (const list of [...lists, machines.except, machines.hypervisors]) {
    if ((list ?? []).length > MAX_PATTERNS) throw refused(`a policy names at most ${MAX_PATTERNS} of a kind`);
  }
  for (const folder of machines.folders ?? []) {
    if (!folder.startsWith('/')) throw refused(`a folder begins with a slash: /${folder}`);
  }
  if ((mode === 'scheduled') !== (schedule !== undefined)) throw refused('a schedule belongs to the mode `scheduled`');
  if ((mode === 'interval') !== (interval !== undefined)) throw refused('an interval belongs to the mode `interval`');
  if (mode !== 'scheduled') {
    if (rest.window !== undefined || rest.bandwidth !== undefined || rest.quiesce !== 'try') {
      throw refused('window, bandwidth and quiesce are for the runs of a schedule');
    }
  } else if (durability !== undefined || journalWindow !== undefined || journalSize !== undefined) {
    throw refused('durability and the size of a journal are for continuous protection');
  }
}

function refused(message: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', message);
}

export function ruleOf(keep: PolicyKeep): RetentionRule {
  const { within, ...counts } = keep;
  for (const [part, count] of Object.entries(counts)) {
    if (!Number.isInteger(count) || count < 1) throw refused(`keep ${part}: it must be a whole number from 1 on`);
  }
  return { ...counts, ...(within === undefined ? {} : { within: parseSpan(within) }) };
}
