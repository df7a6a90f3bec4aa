// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { DayWindow } from '../../../appliance/protect/policy/day-window.ts';
import { Schedule } from '../../../appliance/protect/policy/schedule.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: schedules and windows');
const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;
const BERLIN = 'Europe/Berlin';

/** Every occurrence between two times, found the way the planner finds them: minute by minute. */
function occurrences(text: string, zone: string, [from, to]: readonly [string, string]): string[] {
  const schedule = Schedule.parse(text, zone);
  const found = new Set<number>();
  for (let atMs = Date.parse(from); atMs <= Date.parse(to); atMs += MINUTE_MS) {
    const { latest } = schedule.around(atMs);
    if (latest !== undefined && latest >= Date.parse(from)) found.add(latest);
  }
  return [...found].map((ms) => `${new Date(ms).toISOString().slice(0, 16)}Z`);
}

for (const { title, text, zone, span, expected } of [
  {
    title: 'a time that the clocks leap over comes an hour later, once',
    text: 'daily 02:30',
    zone: BERLIN,
    span: ['2026-03-28T00:00Z', '2026-03-30T12:00Z'],
    expected: ['2026-03-28T01:30Z', '2026-03-29T01:00Z', '2026-03-30T00:30Z'],
  },
  {
    title: 'a time that comes twice counts once',
    text: 'daily 02:30',
    zone: BERLIN,
    span: ['2026-10-24T12:00Z', '2026-10-26T12:00Z'],
    expected: ['2026-10-25T00:30Z', '2026-10-26T01:30Z'],
  },
  {
    title: 'an hourly schedule knows the day of 25 hours',
    text: 'hourly',
    zone: BERLIN,
    span: ['2026-10-24T23:30Z', '2026-10-25T03:30Z'],
    expected: ['2026-10-25T00:00Z', '2026-10-25T01:00Z', '2026-10-25T02:00Z', '2026-10-25T03:00Z'],
  },
  {
    title: 'an hourly schedule knows the day of 23 hours',
    text: 'hourly :30',
    zone: BERLIN,
    span: ['2026-03-28T23:00Z', '2026-03-29T02:45Z'],
    expected: ['2026-03-28T23:30Z', '2026-03-29T00:30Z', '2026-03-29T01:30Z', '2026-03-29T02:30Z'],
  },
  {
    title: 'an evening is the evening of its time zone, in summer and in winter',
    text: 'daily 22:00',
    zone: BERLIN,
    span: ['2026-10-24T12:00Z', '2026-10-26T22:00Z'],
    expected: ['2026-10-24T20:00Z', '2026-10-25T21:00Z', '2026-10-26T21:00Z'],
  },
  {
    title: 'a time within half an hour that is leapt over comes right after it',
    text: 'daily 02:15',
    zone: 'Australia/Lord_Howe',
    span: ['2026-10-02T12:00Z', '2026-10-05T00:00Z'],
    expected: ['2026-10-02T15:45Z', '2026-10-03T15:30Z', '2026-10-04T15:15Z'],
  },
  {
    title: 'weekdays and days of a week and month are those of the time zone',
    text: 'weekly sat,sun 00:30',
    zone: 'America/New_York',
    span: ['2026-11-06T12:00Z', '2026-11-09T12:00Z'],
    expected: ['2026-11-07T05:30Z', '2026-11-08T05:30Z'],
  },
  {
    title: 'the last day of a month is the last, however long it is',
    text: 'monthly last 23:00',
    zone: 'UTC',
    span: ['2026-01-30T00:00Z', '2026-03-01T00:00Z'],
    expected: ['2026-01-31T23:00Z', '2026-02-28T23:00Z'],
  },
] as const) {
  test(title, () => {
    const found = occurrences(text, zone, [span[0], span[1]]);
    assert.deepEqual(found, [...expected]);
  });
}

test('over a year of changing clocks each day has exactly one occurrence', () => {
  for (const [text, zone] of [
    ['daily 02:30', BERLIN],
    ['daily 00:30', 'America/Havana'],
    ['daily 01:45', 'Australia/Lord_Howe'],
  ] as const) {
    const schedule = Schedule.parse(text, zone);
    const found = new Set<number>();
    const [fromMs, toMs] = [Date.parse('2026-01-01T12:00Z'), Date.parse('2027-01-01T12:00Z')];
    for (let atMs = fromMs; atMs <= toMs; atMs += 15 * MINUTE_MS) {
      const { latest } = schedule.around(atMs);
      if (latest !== undefined && latest > fromMs) found.add(latest);
    }
    const gaps = [...found].slice(1).map((ms, n) => ms - ([...found][n] ?? 0));
    assert.equal(found.size, 365, `${text} in ${zone}`);
    assert.ok(gaps.every((gap) => gap >= 23 * 3_600_000 && gap <= 25 * 3_600_000));
  }
});

test('the longest time between two runs is that of the calendar', () => {
  const hours = (text: string): number => Schedule.parse(text, 'UTC').longestGapMs / 3_600_000;
  assert.deepEqual(
    ['every 15m', 'hourly', 'daily 22:00', 'weekdays 20:00', '0 8-18 * * *'].map(hours),
    [0.25, 1, 24, 72, 14],
  );
});

test('what is no schedule is refused', () => {
  for (const text of [
    '',
    'every',
    'every 10s',
    'every 40d',
    'daily',
    'daily 24:00',
    'daily 22',
    'weekly 22:00',
    'weekly xyz 22:00',
    'monthly 32 22:00',
    '61 * * * *',
    '0 0 30 2 *',
    '* * * * * *',
    '2027-01-01T00:00:00',
    '@daily now',
  ]) {
    assert.throws(() => Schedule.parse(text, 'UTC'), { code: 'BAD_ARGUMENT' }, text);
  }
});

test('a window past midnight is open at night, and from its first minute on', () => {
  const window = DayWindow.parse('22:00-06:00', BERLIN);
  const open = ['2026-11-21T21:00Z', '2026-11-22T04:59Z'].map((iso) => window.isOpen(Date.parse(iso)));
  const closed = ['2026-11-21T20:59Z', '2026-11-22T05:00Z', '2026-11-22T12:00Z'].map((iso) =>
    window.isOpen(Date.parse(iso)),
  );
  assert.deepEqual(
    [open, closed],
    [
      [true, true],
      [false, false, false],
    ],
  );
  assert.equal(window.opensAt(Date.parse('2026-11-22T12:00Z')), Date.parse('2026-11-22T21:00Z'));
});

test('a window opens each day, whatever the clocks do, at the time that it says', () => {
  for (const text of ['22:00-06:00', '02:30-04:00', '00:00-00:30']) {
    const window = DayWindow.parse(text, BERLIN);
    for (let atMs = Date.parse('2026-03-27T00:00Z'); atMs < Date.parse('2026-03-31T00:00Z'); atMs += 31 * MINUTE_MS) {
      const opensMs = window.opensAt(atMs);
      assert.ok(opensMs >= atMs && opensMs - atMs <= DAY_MS + 3_600_000, `${text} at ${new Date(atMs).toISOString()}`);
      const minutes = Array.from({ length: (opensMs - atMs) / MINUTE_MS }, (_, n) => atMs + n * MINUTE_MS);
      assert.ok(
        minutes.every((ms) => !window.isOpen(ms)),
        'it is not open before',
      );
    }
  }
});

test('what is no window is refused', () => {
  for (const text of ['', '22:00', '22:00-22:00', '25:00-06:00', '22-06']) {
    assert.throws(() => DayWindow.parse(text, 'UTC'), { code: 'BAD_ARGUMENT' }, text);
  }
});
