// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { Consistency } from '../repository/manifest.ts';
import type { Fold, JournalEvent, Moment, StretchKind } from './journal-event.ts';

/** An unbroken part of a journal. */
export interface Stretch {
  readonly kind: StretchKind;
  /** The first state that can be opened. */
  readonly begin: Moment;
  /** The last one; while it is open, that of now. */
  readonly end: Moment;
  readonly isOpen: boolean;
  readonly endReason: string | undefined;
}

/** What lies between two stretches, or behind the last one: no state in between is offered. */
export interface Gap {
  readonly begin: Moment;
  /** Undefined while it lasts. */
  readonly end: Moment | undefined;
  /** Why the stretch before it ended. */
  readonly reason: string;
}

export interface Bookmark {
  readonly name: string;
  readonly moment: Moment;
  readonly consistency: Consistency;
}

interface StretchState {
  readonly kind: StretchKind;
  begin: Moment;
  end: Moment | undefined;
  endReason: string | undefined;
  /** For intervals: the states that can be opened, in order. */
  moments: Moment[];
}

/** Reason of a stretch whose end was never written. */
const INTERRUPTED = 'interrupted';

/**
 * What the events of a journal mean, in the order in which they stand in the log: stretches, gaps, moments, bookmarks and
 * folds. Pure: it never reads the log.
 */
export class JournalHistory {
  private stretches: StretchState[] = [];
  private marks: Bookmark[] = [];
  private folds: Fold[] = [];

  /** The newest fold. */
  get lastFold(): Fold | undefined {
    return this.folds.at(-1);
  }

  /** All folds that the log still knows, in order. */
  get knownFolds(): readonly Fold[] {
    return this.folds;
  }

  get openStretch(): { readonly kind: StretchKind; readonly begin: Moment } | undefined {
    const last = this.stretches.at(-1);
    return last?.end === undefined ? last : undefined;
  }

  /** Takes an event in, which stands in the log at `here`. */
  apply(event: JournalEvent, here: Moment): void {
    switch (event.event) {
      case 'stretch-begins':
        this.end(here, INTERRUPTED);
        this.stretches.push({ kind: event.kind, begin: here, end: undefined, endReason: undefined, moments: [] });
        return;
      case 'stretch-ends':
        this.end(event.at ?? here, event.reason);
        return;
      case 'moment':
        this.addMoment({ sequence: here.sequence, timeUs: this.timeOfState(event.timeUs ?? here.timeUs, here) });
        return;
      case 'bookmark':
        this.marks.push({ name: event.name, moment: here, consistency: event.consistency });
        this.addMoment(here);
        return;
      case 'fold':
        this.folds.push({ pointId: event.pointId, sequence: event.sequence, timeUs: event.timeUs });
        return;
    }
  }

  /** The open stretch, if there is one, ended at `at`. */
  end(at: Moment, reason: string): void {
    const last = this.stretches.at(-1);
    if (last === undefined || last.end !== undefined) return;
    last.end = at;
    last.endReason = reason;
    // An end that is dated back takes what was named after it along.
    this.marks = this.marks.filter(({ moment }) => moment.sequence <= at.sequence);
    last.moments = last.moments.filter(({ sequence }) => sequence <= at.sequence);
  }

  /** Goes on with a stretch that began in a part of the log that is not read. */
  resume(kind: StretchKind, begin: Moment): void {
    this.stretches.push({ kind, begin, end: undefined, endReason: undefined, moments: [] });
  }

  /** Forgets everything before the oldest state that can be opened. */
  forgetBefore(oldest: Moment): void {
    const { sequence } = oldest;
    this.stretches = this.stretches.filter(({ end }) => end === undefined || end.sequence >= sequence);
    for (const stretch of this.stretches) {
      if (stretch.begin.sequence < sequence) stretch.begin = oldest;
      if ((stretch.moments[0]?.sequence ?? sequence) < sequence) {
        stretch.moments = stretch.moments.filter((moment) => moment.sequence >= sequence);
      }
    }
    this.marks = this.marks.filter(({ moment }) => moment.sequence >= sequence);
    this.folds = this.folds.filter((fold) => fold.sequence >= sequence);
  }

  /** The stretches that have a state; `now` is the end of an open one. One of intervals reaches from its first to its last. */
  stretchesAt(now: Moment): Stretch[] {
    return this.stretches.flatMap(({ kind, begin, end, endReason, moments }) => {
      const [first, last] = kind === 'interval' ? [moments[0], moments.at(-1)] : [begin, end ?? now];
      if (first === undefined || last === undefined) return [];
      return { kind, begin: first, end: last, isOpen: end === undefined, endReason };
    });
  }

