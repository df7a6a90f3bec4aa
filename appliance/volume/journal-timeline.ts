// SPDX-License-Identifier: Apache-2.0
import type { Fold, Moment } from './journal-event.ts';
import type { Bookmark, Gap, JournalHistory, Stretch } from './journal-history.ts';
import type { JournalParts } from './journal-part.ts';
import { listWrites } from './journal-writes.ts';
import { CELL_US, type RateBucket, RateCounts } from './write-rates.ts';

export interface TimelineRange {
  readonly fromUs?: number;
  readonly toUs?: number;
  /** How many spans the writes are counted in: at most this many. Default 60; 0 counts nothing, and reads nothing. */
  readonly buckets?: number;
}

/** What a journal holds in a span of time. Stretches and gaps are those that touch it, whole. */
export interface Timeline {
  readonly fromUs: number;
  readonly toUs: number;
  readonly stretches: readonly Stretch[];
  readonly gaps: readonly Gap[];
  readonly bookmarks: readonly Bookmark[];
  /** The marked moments of interval stretches. */
  readonly moments: readonly Moment[];
  /** Moments that a recovery point holds. */
  readonly folds: readonly Fold[];
  /** Exact while the time has few records; counted by cells of 10 s, and none shorter, otherwise. */
  readonly buckets: readonly RateBucket[];
}

export interface TimelineSource {
  readonly history: JournalHistory;
  readonly parts: JournalParts;
  readonly now: Moment;
}

const DEFAULT_BUCKETS = 60;
const MAX_BUCKETS = 10_000;
/** So many records are counted one by one. */
const MAX_EXACT_RECORDS = 200_000;

/** WRITE_LOG_CORRUPT, IO_FAILED when headers have to be read. */
export async function timelineOf(source: TimelineSource, range: TimelineRange): Promise<Timeline> {
  const { history, parts, now } = source;
  const fromUs = range.fromUs ?? parts.first?.firstTimeUs ?? now.timeUs;
  const toUs = Math.max(fromUs, range.toUs ?? now.timeUs);
  const isInside = ({ timeUs }: Moment): boolean => timeUs >= fromUs && timeUs <= toUs;
  const touches = (begin: Moment, end: Moment | undefined): boolean =>
    begin.timeUs <= toUs && (end === undefined || end.timeUs >= fromUs);
  const buckets = Math.min(MAX_BUCKETS, Math.max(0, Math.floor(range.buckets ?? DEFAULT_BUCKETS)));
  return {
    fromUs,
    toUs,
    stretches: history.stretchesAt(now).filter(({ begin, end }) => touches(begin, end)),
    gaps: history.gapsAt(now).filter(({ begin, end }) => touches(begin, end)),
    bookmarks: history.bookmarks().filter(({ moment }) => isInside(moment)),
    moments: history.moments().filter(isInside),
    folds: history.knownFolds.filter(isInside),
    buckets: buckets === 0 ? [] : await bucketsOf(parts, { fromUs, toUs }, buckets),
  };
}

async function bucketsOf(
  parts: JournalParts,
  span: { readonly fromUs: number; readonly toUs: number },
  most: number,
): Promise<RateBucket[]> {
  const touched = parts.all.filter((part) => part.lastTimeUs >= span.fromUs && part.firstTimeUs <= span.toUs);
  const records = touched.reduce((sum, part) => sum + part.lastSequence - part.firstSequence + 1, 0);
  if (records <= MAX_EXACT_RECORDS) {
    const counts = new RateCounts(span, most);
    for await (const write of listWrites(parts, span)) {
      counts.add(write.timeUs, 1, write.kind === 'write' ? write.length : 0);
    }
    return counts.buckets();
  }
  const cells = Math.max(1, Math.floor((span.toUs - span.fromUs) / CELL_US));
  const counts = new RateCounts(span, Math.min(most, cells));
  for (const part of touched) part.rates.addTo(counts);
  return counts.buckets();
}
