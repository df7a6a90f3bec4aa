// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { Consistency, RecoveryPoint } from '../repository/manifest.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import { pointsOfMachine, selectPoint } from './point-selector.ts';
import { formatMoment, formatTimeUs, type MomentSelector, type Selector } from './selector.ts';

/** A place in a log: the state after its record `sequence`, which was written at `timeUs`. */
export interface LogMoment {
  readonly sequence: number;
  /** Microseconds since the Unix epoch. */
  readonly timeUs: number;
}

/** An unbroken part of a log. */
export interface LogStretch {
  readonly begin: LogMoment;
  /** Of an open one, the newest moment so far. */
  readonly end: LogMoment;
  readonly isOpen: boolean;
}

/** What of a journal decides which moment is meant. */
export interface SelectableJournal {
  readonly logId: string;
  /** The recovery points that its moments rest on, in order; each holds everything up to a record. */
  readonly folds: readonly { readonly pointId: string; readonly sequence: number }[];
  /** The moment, or the newest offered one that is not later. @throws ApplianceError MOMENT_IN_GAP, MOMENT_NOT_FOUND */
  resolve(moment: { timeUs: number } | { sequence: number } | { bookmark: string }): Promise<LogMoment>;
  /** `buckets: 0` counts nothing, and so reads nothing. */
  timeline(range: { readonly buckets: 0 }): Promise<{
    readonly stretches: readonly LogStretch[];
    readonly bookmarks: readonly {
      readonly name: string;
      readonly moment: LogMoment;
      readonly consistency: Consistency;
    }[];
  }>;
}

/** The journal of a machine, or undefined when it never had one. */
export type JournalOf = (machine: MachineId) => Promise<SelectableJournal | undefined>;

/**
 * The state that a selector means, newest first wherever both would do: a moment of the machine's journal, or a recovery
 * point where the journal does not reach. A time inside a gap of the journal is refused, unless a point was taken in the
 * open end behind it. A moment at which a recovery point of the journal stands
 * is that point. A time later than `nowMs` and than everything there is, is refused: the newest state is not what was asked for.
 * So is one that was counted from now when there are states of a time to come: the clock was set back, and does not tell how
 * long ago they were.
 * @throws ApplianceError BAD_ARGUMENT (in the future, or counted from a clock that was set back), POINT_NOT_FOUND, POINT_AMBIGUOUS, MACHINE_NOT_FOUND, MOMENT_IN_GAP, MOMENT_NOT_FOUND
 */
export async function selectState(
  points: readonly RecoveryPoint[],
  journalOf: JournalOf,
  selector: Selector,
  nowMs: number,
): Promise<RecoverableState> {
  if (selector.kind === 'id' || selector.moment.kind === 'earlier-point')
    return { point: selectPoint(points, selector) };
  const { machine, moment } = selector;
  // Names the machine, or says that there is none.
  const newest = selectPoint(points, { kind: 'machine', machine, moment: { kind: 'latest' } });
  const journal = await journalOf(newest.machine.id);
  const choice: Choice = { points: pointsOfMachine(points, newest.machine.id), selector, newest };
  if (moment.kind === 'time' && moment.timeUs > nowMs * 1000) await refuseFuture(choice, journal, moment.timeUs, nowMs);
  if (moment.kind === 'time' && moment.isRelative === true) await refuseSetBack(choice, journal, nowMs);
  if (journal === undefined) return withoutJournal(choice, moment);
  switch (moment.kind) {
    case 'latest':
      return latest(choice, journal);
    case 'time':
      return byTime(choice, journal, moment.timeUs);
    case 'bookmark':
      return above(choice, journal, await resolved(choice, journal, { bookmark: moment.name }));
    case 'sequence':
      return above(choice, journal, await resolved(choice, journal, { sequence: moment.sequence }));
  }
}

/** Clocks are corrected by so much without a word. */
const AHEAD_US = 60_000_000;

interface Choice {
  /** Of the machine, newest first. */
  readonly points: readonly RecoveryPoint[];
  readonly selector: Extract<Selector, { kind: 'machine' }>;
  readonly newest: RecoveryPoint;
}

