// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Calendar, PERIODS } from '../../../appliance/protect/retention/calendar.ts';
import {
  decideRetention,
  type RetentionPoint,
  type RetentionTerms,
} from '../../../appliance/protect/retention/decide.ts';
import { isEmptyRule, type RetentionRule } from '../../../appliance/protect/retention/rule.ts';
import { suite } from '../../support/suite.ts';

const test = suite('retention: which points stay');
const HOUR_MS = 3_600_000;
const BERLIN = 'Europe/Berlin';
const NOW_MS = Date.parse('2026-11-21T12:00:00Z');
const ZONES = ['UTC', BERLIN, 'America/Havana', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/Sao_Paulo'] as const;
const RUNS = { numRuns: 150 };

function point(time: string | number, over: Partial<RetentionPoint> = {}): RetentionPoint {
  const timeMs = typeof time === 'number' ? time : Date.parse(time);
  return { id: String(time), sequence: timeMs / 1000, timeMs, defect: null, kept: [], ...over };
}

function terms(rule: RetentionRule, timeZone: string = BERLIN, nowMs: number = NOW_MS): RetentionTerms {
  return { rule, timeZone, nowMs };
}

function keptIds(points: readonly RetentionPoint[], over: RetentionTerms): string[] {
  return decideRetention(points, over)
    .filter(({ keep }) => keep)
    .map(({ id }) => id);
}

/** One point at each of these local hours of each day, from a day on. */
function everyHour(fromIso: string, hours: number): RetentionPoint[] {
  const fromMs = Date.parse(fromIso);
  return Array.from({ length: hours }, (_, n) => point(new Date(fromMs + n * HOUR_MS).toISOString()));
}

const anyRule: fc.Arbitrary<RetentionRule> = fc
  .record({
    last: fc.option(fc.integer({ min: 1, max: 6 })),
    hourly: fc.option(fc.integer({ min: 1, max: 6 })),
    daily: fc.option(fc.integer({ min: 1, max: 6 })),
    weekly: fc.option(fc.integer({ min: 1, max: 6 })),
    monthly: fc.option(fc.integer({ min: 1, max: 6 })),
    yearly: fc.option(fc.integer({ min: 1, max: 3 })),
    within: fc.option(
      fc.record({
        years: fc.constant(0),
        months: fc.integer({ min: 0, max: 2 }),
        weeks: fc.constant(0),
        days: fc.integer({ min: 0, max: 20 }),
        hours: fc.integer({ min: 0, max: 30 }),
      }),
    ),
  })
  .map((parts) => Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== null)) as RetentionRule);

/** Times that crowd together as well as times that lie years apart, some of them ahead of the clock. */
const anyTime: fc.Arbitrary<number> = fc.oneof(
  fc.integer({ min: -60, max: 3 }).map((hours) => NOW_MS + hours * HOUR_MS),
  fc.integer({ min: -1_200, max: 0 }).map((days) => NOW_MS + days * 24 * HOUR_MS),
  fc.integer({ min: -200_000, max: 60 }).map((minutes) => NOW_MS + minutes * 60_000),
  // Around the ends of summer time, where days have two midnights or none.
  fc.integer({ min: -8 * 60, max: 8 * 60 }).map((minutes) => Date.parse('2026-11-01T05:00:00Z') + minutes * 60_000),
  fc.integer({ min: -8 * 60, max: 8 * 60 }).map((minutes) => Date.parse('2026-10-25T01:00:00Z') + minutes * 60_000),
);

/** Sequences that mostly follow the time, as those of a machine whose clock jumped now and then. */
const anyPoints: fc.Arbitrary<RetentionPoint[]> = fc
  .array(
    fc.record({
      timeMs: anyTime,
      jump: fc.boolean(),
      defect: fc.option(fc.constant('damaged'), { freq: 8 }),
      kept: fc.oneof({ weight: 6, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.constant(['held: audit']) }),
    }),
    { maxLength: 60 },
  )
  .map((parts) =>
    parts
      .toSorted((a, b) => (a.jump || b.jump ? 0 : a.timeMs - b.timeMs))
      .map(({ timeMs, defect, kept }, n) => ({ id: `p${n}`, sequence: n + 1, timeMs, defect, kept })),
  );

const anyZone = fc.constantFrom(...ZONES);

test('a rule that asks for more keeps all that one that asks for less keeps', () => {
  fc.assert(
    fc.property(anyPoints, anyRule, anyRule, anyZone, (points, less, more, zone) => {
      fc.pre(!isEmptyRule(less));
      const wider: Record<string, unknown> = { ...more };
      for (const [part, value] of Object.entries(less)) {
        const other = wider[part];
        const isMore = typeof value === 'number' ? typeof other === 'number' && other > value : false;
        if (!isMore) wider[part] = value;
      }
      const few = keptIds(points, terms(less, zone));
      const many = new Set(keptIds(points, terms(wider as RetentionRule, zone)));
      assert.deepEqual(
        few.filter((id) => !many.has(id)),
        [],
      );
    }),
    RUNS,
  );
});

