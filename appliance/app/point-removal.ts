// SPDX-License-Identifier: Apache-2.0
import type { DeleteReport, PointParams } from '../api/operations.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { selectPoint } from '../protect/point-selector.ts';
import { selectState } from '../protect/select-state.ts';
import { parseSelector, type Selector } from '../protect/selector.ts';
import { DEFAULT_GRACE_MS } from '../repository/garbage-collector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { RecoverableState } from '../volume/recoverable-state.ts';
import type { Core } from './core.ts';
import { usersOf } from './point-users.ts';

/** A point that was named, listed or lost. */
export interface NamedPoint {
  readonly point: RecoveryPoint;
  /** Its manifest disappeared from the repository: only the catalog knows it. */
  readonly isLost: boolean;
}

/** The state that an expression means. @throws ApplianceError as `selectState`; POINT_NOT_FOUND for a lost point */
export async function findState(
  { catalog, journalOf }: Core,
  selector: Selector,
  nowMs: number,
): Promise<RecoverableState> {
  try {
    return await selectState(await catalog.points(), journalOf, selector, nowMs);
  } catch (error) {
    if (!hasCode(error, 'POINT_NOT_FOUND') || selector.kind !== 'id') throw error;
    const lost = await catalog.lostPoints();
    if (!lost.some(({ id }) => id.startsWith(selector.prefix.toLowerCase()))) throw error;
    const { id, machine } = selectPoint(lost, selector);
    throw new ApplianceError(
      'POINT_NOT_FOUND',
      `recovery point ${id} of ${machine.name} is lost: its manifest disappeared from the repository`,
      {
        cause: error,
        details: { point: id, lost: true },
        hint: 'Put the manifest back from a copy of the repository, or give the point up with `understudy delete`.',
      },
    );
  }
}

/** The same for lost points too. Those are named by id only: `NAME@latest` is always a point that can be restored. */
export async function findPointOrLost({ catalog }: Core, selector: Selector): Promise<NamedPoint> {
  const listed = await catalog.points();
  const lost = selector.kind === 'id' ? await catalog.lostPoints() : [];
  const point = selectPoint([...listed, ...lost], selector);
  return { point, isLost: lost.includes(point) };
}

/**
 * Ends a point, or gives a lost one up.
 * @throws ApplianceError POINT_IN_USE, POINT_LOCKED, POINT_HELD, POINT_NOT_FOUND, POINT_AMBIGUOUS, MACHINE_NOT_FOUND, REPOSITORY_CORRUPT, NO_SPACE
 */
export async function deletePoint(
  core: Core,
  clock: Clock,
  params: PointParams & { readonly now?: boolean },
  onNotice: (sentence: string) => void,
): Promise<DeleteReport> {
  const { point, isLost } = await findWholePoint(core, clock, params.point);
  const users = isLost ? [] : await usersOf(core, point);
  if (users.length > 0) {
    throw new ApplianceError('POINT_IN_USE', `recovery point ${point.id} is in use by ${users.join(', ')}`, {
      details: { users },
    });
  }
  const answer = { point: point.id, machine: point.machine.name };
  if (isLost && !(await hasReturned(core, point))) {
    await core.repository.guards.refuseDeletion({ machineId: point.machine.id, pointId: point.id });
    onNotice(lostWarning(point));
    await core.catalog.forgetLostPoint(point.id);
    return { ...answer, recoverableUntil: null, lost: true };
  }
  if (params.now === true) {
    await purge(core, point);
    return { ...answer, recoverableUntil: null, lost: false };
  }
  const untilMs = await endPoint(core, clock, point);
  return { ...answer, recoverableUntil: new Date(untilMs).toISOString(), lost: false };
}

/** Deletes a point that is not in use; until the returned time it can be brought back. @throws as `deletePoint` */
export async function endPoint({ repository, catalog }: Core, clock: Clock, point: RecoveryPoint): Promise<number> {
  const nowMs = clock.nowMs();
  await repository.manifests.delete({ machineId: point.machine.id, pointId: point.id }, nowMs);
  await catalog.deletePoint(point.id);
  return nowMs + DEFAULT_GRACE_MS;
}

/** Brings a deleted point back, by its id. @throws ApplianceError POINT_NOT_FOUND, POINT_AMBIGUOUS, REPOSITORY_CORRUPT, NO_SPACE */
export async function undeletePoint({ catalog, repository }: Core, params: PointParams): Promise<DeleteReport> {
  const { manifests } = repository;
  const refs = (await manifests.listDeleted()).filter(({ pointId }) => pointId.startsWith(params.point.toLowerCase()));
  const [ref] = refs;
  if (ref === undefined)
    throw new ApplianceError('POINT_NOT_FOUND', `there is no deleted recovery point ${params.point}`);
  if (refs.length > 1) {
    throw new ApplianceError('POINT_AMBIGUOUS', `${refs.length} deleted recovery points begin with ${params.point}`, {
      details: { candidates: refs.map(({ pointId }) => pointId) },
    });
  }
  const point = await manifests.undelete(ref);
  await catalog.putPoint(point);
  return { point: point.id, machine: point.machine.name, recoverableUntil: null, lost: false };
}

/** The recovery point that an expression means, lost ones by id. @throws ApplianceError as `findPointOrLost`; BAD_ARGUMENT for a moment of a journal */
export async function findWholePoint(core: Core, clock: Clock, expression: string): Promise<NamedPoint> {
  const selector = parseSelector(expression, clock.nowMs());
  if (selector.kind === 'machine') await refuseMoment(core, clock, selector, expression);
  return findPointOrLost(core, selector);
}

/** What of a journal is newer than a point, or between two, must not end with the point beneath. */
async function refuseMoment(core: Core, clock: Clock, selector: Selector, expression: string): Promise<void> {
  const { point, moment } = await findState(core, selector, clock.nowMs());
  if (moment === undefined) return;
  throw new ApplianceError('BAD_ARGUMENT', `${expression} is a moment of a journal, not a recovery point`, {
    hint: `Name the recovery point by its id; \`understudy points ${point.machine.name}\` lists them.`,
  });
}

function lostWarning({ id, machine }: RecoveryPoint): string {
  return (
    `the manifest of ${id} of ${machine.name} disappeared from the repository: the point could not be restored as it was, ` +
    'but what it holds was kept; it is given up now, and `understudy gc` frees what no other point holds'
  );
}

/** Somebody may have put the manifest back since the catalog was opened: then the point exists, and is listed again. */
async function hasReturned({ catalog, repository }: Core, point: RecoveryPoint): Promise<boolean> {
  const isThere = await repository.manifests.has({ machineId: point.machine.id, pointId: point.id });
  if (isThere) await catalog.putPoint(point);
  return isThere;
}

/** Off the list first: interrupted in between, the next start lists the point again, and nothing is taken for lost. */
async function purge({ catalog, repository }: Core, point: RecoveryPoint): Promise<void> {
  await repository.guards.refuseDeletion({ machineId: point.machine.id, pointId: point.id });
  await catalog.deletePoint(point.id);
  try {
    await repository.manifests.purge({ machineId: point.machine.id, pointId: point.id });
  } catch (error) {
    await catalog.putPoint(point);
    throw error;
  }
}
