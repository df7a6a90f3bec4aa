// SPDX-License-Identifier: Apache-2.0
import type { RecoveryPoint } from '../../repository/manifest.ts';
import { FOLDED } from '../../volume/fold-schedule.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** So long one of each hour is kept; after it one of each day. */
const HOURLY_MS: number = 2 * DAY_MS;

/**
 * Which of a machine's points that were folded by themselves are not needed any more: all that no moment of the journal rests on,
 * but the newest of each hour for two days and the newest of each day (UTC) for good.
 * Oldest first.
 */
export function surplusFolds(
  points: readonly RecoveryPoint[],
  isNeeded: (point: RecoveryPoint) => boolean,
  nowMs: number,
): RecoveryPoint[] {
  const folds = points
    .filter(({ journal, reason }) => journal !== undefined && reason === FOLDED)
    .map((point) => ({ point, atMs: Date.parse(point.createdAt) }))
    .sort((a, b) => a.atMs - b.atMs || a.point.sequence - b.point.sequence);
  const kept = new Set([...newestOfEach(folds, DAY_MS), ...newestOfEach(folds.filter(isYoung(nowMs)), HOUR_MS)]);
  return folds.map(({ point }) => point).filter((point) => !kept.has(point.id) && !isNeeded(point));
}

interface DatedPoint {
  readonly point: RecoveryPoint;
  readonly atMs: number;
}

/** A clock that went back makes a point young, and so kept. */
function isYoung(nowMs: number): (dated: DatedPoint) => boolean {
  return ({ atMs }) => nowMs - atMs < HOURLY_MS;
}

function newestOfEach(folds: readonly DatedPoint[], spanMs: number): Iterable<string> {
  return new Map(folds.map(({ point, atMs }) => [Math.floor(atMs / spanMs), point.id])).values();
}
