// SPDX-License-Identifier: Apache-2.0
import { Duration } from 'luxon';
import { ApplianceError } from '../../core/errors.ts';

/** How many points of each kind stay. Counts are whole numbers from 1; what is left out keeps nothing by itself. */
export interface RetentionRule {
  /** The newest points. */
  readonly last?: number;
  /** The newest point of each of the newest hours, days, weeks, months and years that have one. */
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
  /** Every point that is not older than the newest by more. */
  readonly within?: RetentionSpan;
}

/** A span of the calendar: a day ends at the same time of day, a month on the same day of the month. */
export interface RetentionSpan {
  readonly years: number;
  readonly months: number;
  readonly weeks: number;
  readonly days: number;
  readonly hours: number;
}

/** Larger numbers mean a mistake. */
const MAX_PARTS = 100_000;
const SPAN = /^(?:(\d{1,6})y)?(?:(\d{1,6})mo)?(?:(\d{1,6})w)?(?:(\d{1,6})d)?(?:(\d{1,6})h)?$/;

/** Reads `14d`, `12h`, `8w`, `6mo`, `1y6mo`. @throws ApplianceError BAD_ARGUMENT */
export function parseSpan(text: string): RetentionSpan {
  const found = SPAN.exec(text);
  const [years = 0, months = 0, weeks = 0, days = 0, hours = 0] = (found ?? [])
    .slice(1)
    .map((part) => Number(part ?? 0));
  const parts = [years, months, weeks, days, hours];
  if (found !== null && parts.some((part) => part > 0) && parts.every((part) => part <= MAX_PARTS)) {
    return { years, months, weeks, days, hours };
  }
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(text)} is no span of time`, {
    hint: 'Use hours, days, weeks, months and years: 12h, 14d, 8w, 6mo, 1y6mo.',
  });
}

/** The text that `parseSpan` reads. */
export function formatSpan({ years, months, weeks, days, hours }: RetentionSpan): string {
  const parts = [
    [years, 'y'],
    [months, 'mo'],
    [weeks, 'w'],
    [days, 'd'],
    [hours, 'h'],
  ] as const;
  return parts.map(([part, unit]) => (part === 0 ? '' : `${part}${unit}`)).join('');
}

export function durationOf(span: RetentionSpan): Duration {
  return Duration.fromObject({ ...span });
}

/** A rule that names nothing keeps everything. */
export function isEmptyRule(rule: RetentionRule): boolean {
  return Object.values(rule).every((part) => part === undefined);
}
