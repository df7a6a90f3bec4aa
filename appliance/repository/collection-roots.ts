// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import type { PointId } from '../core/ids.ts';
import type { ManagedIndex } from './chunk-index.ts';
import { type RecoveryPoint, rootsOf } from './manifest.ts';
import type { ManifestRef } from './manifest-store.ts';
import type { Repository } from './repository.ts';

/** A clock may be behind what was seen before by so much without being doubted. */
const CLOCK_TOLERANCE_MS: number = 5 * 60_000;
const CLOCK_NOTE = 'clock';

/** Why deleted points were kept although the clock says that their grace period is over. */
export type ClockDoubt = 'none' | 'backward' | 'forward';

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
  readonly clockDoubt: ClockDoubt;
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
  const before = await seenBefore(index);
  let newestMs = before.seenMs;
  const keep = (point: RecoveryPoint): void => {
    newestMs = Math.max(newestMs, Date.parse(point.createdAt) || 0);
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
  const deleted: { readonly ref: ManifestRef; readonly point: RecoveryPoint; readonly deletedAtMs: number }[] = [];
  for (const ref of await manifests.listDeletedCopies()) {
    if (listed.has(ref.pointId)) {
      staleCopies.push(ref);
      continue;
    }
    const { point, deletedAt } = await manifests.getDeleted(ref);
    deleted.push({ ref, point, deletedAtMs: Date.parse(deletedAt) });
  }
  for (const { deletedAtMs } of deleted) newestMs = Math.max(newestMs, deletedAtMs);
  // A listing that is short tells no error: what the catalog lists besides is kept until `reconcile` has looked into it.
  const accounted = new Set([...listed, ...deleted.map(({ ref }) => ref.pointId)]);
  for (const point of await index.points()) if (!accounted.has(point.id)) keep(point);

  const clockDoubt = time.graceMs === 0 ? 'none' : doubtOf(time, newestMs, before);
  const isExpired = (deletedAtMs: number): boolean =>
    time.graceMs === 0 || (clockDoubt === 'none' && time.nowMs - deletedAtMs >= time.graceMs);
  const expired: ManifestRef[] = [];
  for (const { ref, point, deletedAtMs } of deleted) {
    if (isExpired(deletedAtMs) && !(await isGuarded(repository, ref))) expired.push(ref);
    else keep(point);
  }
  manifests.condemn(expired.map(({ pointId }) => pointId));
  await index.putNote(CLOCK_NOTE, { seenMs: time.nowMs, doubt: clockDoubt } satisfies ClockNote);
  return { maps, chunks, expired, staleCopies, keptDeletedPoints: deleted.length - expired.length, clockDoubt };
}

/** Deleting refuses a held or locked point; one that is among the deleted all the same is not removed for good. */
async function isGuarded({ guards }: Repository, ref: ManifestRef): Promise<boolean> {
  const { hold, lock } = await guards.inForce(ref);
  return hold !== undefined || lock !== undefined;
}

interface ClockNote {
  readonly seenMs: number;
  readonly doubt: ClockDoubt;
}

/**
 * A wrong clock must not end grace periods. A time before what was seen is not believed, nor one that lies after it by
 * more than half a grace period, unless the collection before this one had seen the same jump.
 */
function doubtOf(
  time: { readonly nowMs: number; readonly graceMs: number },
  newestMs: number,
  before: ClockNote,
): ClockDoubt {
  if (time.nowMs < newestMs - CLOCK_TOLERANCE_MS) return 'backward';
  return time.nowMs - newestMs > time.graceMs / 2 && before.doubt !== 'forward' ? 'forward' : 'none';
}

async function seenBefore(index: ManagedIndex): Promise<ClockNote> {
  const note = (await index.note(CLOCK_NOTE)) as ClockNote | undefined;
  return note ?? { seenMs: 0, doubt: 'none' };
}
