// SPDX-License-Identifier: Apache-2.0
import type { TArray, TInteger, TOptional, TString } from 'typebox';
import { type Immutable, type Static, Type } from './type.ts';
import {
  amount,
  count,
  flag,
  list,
  maybe,
  number,
  oneOf,
  orNull,
  params,
  part,
  report,
  text,
  time,
  word,
} from './vocabulary.ts';

/** Policies: which machines are protected how, and how long what is kept; `docs/policies.md`. */

const MAX_NAMES = 1000;
function words(description: string): TOptional<TArray<TString>> {
  return maybe(Type.Array(word(), { maxItems: MAX_NAMES, description }));
}

const name = word("The policy's name.");

const selection = params(
  {
    all: maybe(flag('Every machine, also those that come.')),
    names: words('Names, with `*` and `?`.'),
    ids: words('UUIDs.'),
    tags: words('Words in square brackets in the title or description of the machine: `[gold]`.'),
    folders: words('Folders, with all beneath them: `[/prod/web]` there.'),
    hypervisors: words('Only on these; all when left out.'),
    except: words('Names and UUIDs that are left out.'),
  },
  'The machines that any of the lists names, without the exceptions.',
);

function keepCount(what: string): TOptional<TInteger> {
  return maybe(number({ from: 1, to: 1_000_000 }, what));
}

const keep = params(
  {
    last: keepCount('The newest so many points.'),
    hourly: keepCount('The newest point of each of the newest so many hours that have one.'),
    daily: keepCount('The same of days.'),
    weekly: keepCount('The same of weeks.'),
    monthly: keepCount('The same of months.'),
    yearly: keepCount('The same of years.'),
    within: maybe(word('Every point of so long ago: `14d`, `8w`, `6mo`.')),
  },
  'Which points stay; all when nothing is named. Of all points of the machine, those that were taken by hand among them.',
);

const mode = oneOf(
  ['scheduled', 'interval', 'continuous'],
  '`scheduled`: recovery points by a schedule; `interval`: a state each few seconds; `continuous`: every write.',
);
const quiesce = oneOf(
  ['try', 'always', 'never'],
  "Freeze the guest's file systems: if possible (the default), or else fail, or never.",
);

/** What holds a value only for some modes, or where somebody wants it. */
const wishes = {
  schedule: maybe(word('Of `scheduled`: `daily 22:00`, `every 15m`, or five fields of cron.')),
  interval: maybe(word('Of `interval`: `5s`.')),
  durability: maybe(oneOf(['group', 'write'], 'As of `protect`.')),
  journalWindow: maybe(word('How long moments are kept: `24h`.')),
  journalSize: maybe(word('How large a journal may get: `50GiB`.')),
  rpo: maybe(word('How old the newest state may be: `30m`. Left out: half as much again as between two runs.')),
  window: maybe(word('The hours in which runs may begin: `22:00-06:00`.')),
  bandwidth: maybe(word('Bytes per second that each run may read: `50MiB`.')),
} as const;

const shorten = maybe(
  flag('Let recovery points go that would stay otherwise. Without it that is refused (CONFIRMATION_NEEDED).'),
);

/** A policy as it is kept. */
export const policyDocument = params({
  name,
  enabled: flag(),
  priority: number({ from: -1000, to: 1000 }),
  machines: selection,
  mode,
  timeZone: word(),
  quiesce,
  keep,
  ...wishes,
});

export const policyParams = params({ name });

export const policyEnableParams = params({ name, shorten });

export const policyCreateParams = params({
  name,
  enabled: maybe(flag('Default: true.')),
  priority: maybe(number({ from: -1000, to: 1000 }, 'The highest wins a machine that several select. Default: 0.')),
  machines: selection,
  mode,
  timeZone: word('An IANA name: the calendar of schedule, window and retention.'),
  quiesce: maybe(quiesce),
  keep: maybe(keep),
  ...wishes,
  shorten,
});

export const policySetParams = params({
  name,
  priority: maybe(number({ from: -1000, to: 1000 })),
  machines: maybe(selection),
  mode: maybe(mode),
  timeZone: maybe(word()),
  quiesce: maybe(quiesce),
  keep: maybe(keep),
  ...wishes,
  clear: maybe(
    Type.Array(
      oneOf(['schedule', 'interval', 'durability', 'journalWindow', 'journalSize', 'rpo', 'window', 'bandwidth']),
      { maxItems: 8, description: 'What the policy does not say any more.' },
    ),
  ),
  shorten,
});

export const policyReport = report(
  'PolicyReport',
  {
    name: text(),
    enabled: flag(),
    priority: Type.Integer(),
    machines: selection,
    mode,
    timeZone: text(),
    quiesce,
    keep,
    ...wishes,
    rpoTargetMs: amount('How old the newest state may be.'),
    revision: count('Another one after each change.'),
  },
  'A policy.',
);

export const policyListResult = Type.Array(policyReport);

const previewMachine = part({
  id: text(),
  machine: text(),
  host: text(),
  reason: text('Why the policy has it, or why not although it selects it.'),
  isTaken: flag('False: another policy has it.'),
  kept: count('Of its points, so many stay.'),
  going: count('So many would go now.'),
  bytesPerRun: orNull(count(), 'What a run of it stored on average; null where nobody knows.'),
});

export const policyPreviewResult = report(
  'PolicyPreviewReport',
  {
    policy: policyReport,
    machines: list(previewMachine),
    next: list(time(), 'When it runs next, by the clock; for `every` as if a run began now.'),
    keptPoints: orNull(count(), 'So many points of a machine stay in the long run at most; null: all.'),
    expectedBytes: orNull(count(), 'What they may take for all its machines; null where nothing is known yet.'),
    problems: list(text()),
  },
  'What a policy does.',
);

const scheduleEntry = report('ScheduleEntry', {
  id: text(),
  machine: text(),
  host: text(),
  policy: text(),
  state: oneOf(['running', 'due', 'waiting', 'failed', 'protected'], '`due`: it runs as soon as a place is free.'),
  reason: text('Why it does not run now.'),
  dueAt: orNull(time(), 'When its policy wants it next, or since when.'),
  rpoTargetMs: amount(),
  rpoNowMs: orNull(amount()),
  attempts: count('Failures in a row.'),
  lastFailure: orNull(part({ at: time(), code: text(), message: text() })),
});

export const scheduleResult = report('ScheduleReport', {
  isRunning: flag('A service works on it.'),
  retentionProblem: orNull(text(), 'Why policies delete nothing now; null when they do.'),
  hosts: list(part({ uri: text(), running: count(), problem: orNull(text()) })),
  machines: list(scheduleEntry, 'In the order in which they run.'),
  unprotected: list(part({ id: text(), machine: text(), host: text(), reason: text() }), 'Machines without a policy.'),
});

export type PolicyParams = Immutable<Static<typeof policyParams>>;
export type PolicyCreateParams = Immutable<Static<typeof policyCreateParams>>;
export type PolicySetParams = Immutable<Static<typeof policySetParams>>;
export type PolicyReport = Immutable<Static<typeof policyReport>>;
export type PolicyPreviewReport = Immutable<Static<typeof policyPreviewResult>>;
export type PolicyEnableParams = Immutable<Static<typeof policyEnableParams>>;
export type PolicyDocumentParams = Immutable<Static<typeof policyDocument>>;
export type ScheduleReport = Immutable<Static<typeof scheduleResult>>;
export type ScheduleEntry = Immutable<Static<typeof scheduleEntry>>;
