// SPDX-License-Identifier: Apache-2.0
import type { Catalog } from '../catalog/catalog.ts';
import { ApplianceError } from '../core/errors.ts';
import { newPointId, type PointId } from '../core/ids.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { JournalPoint } from '../volume/fold-journal.ts';
import type { RecoverParts } from './context.ts';
import { historyIdOf, type Session } from './session-store.ts';

/**
 * As what machine the points of a new session are listed: by its name, unless another machine has points under that (the
 * original, when the session stands in for it). A name means one machine.
 */
export async function listedMachine(catalog: Catalog, session: Session): Promise<RecoveryPoint['machine']> {
  const { name, id } = session;
  const taken = new Set((await catalog.points()).filter((point) => !isOf(point, session)).map(nameOf));
  const free = [name, `${name}-booted`].find((candidate) => !taken.has(candidate));
  return { id: historyIdOf(session), name: free ?? `${name}-${id}` };
}

function nameOf({ machine }: RecoveryPoint): string {
  return machine.name;
}

/**
 * The first recovery point of a booted machine: the disks of the point that it was booted from, which cost nothing a second
 * time, at the beginning of its journal. What the journal begins with for a moment stands above it.
 */
export function originOf(
  { point, startedAt, name }: Session,
  { logId, machine }: { readonly logId: string; readonly machine: RecoveryPoint['machine'] },
): JournalPoint {
  const reason = `${name} was booted from it`;
  const stats = { changedBytes: 0, readBytes: 0, newChunkBytes: 0, storedBytes: 0 };
  return {
    ...point,
    id: newPointId(),
    machine,
    sequence: 1,
    createdAt: startedAt,
    kind: 'incremental',
    reason,
    parent: point.id,
    disks: point.disks.map((disk) => ({ ...disk, kind: 'incremental', reason, stats })),
    tracker: { kind: 'none' },
    journal: {
      logId,
      sequence: 0,
      timeUs: Date.parse(startedAt) * 1000,
      disks: Object.fromEntries(point.disks.map((disk, index) => [disk.name, index])),
    },
    durationMs: 0,
  };
}

/**
 * Takes the first point of a session off the list, with which nothing is lost: the point that it was booted from is the
 * same. Points that were folded later stay, and what is in use. A sentence when that was not possible.
 */
export async function removeOrigin(
  { catalog, repository }: Pick<RecoverParts, 'catalog' | 'repository'>,
  session: Session,
  isUsed: (point: PointId) => boolean,
): Promise<string | undefined> {
  try {
    for (const point of await catalog.points()) {
      const isOrigin = isOf(point, session) && point.journal?.sequence === 0 && point.parent === session.point.id;
      if (!isOrigin || isUsed(point.id)) continue;
      const ref = { machineId: point.machine.id, pointId: point.id };
      await repository.guards.refuseDeletion(ref);
      await catalog.deletePoint(point.id);
      await repository.manifests.purge(ref);
    }
    return undefined;
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw error;
    return `The recovery point with which ${session.name} began is still listed: ${error.message}.`;
  }
}

function isOf({ machine }: RecoveryPoint, session: Session): boolean {
  return machine.id === historyIdOf(session);
}
