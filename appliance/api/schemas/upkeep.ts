// SPDX-License-Identifier: Apache-2.0
import { type Immutable, type Static, Type } from './type.ts';
import { amount, count, list, oneOf, orNull, part, report, text, time } from './vocabulary.ts';

/** What the appliance does for its repository by itself, and how much room is left. */

const level = oneOf(['ok', 'warning', 'critical'], 'How urgent it is that somebody makes room.');

const room = {
  level,
  freeBytes: count("Of the repository's file system, for its user."),
  totalBytes: count(),
  growthBytesPerDay: orNull(
    Type.Number({
      description: 'Stored bytes that are added in a day, by the last weeks; null without a week of history.',
    }),
  ),
  daysUntilFull: orNull(
    amount(
      'At the pace of the last weeks, whoever fills the file system; null when unknown, or when it does not fill.',
    ),
  ),
} as const;

const chore = part({
  lastAt: orNull(time('When it last ended, well or not.')),
  nextAt: orNull(time('When it is to be done next, at the earliest; null when nothing does it by itself.')),
  problem: orNull(text('Why the last time failed.')),
});

const keptFinding = report(
  'KeptFinding',
  {
    foundAt: time(),
    object: text(),
    what: text(),
    points: list(text(), 'Recovery points that it touches, by id.'),
  },
  'A defect that a check or the periodic scrub has found, and nothing has seen mended since.',
);

export const upkeepReport = report(
  'UpkeepReport',
  {
    collection: chore,
    scrub: chore,
    round: part(
      {
        startedAt: orNull(time()),
        readBytes: count('Stored bytes that this round of the scrub has read.'),
        lastEndedAt: orNull(time('The end of the last round that has read everything.')),
      },
      'The scrub reads every stored byte in rounds of four weeks.',
    ),
    findings: list(keptFinding),
    omittedFindings: count('Findings that are not in the list because there were too many.'),
    capacity: part(room),
  },
  'What the appliance does for the repository by itself.',
);

const capacitySample = report('CapacitySample', {
  at: time(),
  logicalBytes: count('Sum of the data of all points, as if each stood alone.'),
  uniqueBytes: count(),
  storedBytes: count(),
  freeBytes: count(),
  totalBytes: count(),
});

const machineCost = report(
  'MachineCost',
  {
    id: text(),
    name: text(),
    points: count(),
    logicalBytes: count(),
    addedBytes: count(
      'What its points added to the repository when they were taken; what is shared counts for the first.',
    ),
  },
  'What one machine takes of the repository.',
);

export const capacityResult = report('CapacityReport', {
  ...room,
  logicalBytes: count(),
  uniqueBytes: count(),
  storedBytes: count(),
  historyDays: amount('Days that the history spans which the forecast is made of; a week is the least.'),
  history: list(capacitySample, 'One a day, oldest first; a year and a month at most.'),
  machines: list(machineCost, 'The most expensive first.'),
});

export type UpkeepReport = Immutable<Static<typeof upkeepReport>>;
export type CapacityReport = Immutable<Static<typeof capacityResult>>;
