// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  count,
  formatAge,
  formatBytes,
  formatCountdown,
  formatDuration,
  formatRatio,
  formatTime,
  formatTimeIn,
  plain,
} from '../../appliance/cli/format.ts';
import { ProgressMeter } from '../../appliance/cli/progress-meter.ts';
import { renderTable } from '../../appliance/cli/table.ts';
import { suite } from '../support/suite.ts';

const test = suite('formats for people');
const GIB: number = 2 ** 30;
const MIB: number = 2 ** 20;

/** Runs with the process's time zone set. */
function inZone<T>(zone: string, body: () => T): T {
  const before = process.env['TZ'];
  process.env['TZ'] = zone;
  try {
    return body();
  } finally {
    if (before === undefined) delete process.env['TZ'];
    else process.env['TZ'] = before;
  }
}

test('times of a time zone are what its clocks show', () => {
  assert.equal(formatTimeIn('2026-11-21T23:04:05.000Z', 'Europe/Berlin'), '2026-11-22 00:04');
  assert.equal(formatTimeIn('2026-07-01T10:00:00.000Z', 'America/Havana'), '2026-07-01 06:00');
});

test('sizes have three digits and a binary unit', () => {
  const shown = [0, 1, 1023, 1024, 1536, 65_536, 1023.6 * 1024, 5.31 * GIB, 99.96 * GIB, 2 ** 43, 2 ** 53, 2 ** 62];
  assert.deepEqual(shown.map(formatBytes), [
    '0 B',
    '1 B',
    '1023 B',
    '1 KiB',
    '1.50 KiB',
    '64 KiB',
    '1 MiB',
    '5.31 GiB',
    '100 GiB',
    '8 TiB',
    '8 PiB',
    '4096 PiB',
  ]);
});

test('a size never has more than four digits, and is at most half a percent off', () => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  fc.assert(
    fc.property(fc.maxSafeNat(), (bytes) => {
      const [number = '', unit = ''] = formatBytes(bytes).split(' ');
      assert.match(number, /^\d{1,4}(\.\d{1,2})?$/);
      const value = Number(number) * 1024 ** units.indexOf(unit);
      assert.ok(Math.abs(value - bytes) <= bytes * 0.006, `${bytes} as ${number} ${unit}`);
    }),
    { numRuns: 1000 },
  );
});

test('durations grow from seconds to days', () => {
  const shown = [0, 4, 820, 12_400, 59_900, 59_960, 61_000, 3_599_000, 3_600_000, 7_500_000, 90_000_000];
  assert.deepEqual(shown.map(formatDuration), [
    '0 s',
    '0 s',
    '0.82 s',
    '12.4 s',
    '59.9 s',
    '1 min',
    '1 min 1 s',
    '59 min 59 s',
    '1 h',
    '2 h 5 min',
    '1 d 1 h',
  ]);
  assert.deepEqual([0, 900, 65_000, 3_725_000].map(formatCountdown), ['0:00', '0:01', '1:05', '1:02:05']);
});

test('times are local, with their offset', () => {
  assert.equal(
    inZone('Europe/Berlin', () => formatTime('2026-11-21T14:04:05.678Z')),
    '2026-11-21 15:04:05 +0100',
  );
  assert.equal(
    inZone('Europe/Berlin', () => formatTime('2026-07-01T00:00:00Z')),
    '2026-07-01 02:00:00 +0200',
  );
  assert.equal(
    inZone('America/St_Johns', () => formatTime('2026-11-21T02:00:00Z')),
    '2026-11-20 22:30:00 -0330',
  );
  assert.equal(
    inZone('UTC', () => formatTime('2026-11-21T14:04:05Z')),
    '2026-11-21 14:04:05 +0000',
  );
  assert.equal(formatTime('not a time'), 'not a time');
});

test('a time that is shown names the same moment when it is given back', () => {
  const iso = '2026-03-29T01:30:00.000Z';
  for (const zone of ['Europe/Berlin', 'America/St_Johns', 'Asia/Kolkata', 'UTC']) {
    assert.equal(
      inZone(zone, () => new Date(formatTime(iso)).toISOString()),
      iso,
      zone,
    );
  }
});

