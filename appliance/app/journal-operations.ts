// SPDX-License-Identifier: Apache-2.0
import type {
  BookmarkParams,
  BookmarkReport,
  MomentDetails,
  MomentReport,
  TimelineParams,
  TimelineReport,
  WritesParams,
  WritesReport,
} from '../api/schemas/journal.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Range } from '../core/extents.ts';
import type { MachineId } from '../core/ids.ts';
import { parseByteCount, parseDurationMs } from '../core/quantities.ts';
import { pointsOfOneMachine } from '../protect/point-selector.ts';
import { formatMoment, formatTimeUs, type MomentSelector, parseMoment, parseTimeUs } from '../protect/selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Journal } from '../volume/journal.ts';
import type { Moment } from '../volume/journal-event.ts';
import type { Timeline } from '../volume/journal-timeline.ts';
import type { WriteFact } from '../volume/record-table.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import type { Core } from './core.ts';

/** What the questions about journals are answered from. */
export interface JournalQuestions {
  readonly points: readonly RecoveryPoint[];
  readonly journalOf: (machine: MachineId) => Promise<Journal | undefined>;
  readonly nowMs: number;
}

/** Parts of the time in a timeline: a picture may join some of them. */
const BUCKETS = 264;
/** Most changes of one answer. */
const MAX_WRITES = 1000;
const DEFAULT_WITHIN = '10s';

interface NamedMachine {
  readonly id: MachineId;
  readonly name: string;
  /** Newest first. */
  readonly points: readonly RecoveryPoint[];
}

/** @throws ApplianceError MACHINE_NOT_FOUND, BAD_ARGUMENT, and as `Journal.timeline` */
export async function timelineReport(questions: JournalQuestions, params: TimelineParams): Promise<TimelineReport> {
  const { nowMs } = questions;
  const machine = findMachine(questions, params.machine);
  const journal = await questions.journalOf(machine.id);
  const begin = (await journal?.timeline({ buckets: 0 }))?.stretches[0]?.begin.timeUs ?? timeOf(machine.points.at(-1));
  const fromUs = params.from === undefined ? begin : parseTimeUs(params.from, nowMs);
  const toUs = Math.min(nowMs * 1000, params.to === undefined ? nowMs * 1000 : parseTimeUs(params.to, nowMs));
  if (fromUs >= toUs) {
    throw new ApplianceError(
      'BAD_ARGUMENT',
      `a timeline ends after it begins; ${formatTimeUs(fromUs)} is not before ${formatTimeUs(toUs)}`,
    );
  }
  const timeline = await journal?.timeline({ fromUs, toUs, buckets: BUCKETS });
  return {
    machine: machine.name,
    machineId: machine.id,
    from: formatTimeUs(fromUs),
    to: formatTimeUs(toUs),
    points: machine.points
      .filter((point) => timeOf(point) >= fromUs && timeOf(point) <= toUs)
      .map((point) => ({
        id: point.id,
        time: point.createdAt,
        kind: point.kind,
        consistency: point.consistency,
        sequence: point.journal !== undefined && point.journal.logId === journal?.logId ? point.journal.sequence : null,
      }))
      .reverse(),
    ...historyOf(timeline),
  };
}

function historyOf(
  timeline: Timeline | undefined,
): Pick<TimelineReport, 'bookmarks' | 'stretches' | 'gaps' | 'buckets' | 'bucketMicroseconds'> {
  const { stretches = [], gaps = [], bookmarks = [], buckets = [] } = timeline ?? {};
  return {
    bookmarks: bookmarks.map(({ name, moment, consistency }) => ({ name, ...timed(moment), consistency })),
    stretches: stretches.map(({ kind, begin, end, isOpen, endReason }) => ({
      kind,
      begin: timed(begin),
      end: timed(end),
      open: isOpen,
      endReason: endReason ?? null,
    })),
    gaps: gaps.map(({ begin, end, reason }) => ({
      begin: formatTimeUs(begin.timeUs),
      end: end === undefined ? null : formatTimeUs(end.timeUs),
      reason,
    })),
    buckets: buckets.map(({ startUs, writes, bytes }) => ({ time: formatTimeUs(Math.floor(startUs)), writes, bytes })),
    bucketMicroseconds: Math.floor(buckets[0]?.lengthUs ?? 0),
  };
}

