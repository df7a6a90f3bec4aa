// SPDX-License-Identifier: Apache-2.0
import { checkBookmarkName } from '../core/bookmark-name.ts';
import { type FreezableGuest, type FreezeMarker, withFrozenGuest } from './quiesce.ts';

/** What a bookmark can promise of the state that it names. */
export type BookmarkConsistency = 'crash-consistent' | 'file-system-consistent';

export interface BookmarkRequest<Moment> {
  readonly guest: FreezableGuest;
  /** Where the freeze is noted, for whoever comes after a process that died in it. */
  readonly marker: FreezeMarker;
  readonly name: string;
  /** Names the newest state of the journal, durably. @throws ApplianceError MOMENT_IN_GAP, NO_SPACE, … */
  readonly mark: (name: string, consistency: BookmarkConsistency) => Promise<Moment>;
}

export interface Bookmarked<Moment> {
  readonly moment: Moment;
  readonly consistency: BookmarkConsistency;
  /** Sentences: what of freezing did not work. */
  readonly notices: readonly string[];
}

/**
 * Names a moment at which the guest's file systems are frozen: everything that they had in memory has been written by then,
 * and a write is in the journal before the guest sees it complete. A guest that cannot be frozen is bookmarked all the same,
 * as crash-consistent. When it turns out afterwards that the guest was thawed too early, the name moves to a second,
 * crash-consistent bookmark behind the first, since the newest of a name counts.
 * @throws as `checkBookmarkName`, before anything is frozen; what `mark` throws; the guest is thawed in every case
 */
export async function bookmarkFrozen<Moment>(request: BookmarkRequest<Moment>): Promise<Bookmarked<Moment>> {
  const { guest, marker, name, mark } = request;
  checkBookmarkName(name);
  const { result, isFrozen, notices } = await withFrozenGuest(guest, marker, async (wasFrozen) => {
    const consistency = wasFrozen ? 'file-system-consistent' : 'crash-consistent';
    return { moment: await mark(name, consistency), consistency } as const;
  });
  if (isFrozen || result.consistency === 'crash-consistent') return { ...result, notices };
  return { moment: await mark(name, 'crash-consistent'), consistency: 'crash-consistent', notices };
}
