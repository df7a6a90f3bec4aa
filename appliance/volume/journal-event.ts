// SPDX-License-Identifier: Apache-2.0
import type { Consistency } from '../repository/manifest.ts';

/** A place in a journal: the state after the record `sequence`. */
export interface Moment {
  readonly sequence: number;
  /** Time of that record, in microseconds since the Unix epoch. */
  readonly timeUs: number;
}

/** `writes`: every prefix can be opened. `interval`: the marked moments and the bookmarks can. */
export type StretchKind = 'writes' | 'interval';

/** A recovery point that holds everything up to a moment. */
export interface Fold extends Moment {
  readonly pointId: string;
}

/** What a journal writes about itself into its log, as JSON. */
export type JournalEvent =
  | { readonly event: 'stretch-begins'; readonly kind: StretchKind }
  /** `at`: where it ended, when that is not this record: it was interrupted, and this is written when the log goes on. */
  | { readonly event: 'stretch-ends'; readonly reason: string; readonly at?: Moment }
  /** `timeUs`: when the machine was in the state, which was read and written later. */
  | { readonly event: 'moment'; readonly timeUs?: number }
  | { readonly event: 'bookmark'; readonly name: string; readonly consistency: Consistency }
  | { readonly event: 'fold'; readonly pointId: string; readonly sequence: number; readonly timeUs: number };

/** An event of a record's payload; undefined for one that this version does not know. */
export function parseJournalEvent(payload: Buffer): JournalEvent | undefined {
  const value: unknown = parseJson(payload);
  if (!isObject(value)) return undefined;
  switch (value['event']) {
    case 'stretch-begins': {
      const kind = value['kind'];
      return kind === 'writes' || kind === 'interval' ? { event: 'stretch-begins', kind } : undefined;
    }
    case 'stretch-ends': {
      const { reason, at } = value as { reason?: unknown; at?: unknown };
      if (typeof reason !== 'string' || (at !== undefined && !isMoment(at))) return undefined;
      return { event: 'stretch-ends', reason, ...(at === undefined ? {} : { at }) };
    }
    case 'moment': {
      const { timeUs } = value as { timeUs?: unknown };
      if (timeUs === undefined) return { event: 'moment' };
      return typeof timeUs === 'number' && Number.isSafeInteger(timeUs) ? { event: 'moment', timeUs } : undefined;
    }
    case 'bookmark': {
      const { name, consistency } = value as { name?: unknown; consistency?: unknown };
      return typeof name === 'string' && isConsistency(consistency)
        ? { event: 'bookmark', name, consistency }
        : undefined;
    }
    case 'fold': {
      const { pointId } = value as { pointId?: unknown };
      if (typeof pointId !== 'string' || !isMoment(value)) return undefined;
      return { event: 'fold', pointId, sequence: value.sequence, timeUs: value.timeUs };
    }
    default:
      return undefined;
  }
}

function parseJson(payload: Buffer): unknown {
  try {
    return JSON.parse(payload.toString('utf8'));
  } catch {
    // The record is intact, so that another version wrote it: it is as unknown as an unknown event.
    return undefined;
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function isMoment(value: unknown): value is Moment {
  return isObject(value) && Number.isSafeInteger(value['sequence']) && Number.isSafeInteger(value['timeUs']);
}

function isConsistency(value: unknown): value is Consistency {
  return value === 'crash-consistent' || value === 'file-system-consistent' || value === 'application-consistent';
}
