// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import { formatMoment, type MomentSelector, type Selector } from './selector.ts';

/** Newest first; the sequence decides, since clocks jump. */
export function byAge(a: RecoveryPoint, b: RecoveryPoint): number {
  return b.sequence - a.sequence || (a.createdAt < b.createdAt ? 1 : -1);
}

/** The points of a machine, by name or id, newest first. */
export function pointsOfMachine(points: readonly RecoveryPoint[], machine: string): RecoveryPoint[] {
  return points.filter(({ machine: { id, name } }) => name === machine || id === machine.toLowerCase()).sort(byAge);
}

/**
 * The recovery point that a selector means. Of a machine: the newest, the one a number of points before it, or the newest
 * that is not later than a time. Moments that only a journal knows (bookmarks, sequences) are no points.
 * @throws ApplianceError POINT_NOT_FOUND, POINT_AMBIGUOUS, MACHINE_NOT_FOUND, BAD_ARGUMENT
 */
export function selectPoint(points: readonly RecoveryPoint[], selector: Selector): RecoveryPoint {
  return selector.kind === 'id' ? byPrefix(points, selector.prefix) : byMoment(points, selector);
}

const MIN_PREFIX = 4;

function byPrefix(points: readonly RecoveryPoint[], prefix: string): RecoveryPoint {
  const matches = points.filter(({ id }) => id.startsWith(prefix.toLowerCase()));
  const [only] = matches;
  if (only === undefined || prefix.length < MIN_PREFIX) {
    const isMachine = pointsOfMachine(points, prefix).length > 0;
    const hint = isMachine ? `For the newest state of the machine, say ${prefix}@latest.` : undefined;
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

function byMoment(
  points: readonly RecoveryPoint[],
  { machine, moment }: Extract<Selector, { kind: 'machine' }>,
): RecoveryPoint {
  const ofMachine = pointsOfMachine(points, machine);
  if (ofMachine.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${machine}`, {
      hint: 'List the points with `understudy points`.',
    });
  }
  const found = pick(ofMachine, moment);
  if (found === undefined) {
    throw new ApplianceError(
      'POINT_NOT_FOUND',
      `${machine} has no recovery point ${formatMoment(moment)} (it has ${ofMachine.length})`,
    );
  }
  return found;
}

function pick(newestFirst: readonly RecoveryPoint[], moment: MomentSelector): RecoveryPoint | undefined {
  switch (moment.kind) {
    case 'latest':
      return newestFirst[0];
    case 'earlier-point':
      return newestFirst[moment.count];
    case 'time':
      return newestFirst.find(({ createdAt }) => Date.parse(createdAt) * 1000 <= moment.timeUs);
    case 'bookmark':
    case 'sequence':
      throw new ApplianceError(
        'BAD_ARGUMENT',
        `${formatMoment(moment)} is a moment of a journal, not a recovery point`,
        {
          hint: 'List the recovery points with `understudy points`.',
        },
      );
  }
}
