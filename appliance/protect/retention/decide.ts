// SPDX-License-Identifier: Apache-2.0
import { type Bucket, Calendar, PERIODS, type Period } from './calendar.ts';
import { formatSpan, isEmptyRule, type RetentionRule } from './rule.ts';

/** What retention knows of a recovery point. */
export interface RetentionPoint {
  readonly id: string;
  /** Orders the points of a machine, also when the clock jumped. */
  readonly sequence: number;
  readonly timeMs: number;
  /** Why it cannot be restored, in words; null for a good one. */
  readonly defect: string | null;
  /** Why nobody may delete it now, in words (held, locked, in use). */
  readonly kept: readonly string[];
}

export interface RetentionVerdict {
  readonly id: string;
  readonly keep: boolean;
  /** Every reason why it stays; of one that goes, why each part of the rule lets it go. Never empty. */
  readonly reasons: readonly string[];
}

export interface RetentionTerms {
  readonly rule: RetentionRule;
  /** An IANA name. */
  readonly timeZone: string;
  readonly nowMs: number;
}

/**
 * Says of each point of one machine whether it stays, in the order in which they were given.
 *
 * Each part of the rule chooses by itself among the good points that are not ahead of `nowMs`, and a point stays when any
 * part chose it (`restic forget` counts so, too). `last` chooses the newest points. The periods choose the newest point of
 * each of the newest hours, days, … that have one: empty ones do not count. `within` goes back from the newest point.
 *
 * Invariants (test/protect/retention/decide.test.ts): a rule that asks for more keeps all that one that asks for less keeps;
 * deciding again about what stays changes nothing; the order of the points does not matter; the newest good point stays;
 * points that are held, locked, in use, defective or ahead of the clock stay; an empty rule keeps everything.
 * @throws ApplianceError BAD_ARGUMENT for an unknown time zone
 */
export function decideRetention(points: readonly RetentionPoint[], terms: RetentionTerms): RetentionVerdict[] {
  const calendar = new Calendar(terms.timeZone);
  const countable = points.filter(({ defect, timeMs }) => defect === null && timeMs <= terms.nowMs).sort(newestFirst);
  const choices = [
    ...lastChoices(countable, terms.rule),
    ...PERIODS.map((period) => periodChoices(countable, period, { rule: terms.rule, calendar })),
    withinChoices(countable, terms.rule, calendar),
  ].filter((choice) => choice !== undefined);
  const [newest] = countable;
  return points.map((point) => {
    const reasons = [
      ...(point.id === newest?.id ? ['the newest point'] : []),
      ...point.kept,
      ...standingReasons(point, terms),
      ...choices.flatMap((choice) => choice.chosen.get(point.id) ?? []),
    ];
    if (reasons.length > 0) return { id: point.id, keep: true, reasons };
    return { id: point.id, keep: false, reasons: choices.map((choice) => choice.passedOver(point)) };
  });
}

/** What one part of a rule says: why it chose a point, and why it did not choose another. */
interface Choice {
  readonly chosen: ReadonlyMap<string, string>;
  readonly passedOver: (point: RetentionPoint) => string;
}

/** Reasons that no rule can outweigh. */
function standingReasons(point: RetentionPoint, { rule, nowMs }: RetentionTerms): string[] {
  const reasons: string[] = [];
  if (point.timeMs > nowMs) reasons.push('its time lies ahead of the clock');
  if (point.defect !== null) reasons.push(`${point.defect}: no rule counts it, and only \`delete\` ends it`);
  if (isEmptyRule(rule)) reasons.push('no rule: everything is kept');
  return reasons;
}

function lastChoices(newestFirstPoints: readonly RetentionPoint[], { last }: RetentionRule): Choice[] {
  if (last === undefined) return [];
  const chosen = new Map(newestFirstPoints.slice(0, last).map(({ id }, n) => [id, `last: ${n + 1} of ${last}`]));
  return [{ chosen, passedOver: () => `last: ${last} are newer` }];
}

function periodChoices(
  newestFirstPoints: readonly RetentionPoint[],
  period: Period,
  { rule, calendar }: { readonly rule: RetentionRule; readonly calendar: Calendar },
): Choice | undefined {
  const count = rule[period];
  if (count === undefined) return undefined;
  const newestOf = new Map<number, { readonly point: RetentionPoint; readonly bucket: Bucket }>();
  for (const point of newestFirstPoints) {
    const bucket = calendar.bucketOf(period, point.timeMs);
    if (!newestOf.has(bucket.order)) newestOf.set(bucket.order, { point, bucket });
  }
  const places = [...newestOf.values()].sort((a, b) => b.bucket.order - a.bucket.order).slice(0, count);
  const chosen = new Map(
    places.map(({ point, bucket }, n) => [point.id, `${period}: ${bucket.label}, ${n + 1} of ${count}`]),
  );
  const filled = new Set(places.map(({ bucket }) => bucket.order));
  const passedOver = ({ timeMs }: RetentionPoint): string => {
    const { order, label } = calendar.bucketOf(period, timeMs);
    return filled.has(order) ? `${period}: ${label} has a newer one` : `${period}: ${count} are newer`;
  };
  return { chosen, passedOver };
}

function withinChoices(
  newestFirstPoints: readonly RetentionPoint[],
  { within }: RetentionRule,
  calendar: Calendar,
): Choice | undefined {
  if (within === undefined) return undefined;
  const span = formatSpan(within);
  const [newest] = newestFirstPoints;
  const fromMs = newest === undefined ? Number.NEGATIVE_INFINITY : calendar.before(newest.timeMs, within);
  const chosen = new Map(
    newestFirstPoints.filter(({ timeMs }) => timeMs >= fromMs).map(({ id }) => [id, `within ${span} of the newest`]),
  );
  return { chosen, passedOver: () => `within: older by more than ${span}` };
}

/** A total order, so that the order in which points are given does not matter. */
function newestFirst(a: RetentionPoint, b: RetentionPoint): number {
  return b.sequence - a.sequence || b.timeMs - a.timeMs || (a.id < b.id ? -1 : 1);
}
