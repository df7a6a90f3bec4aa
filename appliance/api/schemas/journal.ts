// SPDX-License-Identifier: Apache-2.0
import { consistency, pointKind } from './manifest.ts';
import { type Immutable, type Static, Type } from './type.ts';
import {
  amount,
  count,
  flag,
  list,
  maybe,
  oneOf,
  orNull,
  params,
  part,
  report,
  text,
  time,
  word,
} from './vocabulary.ts';

/** What can be asked about the journals of machines under continuous protection. Times of moments have microseconds. */

const machine = word("A machine's name or id.", 'web');

/** A moment without the bookmark that may name it. */
const markMembers = {
  sequence: count('Of the record after which the state is that of the moment.'),
  time: time('Of that record.'),
  consistency,
} as const;

export const momentMembers = {
  ...markMembers,
  bookmark: orNull(text(), 'The bookmark that names it, or null.'),
} as const;

export const momentReport = report(
  'MomentReport',
  momentMembers,
  'A moment of a journal: the state after one of its records.',
);

export const momentDetails = report(
  'MomentDetails',
  {
    ...momentMembers,
    logId: text('Of the log that it is of; 32 hexadecimal digits.'),
    recordsAbovePoint: count('Records that lie between the recovery point beneath and the moment.'),
    microsecondsAbovePoint: amount('Microseconds that lie between them.'),
    nearestPoint: text('The recovery point whose time is nearest.'),
    nearestPointLaterMs: Type.Number({
      description: 'How much later than the moment that is, in milliseconds; negative for an earlier one.',
    }),
  },
  'Where a moment stands among the recovery points of its machine.',
);

export const timelineParams = params({
  machine,
  from: maybe(word('A time as in `NAME@TIME`; by default everything that can be recovered.')),
  to: maybe(word('A time as in `NAME@TIME`; by default everything that can be recovered.')),
});

const edge = part({ sequence: count(), time: time() });

const stretchReport = report(
  'StretchReport',
  {
    kind: oneOf(
      ['writes', 'interval'],
      '`writes`: every moment can be recovered. `interval`: the moments in it that were marked.',
    ),
    begin: edge,
    end: edge,
    open: flag('It goes on; `end` is the newest moment so far.'),
    endReason: orNull(text()),
  },
  'An unbroken part of a journal.',
);

const gapReport = report(
  'GapReport',
  { begin: time(), end: orNull(time(), 'Null for a gap that lasts.'), reason: orNull(text()) },
  'A time between two stretches, or behind the last: no moment of it can be recovered.',
);

const writeBucket = report(
  'WriteBucket',
  { time: time(), writes: count(), bytes: count() },
  'What was written in a part of the time, gaps included.',
);

export const timelineResult = report('TimelineReport', {
  machine: text(),
  machineId: text(),
  from: time(),
  to: time(),
  points: list(
    part({
      id: text(),
      time: time(),
      kind: pointKind,
      consistency,
      sequence: orNull(count(), 'Its place in the journal; null for a point that is not of it.'),
    }),
  ),
  bookmarks: list(part({ ...markMembers, name: text() })),
  stretches: list(stretchReport),
  gaps: list(gapReport),
  buckets: list(writeBucket, 'Of equal length, from `from` on, without a gap between them.'),
  bucketMicroseconds: amount(),
});

export const writesParams = params({
  machine,
  around: maybe(
    word(
      'A moment, as in `NAME@MOMENT`: a time, `bookmark:…`, `seq:…`. Without it, all of the journal for an `offset`.',
    ),
  ),
  within: maybe(word('So far on both sides: `10s`, `500ms`, `2min`. Default 10 s.')),
  disk: maybe(word()),
  offset: maybe(word('A byte of the disk: only changes that cover it. Decimal, or with KiB, MiB, GiB.')),
});

const writeReport = report(
  'WriteReport',
  {
    sequence: count(),
    time: time(),
    disk: text(),
    offset: count(),
    length: count(),
    kind: oneOf(['write', 'zero', 'trim'], '`zero` and `trim` read as zeroes.'),
    recoverable: flag('The state after it can be recovered.'),
  },
  'One change of one disk.',
);

export const writesResult = report('WritesReport', {
  machine: text(),
  machineId: text(),
  around: time(),
  from: time(),
  to: time(),
  writes: list(writeReport, 'Oldest first.'),
  truncated: flag('There were more; those nearest to the moment are listed.'),
});

export const bookmarkParams = params({ machine, name: word('Unique among the bookmarks of the machine.') });

export const bookmarkResult = report('BookmarkReport', {
  ...markMembers,
  machine: text(),
  machineId: text(),
  bookmark: text(),
  notices: list(text(), 'Sentences: what did not work, of freezing above all.'),
});

export type MomentReport = Immutable<Static<typeof momentReport>>;
export type MomentDetails = Immutable<Static<typeof momentDetails>>;
export type TimelineParams = Immutable<Static<typeof timelineParams>>;
export type StretchReport = Immutable<Static<typeof stretchReport>>;
export type GapReport = Immutable<Static<typeof gapReport>>;
export type WriteBucket = Immutable<Static<typeof writeBucket>>;
export type TimelineReport = Immutable<Static<typeof timelineResult>>;
export type WritesParams = Immutable<Static<typeof writesParams>>;
export type WriteReport = Immutable<Static<typeof writeReport>>;
export type WritesReport = Immutable<Static<typeof writesResult>>;
export type BookmarkParams = Immutable<Static<typeof bookmarkParams>>;
export type BookmarkReport = Immutable<Static<typeof bookmarkResult>>;
