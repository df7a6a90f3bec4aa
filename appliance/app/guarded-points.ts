// SPDX-License-Identifier: Apache-2.0
import type { PointParams } from '../api/operations.ts';
import type { HoldParams, LockParams, PointGuardsReport } from '../api/schemas/retention.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import { parseTimeUs } from '../protect/selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { GuardedPoint } from '../repository/point-guard.ts';
import type { Core } from './core.ts';
import { findWholePoint } from './point-removal.ts';
import { guardReport } from './reports.ts';

/*
 * Holds and locks of recovery points. They are placed in a turn of the manifests, so that a deletion that runs at the same
 * time either ended before, and the point is not found, or sees them.
 */

/** @throws ApplianceError POINT_NOT_FOUND, POINT_AMBIGUOUS, MACHINE_NOT_FOUND, BAD_ARGUMENT, NO_SPACE, IO_FAILED */
export async function holdPoint(core: Core, clock: Clock, params: HoldParams): Promise<PointGuardsReport> {
  const untilMs = params.until === undefined ? null : untilOf(params.until, clock);
  const { guards } = core.repository;
  return guardPoint(core, clock, params.point, (ref) => guards.hold(ref, { reason: params.reason, untilMs }));
}

/** @throws ApplianceError as `holdPoint`; POINT_LOCKED when the point is locked for longer already */
export async function lockPoint(core: Core, clock: Clock, params: LockParams): Promise<PointGuardsReport> {
  const untilMs = untilOf(params.until, clock);
  return guardPoint(core, clock, params.point, (ref) => core.repository.guards.lock(ref, untilMs));
}

/** Ends a hold; a point that is not held stays as it is. Lost points can be released, too. Errors as `holdPoint`. */
export async function releasePoint(core: Core, clock: Clock, params: PointParams): Promise<PointGuardsReport> {
  const { point } = await findWholePoint(core, clock, params.point);
  const ref = refOf(point);
  await core.repository.manifests.whileUnchanged(() => core.repository.guards.release(ref));
  return guardsReport(core, point);
}

async function guardPoint(
  core: Core,
  clock: Clock,
  expression: string,
  place: (ref: GuardedPoint) => Promise<unknown>,
): Promise<PointGuardsReport> {
  const { point, isLost } = await findWholePoint(core, clock, expression);
  const ref = refOf(point);
  const { manifests } = core.repository;
  await manifests.whileUnchanged(async () => {
    if (isLost || !(await manifests.has(ref))) {
      throw new ApplianceError('POINT_NOT_FOUND', `the manifest of ${point.id} is not in the repository`, {
        hint: 'A deleted point comes back with `understudy undelete`; then it can be held or locked.',
      });
    }
    await place(ref);
  });
  return guardsReport(core, point);
}

async function guardsReport(core: Core, point: RecoveryPoint): Promise<PointGuardsReport> {
  const { hold, lock } = await core.repository.guards.inForce(refOf(point));
  return { point: point.id, machine: point.machine.name, hold: guardReport(hold), lock: guardReport(lock) };
}

function refOf({ id, machine }: RecoveryPoint): GuardedPoint {
  return { machineId: machine.id, pointId: id };
}

/** A day alone means its beginning. @throws ApplianceError BAD_ARGUMENT */
function untilOf(text: string, clock: Clock): number {
  return Math.ceil(parseTimeUs(text, clock.nowMs()) / 1000);
}
