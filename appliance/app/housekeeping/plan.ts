// SPDX-License-Identifier: Apache-2.0

/** What the appliance does for its repository by itself. */
export type Chore = 'collection' | 'scrub';

export const CHORES: readonly Chore[] = ['collection', 'scrub'];

/** How the last time went. Times are in milliseconds since the Unix epoch, by a clock that may have leapt since. */
export interface ChoreRecord {
  readonly startedMs: number;
  readonly endedMs: number;
  /** Since the last success, this time included. */
  readonly failures: number;
  /** In words, of the last failure; null after a success. */
  readonly problem: string | null;
}

export interface HousekeepingFacts {
  readonly nowMs: number;
  /** When this process began to look. */
  readonly upSinceMs: number;
  /** The repository's file system is nearly full: what can be freed is freed sooner. */
  readonly isSpaceLow: boolean;
}

const MINUTE_MS = 60_000;
const HOUR_MS: number = 60 * MINUTE_MS;
const DAY_MS: number = 24 * HOUR_MS;

/** After a start, backups that were missed and machines that wait for their disks come first. */
export const SETTLE_MS: number = 10 * MINUTE_MS;
const COLLECTION_INTERVAL_MS: number = DAY_MS;
const LOW_SPACE_INTERVAL_MS: number = 6 * HOUR_MS;
const SCRUB_INTERVAL_MS: number = DAY_MS;
/** After the first failure; doubled with each further one, up to the interval. */
const RETRY_MS: number = HOUR_MS;
/** Every byte is read once in so many slices, one each day. */
export const SCRUB_ROUND_SLICES = 28;

/** When a chore is to be done next; never in the past of `upSinceMs`. A clock that was set back delays nothing: what lies ahead of it is due. */
export function dueMs(chore: Chore, last: ChoreRecord | undefined, facts: HousekeepingFacts): number {
  const settledMs = facts.upSinceMs + SETTLE_MS;
  if (last === undefined || last.endedMs > facts.nowMs) return settledMs;
  const intervalMs = intervalOf(chore, facts);
  const waitMs = last.failures === 0 ? intervalMs : Math.min(intervalMs, RETRY_MS * 2 ** (last.failures - 1));
  return Math.max(settledMs, last.endedMs + waitMs);
}

/** The chore that is due longest, or undefined when none is. */
export function nextChore(
  records: Readonly<Partial<Record<Chore, ChoreRecord>>>,
  facts: HousekeepingFacts,
): Chore | undefined {
  const due = CHORES.map((chore) => ({ chore, atMs: dueMs(chore, records[chore], facts) }));
  return due.filter(({ atMs }) => atMs <= facts.nowMs).toSorted((a, b) => a.atMs - b.atMs)[0]?.chore;
}

/** Stored bytes of one slice, so that a round over all of them is done in `SCRUB_ROUND_SLICES`. */
export function sliceBytes(storedBytes: number): number {
  return Math.max(1, Math.ceil(storedBytes / SCRUB_ROUND_SLICES));
}

function intervalOf(chore: Chore, { isSpaceLow }: HousekeepingFacts): number {
  if (chore === 'scrub') return SCRUB_INTERVAL_MS;
  return isSpaceLow ? LOW_SPACE_INTERVAL_MS : COLLECTION_INTERVAL_MS;
}