  gapsAt(now: Moment): Gap[] {
    const gaps: Gap[] = [];
    const all = this.stretchesAt(now);
    for (const [index, stretch] of all.entries()) {
      if (stretch.isOpen) continue;
      gaps.push({ begin: stretch.end, end: all[index + 1]?.begin, reason: stretch.endReason ?? INTERRUPTED });
    }
    return gaps;
  }

  /** The newest state that can be opened. */
  newestAt(now: Moment): Moment | undefined {
    const stretch = this.stretches.findLast(({ kind, moments }) => kind === 'writes' || moments.length > 0);
    return stretch?.kind === 'interval' ? stretch.moments.at(-1) : stretch && (stretch.end ?? now);
  }

  bookmarks(): readonly Bookmark[] {
    return this.marks;
  }

  /** The marked moments of interval stretches. */
  moments(): Moment[] {
    return this.stretches.flatMap((stretch) => stretch.moments);
  }

  /** The marked moment of a record. */
  momentAt(sequence: number): Moment | undefined {
    return this.stretches.at(-1)?.moments.findLast((moment) => moment.sequence === sequence);
  }

  /** The newest bookmark of that name. */
  bookmark(name: string): Bookmark | undefined {
    return this.marks.findLast((mark) => mark.name === name);
  }

  /**
   * What of the history a wish falls into: the stretch and the last moment in it that counts. A wish is a moment of which
   * only the key (`sequence` or `timeUs`) matters. @throws ApplianceError MOMENT_IN_GAP, MOMENT_NOT_FOUND
   */
  locate(key: 'sequence' | 'timeUs', wanted: number, now: Moment): { kind: StretchKind; begin: Moment; end: Moment } {
    let before: Moment | undefined;
    let after: Moment | undefined;
    for (const stretch of this.stretches) {
      const end = stretch.end ?? now;
      if (stretch.kind === 'writes') {
        if (wanted >= stretch.begin[key] && wanted <= end[key]) before = stretch.begin;
        else if (wanted > end[key]) before = end;
        else after ??= stretch.begin;
      } else {
        const { moments } = stretch;
        before = moments.findLast((moment) => moment[key] <= wanted) ?? before;
        after ??= moments.find((moment) => moment[key] > wanted);
      }
    }
    const found = this.stretches.findLast(({ kind, begin, end, moments }) => {
      const [first, last] = kind === 'writes' ? [begin, end] : [moments[0], end && moments.at(-1)];
      return first !== undefined && wanted >= first[key] && wanted <= (last ?? now)[key];
    });
    if (found === undefined) throw notOffered({ [key]: wanted }, before, after, wanted > now[key]);
    if (found.kind === 'writes') return { kind: 'writes', begin: found.begin, end: found.end ?? now };
    const moment = found.moments.findLast((one) => one[key] <= wanted) ?? found.begin;
    return { kind: 'interval', begin: moment, end: moment };
  }

  /** Times go forward, whatever a clock has done: a state is later than those before it, and earlier than its mark. */
  private timeOfState(timeUs: number, here: Moment): number {
    const [before, last] = this.stretches.slice(-2);
    const earliestUs =
      (last ?? before)?.moments.at(-1)?.timeUs ?? (last === undefined ? 0 : (before?.end?.timeUs ?? 0));
    return Math.min(here.timeUs, Math.max(timeUs, earliestUs));
  }

  private addMoment(here: Moment): void {
    const last = this.stretches.at(-1);
    if (last?.end === undefined && last?.kind === 'interval') last.moments.push(here);
  }
}

function notOffered(
  wanted: Readonly<Record<string, number>>,
  before: Moment | undefined,
  after: Moment | undefined,
  isFuture: boolean,
): ApplianceError {
  const details = { wanted, before: before ?? null, after: after ?? null };
  if (before === undefined || isFuture) {
    const what = isFuture ? 'that moment is later than everything in the journal' : 'the journal begins later';
    return new ApplianceError('MOMENT_NOT_FOUND', what, { details });
  }
  const text = (moment: Moment): string => `${new Date(moment.timeUs / 1000).toISOString()} (seq ${moment.sequence})`;
  const nearest = [`nearest before: ${text(before)}`, ...(after === undefined ? [] : [`after: ${text(after)}`])];
  return new ApplianceError('MOMENT_IN_GAP', `nothing was recorded at that moment; ${nearest.join(', ')}`, { details });
}
