// SPDX-License-Identifier: Apache-2.0
import type { TimelineReport } from '../api/schemas/journal.ts';
import { count, formatBytes, formatDuration, formatLocalTime } from './format.ts';
import type { Paint } from './style.ts';

/** A timeline in the width of a terminal; pure. Times are shown in the process's time zone. */

/** Cells of the picture, each a part of the time; with the labels it takes 76 columns. */
const CELLS = 66;
const LABEL = 10;
const SPARKS = ' ▁▂▃▄▅▆▇█';
const DAY_MS = 86_400_000;

interface Axis {
  readonly fromMs: number;
  readonly cellMs: number;
}

/**
 * Writes as a sparkline (its highest cell is the highest rate), what can be recovered beneath, then recovery points and
 * bookmarks, and the times. Ends with a line feed.
 */
export function timelinePicture(report: TimelineReport, paint: Paint): string {
  const axis = axisOf(report);
  const { cells } = rates(report, axis);
  const marks = (times: readonly string[], sign: string): string => {
    const taken = new Set(times.map((time) => cellOf(axis, time)));
    return Array.from({ length: CELLS }, (_, cell) => (taken.has(cell) ? sign : ' ')).join('');
  };
  const rows: (readonly [label: string, cells: string])[] = [
    ['writes', paint('cyan', cells)],
    ['journal', paint('green', coverage(report, axis))],
    [
      'points',
      paint(
        'bold',
        marks(
          report.points.map(({ time }) => time),
          '●',
        ),
      ),
    ],
    ...(report.bookmarks.length === 0
      ? []
      : [
          [
            'bookmarks',
            paint(
              'yellow',
              marks(
                report.bookmarks.map(({ time }) => time),
                '◆',
              ),
            ),
          ] as const,
        ]),
    ['', times(axis)],
  ];
  const legend = '━ every write   ┅ intervals   · in part';
  return rows
    .concat([['', paint('dim', legend)]])
    .map(([label, text]) => `${paint('dim', label.padEnd(LABEL))}${text}`.trimEnd())
    .concat('')
    .join('\n');
}

function axisOf({ from, to }: TimelineReport): Axis {
  const fromMs = Date.parse(from);
  return { fromMs, cellMs: Math.max(0.001, (Date.parse(to) - fromMs) / CELLS) };
}

/** How much was written per cell, and the highest rate in words. */
function rates({ buckets, bucketMicroseconds }: TimelineReport, axis: Axis): { cells: string; peak: string } {
  const writes = Array.from({ length: CELLS }, () => 0);
  const bytes = Array.from({ length: CELLS }, () => 0);
  for (const bucket of buckets) {
    const cell = cellAt(axis, Date.parse(bucket.time) + bucketMicroseconds / 2000);
    writes[cell] = (writes[cell] ?? 0) + bucket.writes;
    bytes[cell] = (bytes[cell] ?? 0) + bucket.bytes;
  }
  const most = Math.max(...writes);
  const cells = writes.map((number) => SPARKS.charAt(number === 0 ? 0 : 1 + Math.floor((7 * number) / most))).join('');
  if (most === 0) return { cells, peak: 'Nothing was written.' };
  const seconds = Math.max(axis.cellMs / 1000, 1e-6);
  const rate = most / seconds;
  const busiest = bytes[writes.indexOf(most)] ?? 0;
  const perSecond = rate >= 10 ? Math.round(rate).toLocaleString('en-US') : rate.toFixed(1);
  return { cells, peak: `At most ${perSecond} writes/s, ${formatBytes(busiest / seconds)}/s.` };
}

/** `━` where all of a cell's time lies in a stretch of writes, `┅` in one of intervals, `·` where a part of it does. */
function coverage({ stretches }: TimelineReport, axis: Axis): string {
  const spans = stretches.map(({ begin, end, open, kind }) => ({
    beginMs: Date.parse(begin.time),
    endMs: open ? Number.POSITIVE_INFINITY : Date.parse(end.time),
    sign: kind === 'writes' ? '━' : '┅',
  }));
  let text = '';
  for (let cell = 0; cell < CELLS; cell++) {
    const begin = axis.fromMs + cell * axis.cellMs;
    const end = begin + axis.cellMs;
    const touching = spans.filter(({ beginMs, endMs }) => beginMs < end && endMs >= begin);
    const whole = touching.find(({ beginMs, endMs }) => beginMs <= begin && endMs >= end);
    text += whole?.sign ?? (touching.length > 0 ? '·' : ' ');
  }
  return text;
}

function times(axis: Axis): string {
  const toMs = axis.fromMs + axis.cellMs * CELLS;
  const show = (ms: number): string => {
    const text = formatLocalTime(new Date(ms).toISOString());
    return toMs - axis.fromMs > DAY_MS ? text.slice(5, 16) : text.slice(11, toMs - axis.fromMs > 600_000 ? 16 : 19);
  };
  const [left, middle, right] = [show(axis.fromMs), show((axis.fromMs + toMs) / 2), show(toMs)];
  const gap = CELLS - left.length - middle.length - right.length;
  return `${left}${' '.repeat(Math.floor(gap / 2))}${middle}${' '.repeat(Math.ceil(gap / 2))}${right}`;
}

function cellOf(axis: Axis, time: string): number {
  return cellAt(axis, Date.parse(time));
}

function cellAt({ fromMs, cellMs }: Axis, timeMs: number): number {
  return Math.min(CELLS - 1, Math.max(0, Math.floor((timeMs - fromMs) / cellMs)));
}

/** `2 stretches, 1 gap of 3 min 20 s in all`, and the highest rate; sentences for beneath the picture. */
export function timelineSummary(report: TimelineReport): string {
  const { stretches, gaps, points, bookmarks, to } = report;
  const lostMs = gaps.reduce((sum, gap) => sum + Date.parse(gap.end ?? to) - Date.parse(gap.begin), 0);
  const held = [
    count(points.length, 'recovery point'),
    count(bookmarks.length, 'bookmark'),
    count(stretches.length, 'stretch', 'stretches'),
    gaps.length === 0 ? 'no gap' : `${count(gaps.length, 'gap')} of ${formatDuration(lostMs)} in all`,
  ].join(', ');
  const { peak } = rates(report, axisOf(report));
  return `${held}.\n${peak}`;
}
