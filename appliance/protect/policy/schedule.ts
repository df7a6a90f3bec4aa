// SPDX-License-Identifier: Apache-2.0
import { Cron } from 'croner';
import { parseDuration } from '../../core/amounts.ts';
import { ApplianceError, toError } from '../../core/errors.ts';

const DAY_MS = 86_400_000;
const PERIODS = {
  least: 60_000,
  most: 31 * DAY_MS,
  what: 'time between two runs',
  hint: 'It is 1m to 31d: `every 15m`.',
};
const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const;
const TIME = /^([01]\d|2[0-3]):([0-5]\d)$/;
/** Occurrences that are looked at to tell the longest time between two. */
const SAMPLE = 400;
const HINT =
  'Use `every 15m`, `hourly`, `hourly :10`, `daily 22:00`, `weekdays 22:00`, `weekly sun 03:00`, `monthly 1 03:00`, or five fields of cron.';

/** The occurrences around a moment, in ms since the epoch. */
export interface Around {
  /** The newest that is not later, and the one before it. */
  readonly latest: number | undefined;
  readonly before: number | undefined;
  readonly next: number | undefined;
}

/**
 * When a policy runs: so long after the run before (`every 15m`), or by the calendar of a time zone.
 *
 * On the day on which the clocks go forward, a time that does not exist comes within the hour after the leap, once; on the day on
 * which they go back, a time of the day that comes twice counts once, and each real hour of an hourly schedule counts.
 */
export class Schedule {
  /** As the operator wrote it. */
  readonly text: string;
  /** Undefined for a calendar. */
  readonly everyMs: number | undefined;
  /** The longest time between two runs. */
  readonly longestGapMs: number;
  readonly #cron: Cron | undefined;
  #around: Around & { readonly fromMs: number } = {
    latest: undefined,
    before: undefined,
    next: undefined,
    fromMs: Number.POSITIVE_INFINITY,
  };

  private constructor(text: string, { everyMs, cron }: { readonly everyMs?: number; readonly cron?: Cron }) {
    this.text = text;
    this.everyMs = everyMs;
    this.#cron = cron;
    this.longestGapMs = everyMs ?? longestGapOf(cron);
  }

  /** @throws ApplianceError BAD_ARGUMENT */
  static parse(text: string, timeZone: string): Schedule {
    const words = text.trim().toLowerCase().split(/\s+/);
    if (words[0] === 'every' && words[1] !== undefined && words.length === 2) {
      return new Schedule(text, { everyMs: parseDuration(words[1], PERIODS) });
    }
    const pattern = friendlyPattern(words) ?? (words.length === 5 ? words.join(' ') : undefined);
    if (pattern === undefined) {
      throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no schedule`, { hint: HINT });
    }
    try {
      const cron = new Cron(pattern, { timezone: timeZone, paused: true, mode: '5-part' });
      if (cron.nextRun() !== null) return new Schedule(text, { cron });
    } catch (cause) {
      const why = toError(cause).message;
      throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no schedule: ${why}`, { cause, hint: HINT });
    }
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} never comes`, { hint: HINT });
  }

  /** Of a calendar; asked often, and looked up only when the moment has left the time between two occurrences. */
  around(nowMs: number): Around {
    const known = this.#around;
    if (nowMs >= known.fromMs && (known.next === undefined || nowMs < known.next)) return known;
    const [latest, before] = this.#before(nowMs);
    const next = this.#cron?.nextRun(new Date(nowMs))?.getTime();
    this.#around = { latest, before, next, fromMs: latest ?? nowMs };
    return this.#around;
  }

  /** The next occurrences after a moment, for people; of `every` as if a run had begun then. */
  upcoming(nowMs: number, count: number): number[] {
    const { everyMs } = this;
    if (everyMs !== undefined) return Array.from({ length: count }, (_, n) => nowMs + (n + 1) * everyMs);
    return this.#cron?.nextRuns(count, new Date(nowMs)).map((date) => date.getTime()) ?? [];
  }

  #before(nowMs: number): number[] {
    // The one at this very second counts: croner looks strictly before.
    return (
      this.#cron?.previousRuns(2, new Date(Math.floor(nowMs / 1000) * 1000 + 1000)).map((date) => date.getTime()) ?? []
    );
  }
}

/** `daily 22:00` and its like as a cron pattern; undefined for anything else. */
function friendlyPattern(words: readonly string[]): string | undefined {
  const [kind, ...rest] = words;
  if (kind === 'hourly' && rest.length <= 1) {
    const minute = /^:([0-5]\d)$/.exec(rest[0] ?? ':00')?.[1];
    return minute === undefined ? undefined : `${Number(minute)} * * * *`;
  }
  const time = TIME.exec(rest.at(-1) ?? '');
  if (time === null) return undefined;
  const at = `${Number(time[2])} ${Number(time[1])}`;
  if (kind === 'daily' && rest.length === 1) return `${at} * * *`;
  if (kind === 'weekdays' && rest.length === 1) return `${at} * * 1-5`;
  if (kind === 'weekly' && rest.length === 2) {
    const days = (rest[0] ?? '').split(',').map((day) => WEEKDAYS.findIndex((name) => name === day.slice(0, 3)));
    return days.includes(-1) ? undefined : `${at} * * ${days.join(',')}`;
  }
  if (kind === 'monthly' && rest.length === 2) {
    if (rest[0] === 'last') return `${at} L * *`;
    return /^([1-9]|[12]\d|3[01])$/.test(rest[0] ?? '') ? `${at} ${rest[0]} * *` : undefined;
  }
  return undefined;
}

function longestGapOf(cron: Cron | undefined): number {
  // From a fixed day on: the same schedule has the same answer in every season.
  const times = cron?.nextRuns(SAMPLE, new Date('2026-01-01T00:00:00Z')).map((date) => date.getTime()) ?? [];
  const gaps = times.slice(1).map((time, n) => time - (times[n] ?? time));
  return Math.max(60_000, ...gaps);
}