test('ages are whole units, and nothing for the future', () => {
  const nowMs = Date.parse('2026-11-21T12:00:00Z');
  const before = (seconds: number): string => formatAge(new Date(nowMs - seconds * 1000).toISOString(), nowMs);
  const shown = [0, 1, 59, 60, 3599, 3600, 47 * 3600, 48 * 3600, -5].map(before);
  assert.deepEqual(shown, [
    '0 seconds ago',
    '1 second ago',
    '59 seconds ago',
    '1 minute ago',
    '59 minutes ago',
    '1 hour ago',
    '47 hours ago',
    '2 days ago',
    '',
  ]);
});

test('counts and ratios', () => {
  assert.deepEqual(
    [count(1, 'disk'), count(0, 'disk'), count(12_345, 'chunk')],
    ['1 disk', '0 disks', '12,345 chunks'],
  );
  assert.deepEqual([formatRatio(16, 6), formatRatio(1, 0), formatRatio(0, 1)], ['× 2.67', '–', '–']);
});

test('text from outside has no control characters left', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.doesNotMatch(plain(text), /\p{Cc}/u);
    }),
  );
  assert.equal(plain('Grüße 日本 web-1'), 'Grüße 日本 web-1');
});

test('columns of a table are aligned, also with wide characters, and lines have no trailing spaces', () => {
  const rows = [
    { name: 'web', size: '20 GiB' },
    { name: '日本', size: '1 B' },
    { name: '', size: '' },
  ];
  const table = renderTable(
    rows,
    [
      { title: 'NAME', cell: (row) => row.name },
      { title: 'SIZE', align: 'right', cell: (row) => row.size },
      { title: 'END', cell: () => '' },
    ],
    (_format, text) => text,
  );
  assert.equal(table, 'NAME    SIZE  END\nweb   20 GiB\n日本     1 B\n\n');
});

test('progress shows share, amount, rate of the last seconds and the time left', () => {
  const meter = new ProgressMeter();
  const at = (seconds: number, done: number): string => {
    meter.update({ phase: 'backing up vda', done, total: 8 * GIB, unit: 'bytes' }, seconds * 1000);
    return meter.line(200);
  };
  assert.equal(at(0, 0), `backing up vda  ${'░'.repeat(24)}    0 %  0 B of 8 GiB`);
  for (let second = 1; second <= 20; second += 1) at(second, second * 100 * MIB);
  assert.match(at(21, 2100 * MIB), /^backing up vda {2}█+░+ {3}25 % {2}2.05 GiB of 8 GiB {2}100 MiB\/s {2}ETA 1:01$/);
  for (let second = 22; second <= 40; second += 1) at(second, (2100 + (second - 21) * 10) * MIB);
  assert.match(meter.line(200), / 10 MiB\/s {2}ETA/);
  assert.equal(meter.line(10), 'backing up');
});

test('progress that steps back a little, as parallel work reports it, keeps its rate', () => {
  const meter = new ProgressMeter();
  for (let step = 0; step <= 40; step += 1) {
    const done = (step * 10 - (step % 2) * 15) * MIB;
    meter.update({ phase: 'backing up vda', done: Math.max(0, done), total: GIB, unit: 'bytes' }, step * 100);
  }
  assert.match(meter.line(200), /400 MiB of 1 GiB {2}100 MiB\/s {2}ETA 0:07$/);
});

test('progress without a total shows what was done; a new phase begins anew', () => {
  const meter = new ProgressMeter();
  meter.update({ phase: 'collecting', done: 5_000, total: 0, unit: 'items' }, 0);
  meter.update({ phase: 'collecting', done: 15_000, total: 0, unit: 'items' }, 2_000);
  assert.equal(meter.line(80), 'collecting  15,000  5000/s');
  meter.update({ phase: 'sweeping', done: 0, total: 0, unit: 'items' }, 2_100);
  assert.equal(meter.line(80), 'sweeping  0');
  assert.equal(meter.remainingMs(), undefined);
});

test('progress never divides by nothing', () => {
  const number = fc.nat({ max: 2 ** 31 - 1 });
  const step = fc.record({
    done: number,
    total: number,
    wait: fc.nat({ max: 5000 }),
    phase: fc.constantFrom('a', 'b'),
  });
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const meter = new ProgressMeter();
      let atMs = 0;
      for (const { done, total, wait, phase } of steps) {
        atMs += wait;
        meter.update({ phase, done, total, unit: 'bytes' }, atMs);
        assert.doesNotMatch(meter.line(200), /NaN|Infinity|undefined|-\d/);
      }
    }),
    { numRuns: 300 },
  );
});