/** Clocks are set back: what they had said before is known by its time, though that is still to come. */
async function refuseFuture(
  { points }: Choice,
  journal: SelectableJournal | undefined,
  timeUs: number,
  nowMs: number,
): Promise<void> {
  if ((await newestTimeUs(points, journal)) >= timeUs) return;
  throw new ApplianceError('BAD_ARGUMENT', `${formatTimeUs(timeUs)} is in the future`, {
    hint: `It is ${formatTimeUs(Math.floor(nowMs * 1000))} now. A time without Z or an offset is local time; NAME@latest is the newest state.`,
  });
}

/** What is counted from now, when now is earlier than what is known, would be another state than is meant. */
async function refuseSetBack(
  { points, selector }: Choice,
  journal: SelectableJournal | undefined,
  nowMs: number,
): Promise<void> {
  const newestUs = await newestTimeUs(points, journal);
  if (newestUs <= nowMs * 1000 + AHEAD_US) return;
  const [now, newest] = [Math.floor(nowMs * 1000), newestUs].map(formatTimeUs);
  throw new ApplianceError('BAD_ARGUMENT', `the clock was set back: it is ${now}, and there are states of ${newest}`, {
    hint: `How long ago they were is not known. Name the time as \`understudy timeline ${selector.machine}\` has it, a bookmark, seq:N, or latest.`,
  });
}

async function newestTimeUs(points: readonly RecoveryPoint[], journal: SelectableJournal | undefined): Promise<number> {
  const ends = (await journal?.timeline({ buckets: 0 }))?.stretches.map(({ end }) => end.timeUs) ?? [];
  const known = [...ends, ...points.map(({ createdAt }) => microseconds(createdAt))];
  return known.reduce((newest, timeUs) => Math.max(newest, timeUs), 0);
}

function withoutJournal({ points, selector }: Choice, moment: MomentSelector): RecoverableState {
  if (moment.kind === 'latest' || moment.kind === 'time') return { point: selectPoint(points, selector) };
  throw new ApplianceError(
    'MOMENT_NOT_FOUND',
    `${selector.machine} has no journal, and so no ${formatMoment(moment)}`,
    {
      hint: `Only machines under continuous protection have moments; \`understudy points ${selector.machine}\` lists what there is.`,
    },
  );
}

async function latest(choice: Choice, journal: SelectableJournal): Promise<RecoverableState> {
  const { newest } = choice;
  const last = (await journal.timeline({ buckets: 0 })).stretches.at(-1);
  if (last === undefined) return { point: newest };
  const moment = await journal.resolve({ timeUs: last.end.timeUs });
  return isAfter(moment, newest, journal.logId) ? above(choice, journal, moment) : { point: newest };
}

async function byTime(choice: Choice, journal: SelectableJournal, timeUs: number): Promise<RecoverableState> {
  const { stretches } = await journal.timeline({ buckets: 0 });
  const [first, last] = [stretches[0], stretches.at(-1)];
  // Since the newest record of an open stretch nothing has changed.
  const wantedUs = last?.isOpen === true ? Math.min(timeUs, last.end.timeUs) : timeUs;
  let moment: LogMoment;
  try {
    moment = await journal.resolve({ timeUs: wantedUs });
  } catch (error) {
    if (!hasCode(error, 'MOMENT_IN_GAP', 'MOMENT_NOT_FOUND')) throw error;
    const isBefore = first === undefined || last === undefined || timeUs < first.begin.timeUs;
    if (isBefore) return { point: selectPoint(choice.points, choice.selector) };
    const point = choice.points.find(({ createdAt }) => microseconds(createdAt) <= timeUs);
    if (timeUs > last.end.timeUs && point !== undefined && isLaterThan(point, last.end, journal.logId))
      return { point };
    throw inGap(choice, { stretches, place: timeUs, unit: 'timeUs', cause: error });
  }
  return above(choice, journal, moment);
}