test('deciding again about what stays changes nothing', () => {
  fc.assert(
    fc.property(anyPoints, anyRule, anyZone, (points, rule, zone) => {
      const once = new Set(keptIds(points, terms(rule, zone)));
      const left = points.filter(({ id }) => once.has(id));
      assert.deepEqual(keptIds(left, terms(rule, zone)), [...once]);
    }),
    RUNS,
  );
});

test('the order in which points are given does not matter', () => {
  fc.assert(
    fc.property(anyPoints, anyRule, fc.array(fc.nat(), { minLength: 60, maxLength: 60 }), (points, rule, keys) => {
      const shuffled = points
        .map((one, n) => [keys[n] ?? 0, one] as const)
        .sort(([a], [b]) => a - b)
        .map(([, one]) => one);
      const byId = (list: readonly RetentionPoint[]): unknown =>
        decideRetention(list, terms(rule)).toSorted((a, b) => (a.id < b.id ? -1 : 1));
      assert.deepEqual(byId(shuffled), byId(points));
    }),
    RUNS,
  );
});

test('each part of a rule keeps as many as it says, or as many as there are', () => {
  fc.assert(
    fc.property(anyPoints, anyRule, anyZone, (points, rule, zone) => {
      const verdicts = decideRetention(points, terms(rule, zone));
      const countable = points.filter(({ defect, timeMs }) => defect === null && timeMs <= NOW_MS);
      const chosenBy = (part: string): number =>
        verdicts.filter(({ reasons, keep }) => keep && reasons.some((reason) => reason.startsWith(`${part}: `))).length;
      if (rule.last !== undefined) assert.equal(chosenBy('last'), Math.min(rule.last, countable.length));
      for (const period of PERIODS) {
        const wanted = rule[period];
        if (wanted === undefined) continue;
        const there = new Set(countable.map(({ timeMs }) => localPeriod(period, timeMs, zone))).size;
        assert.equal(chosenBy(period), Math.min(wanted, there), period);
      }
    }),
    RUNS,
  );
});

test('what may not go stays, and every verdict has a reason', () => {
  fc.assert(
    fc.property(anyPoints, anyRule, (points, rule) => {
      const verdicts = decideRetention(points, terms(rule));
      assert.deepEqual(
        verdicts.map(({ id }) => id),
        points.map(({ id }) => id),
      );
      for (const [n, { keep, reasons }] of verdicts.entries()) {
        const { timeMs, defect, kept } = points[n] as RetentionPoint;
        if (timeMs > NOW_MS || defect !== null || kept.length > 0 || isEmptyRule(rule)) assert.ok(keep);
        assert.ok(reasons.length > 0);
      }
      const good = points.filter(({ defect, timeMs }) => defect === null && timeMs <= NOW_MS);
      const newest = good.toSorted((a, b) => b.sequence - a.sequence)[0];
      if (newest !== undefined) assert.ok(verdicts.find(({ id }) => id === newest.id)?.keep);
    }),
    RUNS,
  );
});

test('days are those of the time zone', () => {
  const points = [point('2026-11-19T23:30:00Z'), point('2026-11-20T08:00:00Z'), point('2026-11-20T22:30:00Z')];
  assert.deepEqual(keptIds(points, terms({ daily: 5 }, BERLIN)), ['2026-11-20T22:30:00Z']);
  assert.deepEqual(keptIds(points, terms({ daily: 5 }, 'UTC')), ['2026-11-19T23:30:00Z', '2026-11-20T22:30:00Z']);
});

test('a day on which the clocks change is one day, of 23 or 25 hours', () => {
  for (const [from, hours] of [
    ['2026-03-28T23:00:00Z', 23],
    ['2026-10-24T22:00:00Z', 25],
  ] as const) {
    const points = everyHour(from, hours);
    assert.deepEqual(keptIds(points, terms({ daily: 3 })), [points.at(-1)?.id]);
    assert.equal(keptIds(points, terms({ hourly: 30 })).length, hours);
    const next = point(Date.parse(from) + hours * HOUR_MS);
    assert.deepEqual(keptIds([...points, next], terms({ daily: 3 })), [points.at(-1)?.id, next.id]);
  }
});

test('a day with two midnights is one day, and so is the month that begins with it', () => {
  // Havana: on 1 November 2026 the clocks go back from one o'clock to midnight.
  const points = everyHour('2026-11-01T04:00:00Z', 25);
  for (const rule of [{ daily: 3 }, { monthly: 3 }, { yearly: 3 }]) {
    assert.deepEqual(keptIds(points, terms(rule, 'America/Havana')), [points.at(-1)?.id]);
  }
  assert.equal(keptIds(points, terms({ hourly: 30 }, 'America/Havana')).length, 25);
});

