// SPDX-License-Identifier: Apache-2.0
import type { PointDetails, PointParams, PointSummary, PointsParams } from '../api/operations.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { parseMachineId, parsePointId } from '../core/ids.ts';
import { parseSelector } from '../protect/selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';
import { momentDetails } from './journal-operations.ts';
import { perPoints } from './per-points.ts';
import { findPointOrLost, findState } from './point-removal.ts';
import { usersOf } from './point-users.ts';
import { guardReport, pointSummary } from './reports.ts';
import { byMachine } from './retention.ts';

/** The points of all machines, or of one, newest first; lost ones after them. @throws ApplianceError MACHINE_NOT_FOUND */
export async function listPoints(core: Core, { machine }: PointsParams): Promise<readonly PointSummary[]> {
  const all = summariesOf(await core.catalog.pointLists());
  const id = machine?.toLowerCase();
  const chosen = machine === undefined ? all : all.filter((one) => one.machine === machine || one.machineId === id);
  if (machine !== undefined && chosen.length === 0) {
    throw new ApplianceError('MACHINE_NOT_FOUND', `there are no recovery points of a machine ${machine}`, {
      hint: 'List all points with `understudy points`.',
    });
  }
  const guarded: ReadonlySet<string> = await core.repository.guards.guarded();
  if (guarded.size === 0) return chosen;
  const listed: PointSummary[] = [];
  for (const one of chosen) listed.push(guarded.has(one.id) ? { ...one, ...(await guardsOf(core, one)) } : one);
  return listed;
}

/** Without what guards them, which time changes. */
const summariesOf = perPoints(({ listed, lost }): readonly PointSummary[] => {
  const summary = (isLost: boolean) => (point: RecoveryPoint) =>
    pointSummary(point, { hold: null, lock: null }, isLost);
  return [...byMachine(listed).flat().map(summary(false)), ...byMachine(lost).flat().map(summary(true))];
});

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
  return {
    usedBy: await usersOf(core, point),
    ...(await guardsOf(core, { id: point.id, machineId: point.machine.id })),
  };
}

/** One that cannot be read is shown as a lock: nobody can delete the point before that is mended. */
async function guardsOf(
  { repository }: Core,
  { id, machineId }: Pick<PointSummary, 'id' | 'machineId'>,
): Promise<Pick<PointSummary, 'hold' | 'lock'>> {
  try {
    const { hold, lock } = await repository.guards.inForce({
      machineId: parseMachineId(machineId),
      pointId: parsePointId(id),
    });
    return { hold: guardReport(hold), lock: guardReport(lock) };
  } catch (error) {
    if (!hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) throw error;
    return { hold: null, lock: { reason: `it cannot be read: ${error.message}`, since: null, until: null } };
  }
}
