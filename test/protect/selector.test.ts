// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { hasCode } from '../../appliance/core/errors.ts';
import { formatMoment, type MomentSelector, parseSelector, parseTimeUs } from '../../appliance/protect/selector.ts';
import { suite } from '../support/suite.ts';

const test = suite('selectors');
const NOW_MS = Date.parse('2026-11-21T12:00:00.500Z');
const NOW_US = NOW_MS * 1000;

function momentOf(expression: string): MomentSelector {
  const selector = parseSelector(expression, NOW_MS);
  assert.equal(selector.kind, 'machine');
  return selector.kind === 'machine' ? selector.moment : assert.fail();
}

function utc(text: string): number {
  return Date.parse(text) * 1000;
}

const moments: fc.Arbitrary<MomentSelector> = fc.oneof(
  fc.constant<MomentSelector>({ kind: 'latest' }),
  fc.nat({ max: 999_999_999 }).map((count): MomentSelector => ({ kind: 'earlier-point', count })),
  fc.nat({ max: 2 ** 52 }).map((timeUs): MomentSelector => ({ kind: 'time', timeUs })),
  fc.string({ minLength: 1, unit: 'grapheme' }).map((name): MomentSelector => ({ kind: 'bookmark', name })),
  fc
    .integer({ min: 1, max: Number.MAX_SAFE_INTEGER })
    .map((sequence): MomentSelector => ({ kind: 'sequence', sequence })),
);

/** Any name that does not itself look like the beginning of a moment. */
const machines: fc.Arbitrary<string> = fc
  .string({ minLength: 1, unit: 'grapheme' })
  .filter((name) => !`${name}@`.includes('@"') && !name.includes('@bookmark:'));

test('what is formatted is read again as the same, whatever the machine and the bookmark are called', () => {
  fc.assert(
    fc.property(machines, moments, (machine, moment) => {
      const found = parseSelector(`${machine}@${formatMoment(moment)}`, NOW_MS);
      assert.deepEqual(found, { kind: 'machine', machine, moment });
    }),
    { numRuns: 3000 },
  );
});

test('any text is read or refused with BAD_ARGUMENT', () => {
  const pieces = fc.constantFrom(
    'web',
    '@',
    '"',
    'bookmark:',
    'seq:',
    '-',
    '7',
    'latest',
    '2026-11-21',
    'T10:00',
    ' ago',
    '\\',
  );
  const texts = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(pieces).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(texts, (text) => {
      try {
        parseSelector(text, NOW_MS);
      } catch (error) {
        assert.ok(hasCode(error, 'BAD_ARGUMENT'), String(error));
      }
    }),
    { numRuns: 3000 },
  );
});

test('quotes may be left out, as shells do', () => {
  for (const [quoted, bare] of [
    ['web@"5 minutes ago"', 'web@5 minutes ago'],
    ['web@"latest"', 'web@latest'],
    ['web@"2026-11-21 10:31"', 'web@2026-11-21 10:31'],
    ['web@bookmark:"before the upgrade"', 'web@bookmark:before the upgrade'],
    ['a@b@bookmark:"mail@night"', 'a@b@bookmark:mail@night'],
  ] as const) {
    assert.deepEqual(parseSelector(quoted, NOW_MS), parseSelector(bare, NOW_MS));
  }
  assert.deepEqual(momentOf('a@b@bookmark:mail@night'), { kind: 'bookmark', name: 'mail@night' });
  assert.deepEqual(momentOf(String.raw`web@bookmark:"say \"go\""`), { kind: 'bookmark', name: 'say "go"' });
});

test('times have a zone or are local, and up to six digits behind the point', () => {
  const time = (text: string): number => parseTimeUs(text, NOW_MS);
  assert.equal(time('2026-11-21T10:31:07.250Z'), utc('2026-11-21T10:31:07.250Z'));
  assert.equal(time('2026-11-21T10:31:07.250123Z'), utc('2026-11-21T10:31:07.250Z') + 123);
  assert.equal(time('2026-11-21 10:31:07 +0100'), utc('2026-11-21T09:31:07Z'));
  assert.equal(time('2026-11-21t10:31+05:30'), utc('2026-11-21T05:01Z'));
  assert.equal(time('2026-11-21T10:31'), utc('2026-11-21T10:31'));
  assert.equal(time('2026-11-21'), utc('2026-11-21T00:00'));
  assert.deepEqual(momentOf('web@2026-11-21T10:31Z'), { kind: 'time', timeUs: utc('2026-11-21T10:31Z') });
});

test('ago counts from now, with whole numbers and plain units', () => {
  const time = (text: string): number => parseTimeUs(text, NOW_MS);
  assert.equal(time('now'), NOW_US);
  assert.equal(time('0 seconds ago'), NOW_US);
  assert.equal(time('1 second ago'), NOW_US - 1e6);
  assert.equal(time('5 minutes ago'), NOW_US - 300e6);
  assert.equal(time('2 hours ago'), NOW_US - 7200e6);
  assert.equal(time('3 days ago'), NOW_US - 3 * 86_400e6);
});

test('what does not exist or says nothing is refused with a hint', () => {
  for (const moment of [
    '',
    'yesterday evening',
    '5 fortnights ago',
    '-5 minutes ago',
    '1.5 hours ago',
    '2026-02-30T10:00Z',
    '2026-11-21T24:01Z',
    '2026-11-21T10:31:07.2501234Z',
    '2026-11-21T10:31+99:00',
    '1969-12-31T23:59:59Z',
    'seq:0',
    'seq:9007199254740993',
    'seq:-1',
    'bookmark:',
    'bookmark:""',
    '999999999 days ago',
  ]) {
    assert.throws(
      () => parseSelector(`web@${moment}`, NOW_MS),
      (error: unknown) => hasCode(error, 'BAD_ARGUMENT') && error.hint.includes('NAME@latest'),
      moment,
    );
  }
  assert.throws(() => parseSelector('@latest', NOW_MS), { code: 'BAD_ARGUMENT' });
  assert.throws(() => parseTimeUs('latest', NOW_MS), { code: 'BAD_ARGUMENT' });
});

test('an hour that comes twice is not guessed, and offsets are those that exist', () => {
  const before = process.env['TZ'];
  process.env['TZ'] = 'Europe/Berlin';
  try {
    const nowMs = Date.parse('2026-11-21T12:00:00Z');
    for (const text of ['2026-10-25T02:30', '2026-03-29T02:30', '2026-10-24T12:00+01:99', '2026-10-24T12:00+15:00']) {
      assert.throws(() => parseTimeUs(text, nowMs), { code: 'BAD_ARGUMENT' }, text);
    }
    assert.equal(parseTimeUs('2026-10-25T01:59', nowMs), utc('2026-10-24T23:59Z'));
    assert.equal(parseTimeUs('2026-10-25T03:00', nowMs), utc('2026-10-25T02:00Z'));
  } finally {
    if (before === undefined) delete process.env['TZ'];
    else process.env['TZ'] = before;
  }
});