test('the hour that comes twice is told by its offset', () => {
  const calendar = new Calendar(BERLIN);
  const labels = ['2026-10-24T23:10Z', '2026-10-25T00:10Z', '2026-10-25T01:10Z', '2026-10-25T02:10Z'].map(
    (time) => calendar.bucketOf('hourly', Date.parse(time)).label,
  );
  assert.deepEqual(labels, [
    '2026-10-25 01:00',
    '2026-10-25 02:00 +02:00',
    '2026-10-25 02:00 +01:00',
    '2026-10-25 03:00',
  ]);
});

test('weeks begin on Monday and belong to the year of their Thursday', () => {
  const points = [
    point('2026-12-27T12:00:00Z'), // Sunday of 2026-W52
    point('2026-12-28T12:00:00Z'), // Monday of 2026-W53
    point('2027-01-03T12:00:00Z'), // Sunday of 2026-W53
    point('2027-01-04T12:00:00Z'), // Monday of 2027-W01
  ];
  const verdicts = decideRetention(points, terms({ weekly: 9 }, 'UTC', Date.parse('2027-01-05T00:00:00Z')));
  assert.deepEqual(
    verdicts.map(({ keep, reasons }) => [keep, reasons.at(-1)]),
    [
      [true, 'weekly: 2026-W52, 3 of 9'],
      [false, 'weekly: 2026-W53 has a newer one'],
      [true, 'weekly: 2026-W53, 2 of 9'],
      [true, 'weekly: 2027-W01, 1 of 9'],
    ],
  );
});

test('`within` goes back from the newest point, so that a machine that is not backed up any more keeps its last ones', () => {
  const points = [point('2024-01-01T00:00:00Z'), point('2024-01-20T00:00:00Z'), point('2024-01-31T00:00:00Z')];
  const within = { years: 0, months: 0, weeks: 2, days: 0, hours: 0 };
  assert.deepEqual(keptIds(points, terms({ within })), ['2024-01-20T00:00:00Z', '2024-01-31T00:00:00Z']);
});

test('days of `within` end at the same time of day, also when the clocks change between', () => {
  const newest = point('2026-10-25T11:00:00Z'); // noon in Berlin, in winter time
  const atNoon = point('2026-10-24T10:00:00Z'); // noon in summer time: 25 hours before
  const before = point('2026-10-24T09:59:59Z');
  const within = { years: 0, months: 0, weeks: 0, days: 1, hours: 0 };
  assert.deepEqual(keptIds([before, atNoon, newest], terms({ within })), [atNoon.id, newest.id]);
});

test('a damaged point fills no place of a rule, and stays', () => {
  const points = [
    point('2026-11-20T08:00:00Z'),
    point('2026-11-20T09:00:00Z', { defect: 'damaged' }),
    point('2026-11-19T09:00:00Z'),
  ];
  const [good, damaged, older] = decideRetention(points, terms({ daily: 1 }));
  assert.deepEqual([good?.keep, damaged?.keep, older?.keep], [true, true, false]);
  assert.deepEqual(good?.reasons, ['the newest point', 'daily: 2026-11-20, 1 of 1']);
});

test('the newest point by sequence is the newest, whatever a clock that was set back wrote', () => {
  const points = [
    point('2026-11-21T10:00:00Z', { id: 'ahead', sequence: 1 }),
    point('2026-11-21T09:00:00Z', { id: 'later', sequence: 2 }),
  ];
  assert.deepEqual(keptIds(points, terms({ last: 1 })), ['later']);
});

/** The period by the platform's own calendar: an oracle that shares no code with the library. */
function localPeriod(period: (typeof PERIODS)[number], timeMs: number, timeZone: string): string {
  const parts = new Map(
    new Intl.DateTimeFormat('en-US-u-hc-h23', {
      timeZone,
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      timeZoneName: 'longOffset',
    })
      .formatToParts(timeMs)
      .map(({ type, value }) => [type, value]),
  );
  const of = (type: Intl.DateTimeFormatPartTypes): string => parts.get(type) ?? '';
  const date = `${of('year')}-${of('month')}-${of('day')}`;
  if (period === 'yearly') return of('year');
  if (period === 'monthly') return `${of('year')}-${of('month')}`;
  if (period === 'daily') return date;
  if (period === 'weekly') {
    const days = Math.floor(Date.parse(date) / (24 * HOUR_MS));
    // 1 January 1970 was a Thursday.
    return String(Math.floor((days + 3) / 7));
  }
  return `${date} ${of('hour')} ${of('timeZoneName')}`;
}
