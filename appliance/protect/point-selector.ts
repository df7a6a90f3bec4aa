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
 * The points of the one machine that a name or id means, newest first; empty when there is none. A name is that of the
 * machine's newest point; one that only older points have counts when no machine has it any more.
 * @throws ApplianceError POINT_AMBIGUOUS when several machines have the name: one may have been made anew under it, or both are there
 */
export function pointsOfOneMachine(points: readonly RecoveryPoint[], machine: string): RecoveryPoint[] {
  const wantedId = machine.toLowerCase();
  const ids = new Set(
    points.filter(({ machine: { id, name } }) => id === wantedId || name === machine).map((point) => point.machine.id),
  );
  const byId = Map.groupBy(
    points.filter((point) => ids.has(point.machine.id)),
    (point) => point.machine.id,
  );
  const once = [...byId.values()].map((own) => own.sort(byAge));
  const own = once.find(([newest]) => newest?.machine.id === wantedId);
  if (own !== undefined) return own;
  const now = once.filter(([newest]) => newest?.machine.name === machine);
  const [only, ...others] = now.length > 0 ? now : once;
  if (only === undefined || others.length === 0) return only ?? [];
  const candidates = [only, ...others].flatMap(([newest]) =>
    newest === undefined ? [] : [{ machine: newest.machine.id, newest: newest.createdAt }],
  );
  throw new ApplianceError(
    'POINT_AMBIGUOUS',
    `${candidates.length} machines are called ${machine}: ${candidates.map((one) => `${one.machine} (newest point ${one.newest})`).join(', ')}`,
    { details: { candidates }, hint: `Say which one by its id: ${candidates[0]?.machine}@latest` },
  );
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
  const ofMachine = pointsOfOneMachine(points, machine);
  if (ofMachine.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${machine}`, {
      hint: 'List the points with `understudy points`.',
    });
  }
  const found = pick(ofMachine, moment);
  if (found !== undefined) return found;
  const what =
    moment.kind === 'time'
      ? `as old as ${formatMoment(moment)}; its oldest is of ${ofMachine.at(-1)?.createdAt}`
      : `${formatMoment(moment)} (it has ${ofMachine.length})`;
  throw new ApplianceError('POINT_NOT_FOUND', `${machine} has no recovery point ${what}`);
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