async function resolved(
  choice: Choice,
  journal: SelectableJournal,
  wanted: { sequence: number } | { bookmark: string },
): Promise<LogMoment> {
  try {
    return await journal.resolve(wanted);
  } catch (error) {
    if (!hasCode(error, 'MOMENT_IN_GAP')) throw error;
    const { stretches } = await journal.timeline({ buckets: 0 });
    const sequence = 'sequence' in wanted ? wanted.sequence : 0;
    throw inGap(choice, { stretches, place: sequence, unit: 'sequence', cause: error });
  }
}

/**
 * The base of a moment, and the moment where it is not the base itself. The base is the last one that the journal itself
 * knows before the moment: an older point may be of other disks, or miss what was found by comparing, and would do silently.
 */
async function above(choice: Choice, journal: SelectableJournal, moment: LogMoment): Promise<RecoverableState> {
  const { logId } = journal;
  const fold = journal.folds.findLast(({ sequence }) => sequence <= moment.sequence);
  const base = choice.points.find(({ id }) => id === fold?.pointId);
  if (base?.journal === undefined || base.journal.logId !== logId || base.journal.sequence !== fold?.sequence) {
    throw new ApplianceError(
      'MOMENT_NOT_FOUND',
      `the recovery point beneath that moment of ${choice.selector.machine} is gone`,
      {
        details: { sequence: moment.sequence, logId, point: fold?.pointId ?? null },
        ...(fold === undefined
          ? {}
          : { hint: `\`understudy undelete ${fold.pointId}\` brings it back, if it was deleted.` }),
      },
    );
  }
  if (base.journal.sequence === moment.sequence) return { point: base };
  const { selector } = choice;
  const { bookmarks } = await journal.timeline({ buckets: 0 });
  const wanted = selector.moment.kind === 'bookmark' ? selector.moment.name : undefined;
  const here = bookmarks.filter((bookmark) => bookmark.moment.sequence === moment.sequence);
  const bookmark = here.find(({ name }) => name === wanted) ?? here[0];
  const { sequence, timeUs } = moment;
  const consistency = bookmark?.consistency ?? 'crash-consistent';
  return {
    point: base,
    moment: { logId, sequence, timeUs, consistency, bookmark: bookmark?.name ?? null } satisfies JournalMoment,
  };
}

/** True when the moment is newer than the point. The log's own order decides where both are of it: clocks jump. */
function isAfter(moment: LogMoment, point: RecoveryPoint, logId: string): boolean {
  if (point.journal?.logId === logId) return moment.sequence > point.journal.sequence;
  return moment.timeUs > microseconds(point.createdAt);
}

function isLaterThan(point: RecoveryPoint, moment: LogMoment, logId: string): boolean {
  return !isAfter(moment, point, logId);
}

function microseconds(iso: string): number {
  return Date.parse(iso) * 1000;
}

interface Gap {
  readonly stretches: readonly LogStretch[];
  /** A time or a sequence. */
  readonly place: number;
  readonly unit: keyof LogMoment;
  readonly cause: ApplianceError;
}

function inGap({ selector }: Choice, { stretches, place, unit, cause }: Gap): ApplianceError {
  const { machine, moment } = selector;
  const before = stretches.findLast(({ end }) => end[unit] <= place)?.end;
  const after = stretches.find(({ begin }) => begin[unit] > place)?.begin;
  const ways = [
    ...(before === undefined ? [] : [`${machine}@${text(before)} before it`]),
    ...(after === undefined ? [] : [`${machine}@${text(after)} after it`]),
  ];
  return new ApplianceError('MOMENT_IN_GAP', `${machine} was not protected at ${formatMoment(moment)}`, {
    cause,
    details: { before: describe(before), after: describe(after) },
    hint: `The nearest ${ways.length === 1 ? 'moment is' : 'moments are'} ${ways.join(' and ')}.`,
  });
}

function text(moment: LogMoment): string {
  return formatTimeUs(moment.timeUs);
}

function describe(moment: LogMoment | undefined): { sequence: number; time: string } | null {
  return moment === undefined ? null : { sequence: moment.sequence, time: text(moment) };
}