/**
 * Changes around a moment, those nearest to it when there are too many.
 * @throws ApplianceError MACHINE_NOT_FOUND, MOMENT_NOT_FOUND, DISK_NOT_FOUND, BAD_ARGUMENT, those of the journal
 */
export async function writesReport(questions: JournalQuestions, params: WritesParams): Promise<WritesReport> {
  const machine = findMachine(questions, params.machine);
  const journal = await questions.journalOf(machine.id);
  if (journal === undefined) throw noJournal(machine);
  const names = diskNames(machine, journal.logId);
  const span = await spanOf(questions, journal, params);
  const { stretches } = await journal.timeline({ buckets: 0 });
  const isRecoverable = (sequence: number): boolean =>
    stretches.some(
      ({ kind, begin, end }) => kind === 'writes' && sequence >= begin.sequence && sequence <= end.sequence,
    );
  const before: WriteFact[] = [];
  const after: WriteFact[] = [];
  let isTruncated = false;
  for await (const fact of journal.writes({
    fromUs: span.fromUs,
    toUs: span.toUs,
    ...placeOf(names, params, machine),
  })) {
    if (fact.timeUs <= span.aroundUs) {
      before.push(fact);
      if (before.length <= span.most) continue;
      before.shift();
      isTruncated = true;
    } else if (after.length < span.most) after.push(fact);
    else {
      isTruncated = true;
      break;
    }
  }
  return {
    machine: machine.name,
    machineId: machine.id,
    around: formatTimeUs(span.aroundUs),
    from: formatTimeUs(span.fromUs),
    to: formatTimeUs(span.toUs),
    writes: [...before, ...after].map(({ timeUs, disk, ...fact }) => ({
      ...fact,
      time: formatTimeUs(timeUs),
      disk: names.get(disk) ?? `#${disk}`,
      recoverable: isRecoverable(fact.sequence),
    })),
    truncated: isTruncated,
  };
}

interface Span {
  readonly aroundUs: number;
  readonly fromUs: number;
  readonly toUs: number;
  /** Most changes on each side. */
  readonly most: number;
}

async function spanOf(
  { nowMs }: JournalQuestions,
  journal: Journal,
  { around, within, offset }: WritesParams,
): Promise<Span> {
  const nowUs = Math.floor(nowMs * 1000);
  if (around === undefined) {
    if (offset === undefined) throw new ApplianceError('BAD_ARGUMENT', 'around which moment is not said');
    const { fromUs } = await journal.timeline({ buckets: 0 });
    return { aroundUs: nowUs, fromUs, toUs: nowUs, most: MAX_WRITES };
  }
  const aroundUs = await timeOfMoment(journal, parseMoment(around, nowMs));
  const withinUs = parseDurationMs(within ?? DEFAULT_WITHIN) * 1000;
  return { aroundUs, fromUs: Math.max(0, aroundUs - withinUs), toUs: aroundUs + withinUs, most: MAX_WRITES / 2 };
}

/** Also of moments that cannot be recovered: what was written in a gap is listed, too. */
async function timeOfMoment(journal: Journal, moment: MomentSelector): Promise<number> {
  switch (moment.kind) {
    case 'time':
      return moment.timeUs;
    case 'latest':
      return (await journal.resolve('newest')).timeUs;
    case 'bookmark':
      return (await journal.resolve({ bookmark: moment.name })).timeUs;
    case 'sequence':
      for await (const { timeUs } of journal.writes({ fromSequence: moment.sequence })) return timeUs;
      throw new ApplianceError('MOMENT_NOT_FOUND', `the journal has no change ${moment.sequence} or later`);
    case 'earlier-point':
      throw new ApplianceError(
        'BAD_ARGUMENT',
        `${formatMoment(moment)} is a recovery point; name a moment by its time`,
      );
  }
}

