// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';

/** Newest first; the sequence decides, since clocks jump. */
export function byAge(a: RecoveryPoint, b: RecoveryPoint): number {
  return b.sequence - a.sequence || (a.createdAt < b.createdAt ? 1 : -1);
}

/** The points of a machine, by name or id, newest first. */
export function pointsOfMachine(points: readonly RecoveryPoint[], machine: string): RecoveryPoint[] {
  return points.filter(({ machine: { id, name } }) => name === machine || id === machine.toLowerCase()).sort(byAge);
}

/**
 * The point that an expression means: an id, an unambiguous prefix of one (at least four digits), `NAME@latest`,
 * `NAME@-N` (N before the newest), or `NAME@<time>` (the newest that is not later than a time that `Date` understands).
 * @throws ApplianceError POINT_NOT_FOUND, POINT_AMBIGUOUS, MACHINE_NOT_FOUND, BAD_ARGUMENT
 */
export function selectPoint(points: readonly RecoveryPoint[], expression: string): RecoveryPoint {
  const at = expression.lastIndexOf('@');
  return at === -1 ? byPrefix(points, expression) : byMoment(points, expression.slice(0, at), expression.slice(at + 1));
}

const MIN_PREFIX = 4;

function byPrefix(points: readonly RecoveryPoint[], prefix: string): RecoveryPoint {
  const matches = points.filter(({ id }) => id.startsWith(prefix.toLowerCase()));
  const [only] = matches;
  if (only === undefined || prefix.length < MIN_PREFIX) {
    const isMachine = pointsOfMachine(points, prefix).length > 0;
    const hint = isMachine ? `For the newest point of the machine, say ${prefix}@latest.` : undefined;
    throw new ApplianceError(
      'POINT_NOT_FOUND',
      `there is no recovery point ${prefix}`,
      hint === undefined ? {} : { hint },
    );
  }
  if (matches.length > 1) {
    throw new ApplianceError('POINT_AMBIGUOUS', `${matches.length} recovery points begin with ${prefix}`, {
      details: { candidates: matches.map(({ id }) => id) },
    });
  }
  return only;
}

function byMoment(points: readonly RecoveryPoint[], machine: string, moment: string): RecoveryPoint {
  const ofMachine = pointsOfMachine(points, machine);
  if (ofMachine.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${machine}`, {
      hint: 'List the points with `understudy points`.',
    });
  }
  const found = ofMachine[positionOf(moment) ?? -1] ?? notLaterThan(ofMachine, moment);
  if (found === undefined) {
    throw new ApplianceError(
      'POINT_NOT_FOUND',
      `${machine} has no recovery point ${moment} (it has ${ofMachine.length})`,
    );
  }
  return found;
}

function positionOf(moment: string): number | undefined {
  if (moment === 'latest') return 0;
  return /^-\d{1,9}$/.test(moment) ? Number(moment.slice(1)) : undefined;
}

function notLaterThan(newestFirst: readonly RecoveryPoint[], moment: string): RecoveryPoint | undefined {
  if (positionOf(moment) !== undefined) return undefined;
  const time = Date.parse(moment);
  if (Number.isNaN(time)) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(moment)} is no moment`, {
      hint: 'Use NAME@latest, NAME@-1, or NAME@2026-11-21T14:00 (local time; add Z for UTC).',
    });
  }
  return newestFirst.find(({ createdAt }) => Date.parse(createdAt) <= time);
}
