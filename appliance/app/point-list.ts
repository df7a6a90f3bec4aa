// SPDX-License-Identifier: Apache-2.0
import type { PointDetails, PointParams, PointSummary, PointsParams } from '../api/operations.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { pointsOfMachine } from '../protect/point-selector.ts';
import { parseSelector } from '../protect/selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';
import { momentDetails } from './journal-operations.ts';
import { findPointOrLost, findState } from './point-removal.ts';
import { usersOf } from './point-users.ts';
import { guardReport, pointSummary } from './reports.ts';
import { byMachine } from './retention.ts';

/** The points of all machines, or of one, newest first; lost ones after them. @throws ApplianceError MACHINE_NOT_FOUND */
export async function listPoints(core: Core, { machine }: PointsParams): Promise<PointSummary[]> {
  const listed = await core.catalog.points();
  const lost = await core.catalog.lostPoints();
  const choose = (points: readonly RecoveryPoint[]): RecoveryPoint[] =>
    machine === undefined ? byMachine(points).flat() : pointsOfMachine(points, machine);
  const chosen = [
    ...choose(listed).map((point) => ({ point, isLost: false })),
    ...choose(lost).map((point) => ({ point, isLost: true })),
  ];
  if (machine !== undefined && chosen.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${machine}`, {
      hint: 'List all points with `understudy points`.',
    });
  }
  const summaries: PointSummary[] = [];
  for (const { point, isLost } of chosen) summaries.push(pointSummary(point, await guardsOf(core, point), isLost));
  return summaries;
}

/** What an expression means: a point, or a moment above one. Errors as `findState` and `findPointOrLost`. */
export async function pointDetails(core: Core, clock: Clock, params: PointParams): Promise<PointDetails> {
  const nowMs = clock.nowMs();
  const selector = parseSelector(params.point, nowMs);
  if (selector.kind === 'machine') {
    const state = await findState(core, selector, nowMs);
    const moment = momentDetails(state, await core.catalog.points());
    return { point: state.point, moment, lost: false, ...(await standingOf(core, state.point)) };
  }
  const { point, isLost } = await findPointOrLost(core, selector);
  return { point, moment: null, lost: isLost, ...(await standingOf(core, point)) };
}

async function standingOf(core: Core, point: RecoveryPoint): Promise<Pick<PointDetails, 'usedBy' | 'hold' | 'lock'>> {
  return { usedBy: await usersOf(core, point), ...(await guardsOf(core, point)) };
}

/** One that cannot be read is shown as a lock: nobody can delete the point before that is mended. */
async function guardsOf(
  { repository }: Core,
  { id, machine }: RecoveryPoint,
): Promise<Pick<PointSummary, 'hold' | 'lock'>> {
  try {
    const { hold, lock } = await repository.guards.inForce({ machineId: machine.id, pointId: id });
    return { hold: guardReport(hold), lock: guardReport(lock) };
  } catch (error) {
    if (!hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) throw error;
    return { hold: null, lock: { reason: `it cannot be read: ${error.message}`, since: null, until: null } };
  }
}
