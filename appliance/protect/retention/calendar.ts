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

const UNIT = { hourly: 'hour', daily: 'day', weekly: 'week', monthly: 'month', yearly: 'year' } as const;
/** `kkkk` is the year that an ISO week belongs to. */
const LABEL = {
  hourly: 'yyyy-MM-dd HH:mm',
  daily: 'yyyy-MM-dd',
  weekly: "kkkk-'W'WW",
  monthly: 'yyyy-MM',
  yearly: 'yyyy',
} as const;

/**
 * The calendar of one time zone (an IANA name). Weeks are those of ISO 8601: they begin on Monday, and the first of a year
 * is the one with its first Thursday. A day has 23 or 25 hours when the clocks change; the hour that comes twice counts twice.
 */
export class Calendar {
  readonly timeZone: string;

  /** @throws ApplianceError BAD_ARGUMENT */
  constructor(timeZone: string) {
    if (!IANAZone.isValidZone(timeZone)) {
      throw new ApplianceError('BAD_ARGUMENT', `there is no time zone ${JSON.stringify(timeZone)}`, {
        hint: 'Give its name in the IANA database with --time-zone, for example Europe/Berlin or UTC.',
      });
    }
    this.timeZone = timeZone;
  }

  bucketOf(period: Period, timeMs: number): Bucket {
    const start = this.#at(timeMs).startOf(UNIT[period]);
    if (period === 'hourly') return hourOf(start);
    // By date, not by moment: where clocks go back at one o'clock, a day has two midnights.
    const order = Date.UTC(start.year, start.month - 1, start.day);
    return { order, label: start.toFormat(LABEL[period]) };
  }

  /** The moment that lies a span before another. */
  before(timeMs: number, span: RetentionSpan): number {
    return this.#at(timeMs).minus(durationOf(span)).toMillis();
  }

  /** A moment for people: `2026-11-21 14:04`. */
  format(timeMs: number): string {
    return this.#at(timeMs).toFormat('yyyy-MM-dd HH:mm');
  }

  #at(timeMs: number): DateTime {
    return DateTime.fromMillis(timeMs, { zone: this.timeZone });
  }
}

/** The hour that comes twice in autumn is told by its offset. */
function hourOf(start: DateTime): Bucket {
  const isTwice = start.getPossibleOffsets().length > 1;
  return { order: start.toMillis(), label: start.toFormat(isTwice ? `${LABEL.hourly} ZZ` : LABEL.hourly) };
}
