// SPDX-License-Identifier: Apache-2.0
import { DateTime, IANAZone } from 'luxon';
import { ApplianceError } from '../../core/errors.ts';
import { durationOf, type RetentionSpan } from './rule.ts';

export const PERIODS = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
export type Period = (typeof PERIODS)[number];

/** One hour, day, week, month or year of the calendar. */
export interface Bucket {
  /** Buckets of one period are in the order of this number, and equal when it is. */
  readonly order: number;
  /** As people write it: `2026-11-21 14:00`, `2026-11-21`, `2026-W47`, `2026-11`, `2026`. */
  readonly label: string;
}

/** Names that were found to be zones: to find out is dear, too. There are some 600. */
const knownZones = new Set<string>();

const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const DAY_MS: number = 24 * HOUR_MS;

/**
 * The calendar of one time zone (an IANA name). Weeks are those of ISO 8601: they begin on Monday, and the first of a year
 * is the one with its first Thursday. A day has 23 or 25 hours when the clocks change; the hour that comes twice counts twice.
 *
 * To ask for the offset of a zone is dear, so it is asked once a day, and for each moment only on days on which it changes:
 * a rule looks at every point of a machine, in a process that serves disks.
 */
export class Calendar {
  readonly timeZone: string;
  readonly #zone: IANAZone;
  /** Offsets at the beginnings of days of UTC, in ms. */
  readonly #offsets = new Map<number, number>();
  /** What each day of the calendar belongs to, by its number since 1970. */
  readonly #days = new Map<number, Readonly<Record<Exclude<Period, 'hourly'>, Bucket>>>();

  /** @throws ApplianceError BAD_ARGUMENT */
  constructor(timeZone: string) {
    if (!isKnownZone(timeZone)) {
      throw new ApplianceError('BAD_ARGUMENT', `there is no time zone ${JSON.stringify(timeZone)}`, {
        hint: 'Give its name in the IANA database with --time-zone, for example Europe/Berlin or UTC.',
      });
    }
    this.timeZone = timeZone;
    this.#zone = IANAZone.create(timeZone);
  }

  bucketOf(period: Period, timeMs: number): Bucket {
    const localMs = timeMs + this.#offsetMs(timeMs);
    if (period === 'hourly') return this.#hourOf(timeMs, localMs);
    // By date, not by moment: where clocks go back at one o'clock, a day has two midnights.
    const day = Math.floor(localMs / DAY_MS);
    return this.#day(day)[period];
  }

  /** The moment that lies a span before another. */
  before(timeMs: number, span: RetentionSpan): number {
    return DateTime.fromMillis(timeMs, { zone: this.#zone }).minus(durationOf(span)).toMillis();
  }

  #hourOf(timeMs: number, localMs: number): Bucket {
    const offsetMs = localMs - timeMs;
    const startMs = Math.floor(localMs / HOUR_MS) * HOUR_MS;
    const day = Math.floor(startMs / DAY_MS);
    const hour = (startMs - day * DAY_MS) / HOUR_MS;
    const label = `${this.#day(day).daily.label} ${String(hour).padStart(2, '0')}:00`;
    const suffix = this.#comesTwice(startMs, offsetMs) ? ` ${this.#zone.formatOffset(timeMs, 'short')}` : '';
    return { order: startMs - offsetMs, label: `${label}${suffix}` };
  }

  #day(day: number): Readonly<Record<Exclude<Period, 'hourly'>, Bucket>> {
    const known = this.#days.get(day);
    if (known !== undefined) return known;
    const date = DateTime.fromMillis(day * DAY_MS, { zone: 'utc' });
    const label = date.toISODate() ?? '';
    const made = {
      daily: { order: day, label },
      weekly: { order: day - date.weekday, label: (date.toISOWeekDate() ?? '').slice(0, -2) },
      monthly: { order: date.year * 12 + date.month, label: label.slice(0, -3) },
      yearly: { order: date.year, label: label.slice(0, -6) },
    };
    this.#days.set(day, made);
    return made;
  }

  /** True when clocks show this local time at another offset, too. */
  #comesTwice(localMs: number, offsetMs: number): boolean {
    const others = [localMs - DAY_MS, localMs + DAY_MS].map((near) => this.#offsetMs(near - offsetMs));
    return others.some((other) => other !== offsetMs && this.#offsetMs(localMs - other) === other);
  }

  #offsetMs(timeMs: number): number {
    const day = Math.floor(timeMs / DAY_MS);
    const atStart = this.#offsetOfDay(day);
    return atStart === this.#offsetOfDay(day + 1) ? atStart : this.#zone.offset(timeMs) * MINUTE_MS;
  }

  #offsetOfDay(day: number): number {
    const known = this.#offsets.get(day);
    if (known !== undefined) return known;
    const offsetMs = this.#zone.offset(day * DAY_MS) * MINUTE_MS;
    this.#offsets.set(day, offsetMs);
    return offsetMs;
  }
}

function isKnownZone(timeZone: string): boolean {
  if (knownZones.has(timeZone)) return true;
  const isKnown = IANAZone.isValidZone(timeZone);
  if (isKnown) knownZones.add(timeZone);
  return isKnown;
}
