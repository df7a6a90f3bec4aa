// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../../core/clock.ts';
import type { BookmarkBatch, BookmarkQueue } from './bookmark-queue.ts';
import type { CycleWish, IntervalCycle, SessionDisk, SessionJournal, SessionMoment, SessionStorage } from './ports.ts';
import type { RoundStop } from './session-state.ts';

export interface IntervalParts {
  readonly clock: Clock;
  readonly journal: SessionJournal;
  readonly storage: SessionStorage;
  readonly disks: readonly SessionDisk[];
  readonly stop: RoundStop;
  /** From here on the state can be recovered; libvirt may take long to end its job. */
  readonly onKept: (state: KeptState) => void;
}

/** A state that can be recovered. */
export interface KeptState {
  readonly moment: SessionMoment;
  readonly changedBytes: number;
}

export interface IntervalRoundParts extends IntervalParts {
  readonly intervalMs: number;
  readonly bookmarks: BookmarkQueue;
  /** After each state that is kept. */
  readonly onState: (state: KeptState) => Promise<void>;
}

/** A state each interval, until the round is stopped. The stretch begins with the first state. */
export async function takeIntervals(parts: IntervalRoundParts): Promise<void> {
  const { clock, journal, stop, bookmarks, intervalMs } = parts;
  let isBegun = false;
  try {
    while (stop.end === undefined) {
      const startedMs = clock.elapsedMs();
      const batch = bookmarks.take();
      using _ = { [Symbol.dispose]: () => batch.refuse(stop.end?.reason ?? 'the interval failed') };
      const cycle = await parts.storage.cycle(parts.disks, { kind: 'interval', isAfterBreak: !isBegun }, stop.signal);
      const begin = async (): Promise<void> => {
        if (!isBegun) await journal.beginStretch('interval');
        isBegun = true;
      };
      await parts.onState(await keep({ cycle, journal, begin, onKept: parts.onKept, batch }));
      await pauseFor(parts, intervalMs - (clock.elapsedMs() - startedMs));
    }
  } finally {
    bookmarks.refuse(stop.end?.reason ?? 'an interval failed');
    if (isBegun) await journal.endStretch(stop.end?.reason ?? 'an interval failed');
  }
}

/** One state from what the hypervisor kept account of, as a stretch of its own. Errors as `SessionStorage.cycle`. */
export async function catchUp(parts: IntervalParts, endReason: (cycle: IntervalCycle) => string): Promise<KeptState> {
  const { journal, storage, disks, stop } = parts;
  const wish: CycleWish = { kind: 'catch-up', isAfterBreak: true };
  const cycle = await storage.cycle(disks, wish, stop.signal);
  let isBegun = false;
  try {
    const begin = async (): Promise<void> => {
      await journal.beginStretch('interval');
      isBegun = true;
    };
    return await keep({ cycle, journal, begin, onKept: parts.onKept });
  } finally {
    if (isBegun) await journal.endStretch(endReason(cycle));
  }
}

interface Keeping {
  readonly cycle: IntervalCycle;
  readonly journal: SessionJournal;
  readonly begin: () => Promise<void>;
  readonly onKept: (state: KeptState) => void;
  readonly batch?: BookmarkBatch;
}

/** Marks what a cycle has read, and makes it the base of the next one when it is durable. */
async function keep({ cycle, journal, begin, onKept, batch }: Keeping): Promise<KeptState> {
  try {
    await begin();
    const moment = await journal.markMoment(Math.floor(cycle.takenAtMs * 1000));
    await batch?.mark((name, consistency) => journal.bookmark(name, consistency));
    await journal.flush();
    const state = { moment, changedBytes: cycle.changedBytes };
    onKept(state);
    await cycle.commit();
    return state;
  } finally {
    await cycle.abandon();
  }
}

async function pauseFor({ stop, bookmarks }: IntervalRoundParts, ms: number): Promise<void> {
  if (ms <= 0) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([promise, stop.promise, bookmarks.hurry]);
  clearTimeout(timer);
}
