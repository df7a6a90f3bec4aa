// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import { hasCode } from '../core/errors.ts';
import type { PointId } from '../core/ids.ts';
import type { ManagedIndex } from './chunk-index.ts';
import type { DeletedPoint } from './deleted-point.ts';
import { type RecoveryPoint, rootsOf } from './manifest.ts';
import type { ManifestRef } from './manifest-store.ts';
import type { Repository } from './repository.ts';

/** Everything that is kept, and what is to go. */
export interface CollectionRoots {
  readonly maps: ReadonlySet<ContentKey>;
  /** Chunks of attachments. */
  readonly chunks: ReadonlySet<ContentKey>;
  /** Deleted points whose grace period is over; they are condemned: nobody can bring them back any more. */
  readonly expired: readonly ManifestRef[];
  /** Copies in `deleted/` of points that exist. */
  readonly staleCopies: readonly ManifestRef[];
  readonly keptDeletedPoints: number;
  /** Of those: the grace period is over by the clock, but the appliance has not lived through it. */
  readonly notLivedThrough: number;
}

/**
 * Lists what garbage collection marks from: every point, every deleted point within its grace period, lost points, points
 * that only the catalog lists, and what is held. A single manifest that cannot be read fails it: its contents must not be
 * taken for garbage.
 * @throws ApplianceError REPOSITORY_CORRUPT, REPOSITORY_FORMAT, IO_FAILED, CATALOG_DAMAGED
 */
export function gatherRoots(
  repository: Repository,
  index: ManagedIndex,
  time: { readonly nowMs: number; readonly graceMs: number },
): Promise<CollectionRoots> {
  return repository.manifests.whileUnchanged(() => gather(repository, index, time));
}

async function gather(
  repository: Repository,
  index: ManagedIndex,
  time: { readonly nowMs: number; readonly graceMs: number },
): Promise<CollectionRoots> {
  const { manifests } = repository;
  const held = repository.heldRoots();
  const maps = new Set<ContentKey>(held.maps);
  const chunks = new Set<ContentKey>(held.chunks);
  const keep = (point: RecoveryPoint): void => {
    const roots = rootsOf(point);
    for (const map of roots.maps) maps.add(map);
    for (const chunk of roots.chunks) chunks.add(chunk);
  };

  const listed = new Set<PointId>();
  for (const ref of await manifests.list()) {
    keep(await manifests.get(ref));
    listed.add(ref.pointId);
  }
  for (const point of await index.lostPoints()) keep(point);
  const staleCopies: ManifestRef[] = [];
  const deleted: DeletedCopy[] = [];
  for (const ref of await manifests.listDeletedCopies()) {
    if (listed.has(ref.pointId)) {
      staleCopies.push(ref);
      continue;
    }
    deleted.push({ ref, copy: await manifests.getDeleted(ref) });
  }
  // A listing that is short tells no error: what the catalog lists besides is kept until `reconcile` has looked into it.
  const accounted = new Set([...listed, ...deleted.map(({ ref }) => ref.pointId)]);
  for (const point of await index.points()) if (!accounted.has(point.id)) keep(point);

  if (deleted.length > 0 && time.graceMs > 0) await recordTime(repository);
  const expired: ManifestRef[] = [];
  let notLivedThrough = 0;
  for (const { ref, copy } of deleted) {
    const isOver = time.graceMs === 0 || (await isLivedThrough(repository, { ref, copy }, time.graceMs));
    if (isOver && !(await isGuarded(repository, ref))) expired.push(ref);
    else keep(copy.point);
    if (!isOver && time.nowMs - Date.parse(copy.deletedAt) >= time.graceMs) notLivedThrough += 1;
  }
  manifests.condemn(expired.map(({ pointId }) => pointId));
  return { maps, chunks, expired, staleCopies, keptDeletedPoints: deleted.length - expired.length, notLivedThrough };
}

interface DeletedCopy {
  readonly ref: ManifestRef;
  readonly copy: DeletedPoint;
}

/**
 * Whether the appliance has lived through the grace period of a deleted point. No clock is asked: one that is wrong ends none.
 * A copy that does not tell when it was deleted, or names a time that has not come (the record of it was lost since), has
 * its grace period begin now.
 */
async function isLivedThrough(
  { manifests, guards }: Repository,
  { ref, copy }: DeletedCopy,
  graceMs: number,
): Promise<boolean> {
  const livedMs = await guards.livedMs();
  const { deletedLivedMs } = copy;
  if (deletedLivedMs !== undefined && deletedLivedMs <= livedMs) return livedMs - deletedLivedMs >= graceMs;
  await manifests.beginGrace(ref, copy);
  return false;
}

/** A grace period must go on in the next process. Where there is no room for the record it comes to its end later. */
async function recordTime({ guards }: Repository): Promise<void> {
  try {
    await guards.beginRecord();
  } catch (error) {
    if (!hasCode(error, 'NO_SPACE')) throw error;
  }
}

/** Deleting refuses a held or locked point; one that is among the deleted all the same is not removed for good. */
async function isGuarded({ guards }: Repository, ref: ManifestRef): Promise<boolean> {
  const { hold, lock } = await guards.inForce(ref);
  return hold !== undefined || lock !== undefined;
}