function placeOf(
  names: ReadonlyMap<number, string>,
  params: WritesParams,
  machine: NamedMachine,
): { readonly disk?: number; readonly range?: Range } {
  const known = [...new Set(names.values())];
  const name = params.disk ?? (params.offset !== undefined && known.length === 1 ? known[0] : undefined);
  if (name === undefined) {
    if (params.offset === undefined) return {};
    throw new ApplianceError('BAD_ARGUMENT', `of which disk the offset is, is not said: ${known.join(', ')}`);
  }
  // The newest number of a disk that was replaced or resized.
  const disk = [...names].findLast(([, candidate]) => candidate === name)?.[0];
  if (disk === undefined) {
    throw new ApplianceError(
      'DISK_NOT_FOUND',
      `the journal of ${machine.name} has no disk ${name}; it has ${known.join(', ')}`,
      {
        details: { disks: known },
      },
    );
  }
  return params.offset === undefined ? { disk } : { disk, range: { offset: parseByteCount(params.offset), length: 1 } };
}

/** Names of the journal's disks by their numbers, in the order of the numbers. */
function diskNames({ points }: NamedMachine, logId: string): ReadonlyMap<number, string> {
  const entries = points.flatMap(({ journal }) =>
    journal?.logId === logId ? Object.entries(journal.disks).map(([name, number]) => [number, name] as const) : [],
  );
  return new Map(entries.sort(([a], [b]) => a - b));
}

function findMachine({ points }: JournalQuestions, name: string): NamedMachine {
  const own = pointsOfOneMachine(points, name);
  const [newest] = own;
  if (newest === undefined) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${name}`, {
      hint: 'List the points with `understudy points`.',
    });
  }
  const { id, name: current } = newest.machine;
  return { id, name: current, points: own };
}

function noJournal({ name }: NamedMachine): ApplianceError {
  return new ApplianceError('MOMENT_NOT_FOUND', `${name} has no journal`, {
    hint: 'Only machines under continuous protection have one.',
  });
}

function timeOf(point: RecoveryPoint | undefined): number {
  return point === undefined ? 0 : (point.journal?.timeUs ?? Date.parse(point.createdAt) * 1000);
}

function timed({ sequence, timeUs }: Moment): { sequence: number; time: string } {
  return { sequence, time: formatTimeUs(timeUs) };
}

function momentReport({ sequence, timeUs, consistency, bookmark }: JournalMoment): MomentReport {
  return { sequence, time: formatTimeUs(timeUs), consistency, bookmark };
}

/** Where the moment of a state stands; null for a recovery point itself. */
export function momentDetails(
  { point, moment }: RecoverableState,
  points: readonly RecoveryPoint[],
): MomentDetails | null {
  if (moment === undefined) return null;
  const distance = (one: RecoveryPoint): number => timeOf(one) - moment.timeUs;
  const own = points.filter(({ machine }) => machine.id === point.machine.id);
  const nearest = own.reduce((best, one) => (Math.abs(distance(one)) < Math.abs(distance(best)) ? one : best), point);
  return {
    ...momentReport(moment),
    logId: moment.logId,
    recordsAbovePoint: moment.sequence - (point.journal?.sequence ?? 0),
    microsecondsAbovePoint: -distance(point),
    nearestPoint: nearest.id,
    nearestPointLaterMs: Math.round(distance(nearest) / 1000),
  };
}

/** A report of the services with the moment as the operations say it. */
export function withTime<Report extends { readonly moment: JournalMoment | null }>(
  report: Report,
): Omit<Report, 'moment'> & { readonly moment: MomentReport | null } {
  return { ...report, moment: report.moment === null ? null : momentReport(report.moment) };
}

/** Names this moment of a machine that runs from the appliance, or of a protected one. Errors as their own `bookmark`. */
export async function bookmarkMachine(
  { continuous, recover }: Pick<Core, 'continuous' | 'recover'>,
  { machine, name: bookmark }: BookmarkParams,
): Promise<BookmarkReport> {
  const booted = await recover.histories.bookmark(machine, bookmark);
  if (booted !== undefined) {
    const { machine: listed, moment, ...rest } = booted;
    return { machine: listed.name, machineId: listed.id, ...timed(moment), bookmark, ...rest };
  }
  const { record, moment, ...rest } = await continuous.bookmark(machine, bookmark);
  return { machine: record.name, machineId: record.machineId, ...timed(moment), bookmark, ...rest };
}
