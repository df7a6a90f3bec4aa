// SPDX-License-Identifier: Apache-2.0
import type { DataWrite } from '../block/block-device.ts';
import { checkBookmarkName } from '../core/bookmark-name.ts';
import { type Clock, systemClock } from '../core/clock.ts';
import { makeDirectoryDurably } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Slice } from '../core/extent-map.ts';
import { type FileSystem, realFileSystem } from '../core/file-system.ts';
import type { MachineId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type { Consistency } from '../repository/manifest.ts';
import { BlockCache } from './block-cache.ts';
import { JournalContent, MAX_TABLE_BYTES, openSealedParts } from './journal-content.ts';
import { type Fold, type JournalEvent, type Moment, type StretchKind } from './journal-event.ts';
import type { JournalHistory } from './journal-history.ts';
import { forgetExpired, JournalKeeper, type KeeperOptions } from './journal-keeper.ts';
import type { JournalParts } from './journal-part.ts';
import { type Timeline, type TimelineRange, timelineOf } from './journal-timeline.ts';
import { JournalView } from './journal-view.ts';
import { listWrites, type WriteQuery } from './journal-writes.ts';
import type { WriteFact } from './record-table.ts';
import type { Sealing } from './sealing-thread.ts';
import type { Appended, DiskRange, WriteLayer, WriteSink } from './write-layer.ts';
import { WriteLog } from './write-log.ts';

export interface JournalOptions {
  /** 32 bytes: encrypt and authenticate everything. Null: checksums only. A journal keeps what it began with. */
  readonly key: Buffer | null;
  /** A journal of another machine is refused (BAD_ARGUMENT). */
  readonly machineId: MachineId;
  readonly clock?: Clock;
  readonly fileSystem?: FileSystem;
  /** A segment is not appended to beyond it; default 64 MiB. */
  readonly segmentBytes?: number;
  /** How long what a recovery point holds is kept; default 24 h. */
  readonly windowMs?: number;
  /** The oldest of it leaves earlier while the journal has more bytes. Default: no limit. */
  readonly windowBytes?: number;
  /** Memory for the headers of records that are not sealed; default `MAX_TABLE_BYTES`. The segment that is open has its own. */
  readonly tableBytes?: number;
  /** What seals segments; default: a thread for each run. */
  readonly startSealing?: () => Sealing;
  /**
   * A stretch that was open goes on, because nothing that the guest was told is complete can be missing. Default: it ended
   * with the last whole record.
   */
  readonly goesOn?: boolean;
}

/** A wish for a moment, in one of the ways in which people name one. */
export type MomentWish =
  | { readonly timeUs: number }
  | { readonly sequence: number }
  | { readonly bookmark: string }
  | 'newest';

/** Smaller than that of a log alone: what is not sealed is read when the journal is opened. */
const DEFAULT_SEGMENT_BYTES: number = 64 * 1024 * 1024;
/** The window moves on while nothing is folded, too. */
const MAINTENANCE_MS: number = 5 * 60_000;
export const DEFAULT_WINDOW_MS: number = 24 * 3_600_000;
/** Plain blocks of sealed segments that are kept in memory. */
const CACHE_BYTES: number = 32 * 1024 * 1024;
/** Longest reason that is written, in characters. */
const MAX_REASON = 500;

/**
 * What continuous protection keeps of one machine: the log of its writes, all disks in one order, and which moments of it
 * can be opened (`docs/formats/journal.md`). As a layer it is the newest state, over a base that holds everything up to
 * `foldedSequence`.
 *
 * Invariants: everything that the timeline says stands in the log; no moment is offered outside of a stretch, nor one
 * between the records of one request; the index has no record up to `foldedSequence`.
 *
 * The directory is this journal's alone. Durability and failures are those of `WriteLog`: an append that has settled
 * survives the death of the process, and after `flush` the loss of power.
 */
export class Journal implements WriteLayer, WriteSink, AsyncDisposable {
  private readonly log: WriteLog;
  private readonly content: JournalContent;
  private readonly keeper: JournalKeeper;
  private readonly clock: Clock;
  private readonly parts: JournalParts;
  private readonly history: JournalHistory;
  /** A stretch was begun, and its end was not asked for. */
  private isStretchAsked = false;
  /** The end of a stretch that must stand in the log before anything else does. */
  private owed: JournalEvent | undefined;
  private readonly maintenance: NodeJS.Timeout;
  private closing: Promise<void> | undefined;
  private settling: Promise<unknown> | undefined;

  /**
   * Opens the journal in `directory`, which is created when missing, after whatever happened to its last user: a torn tail
   * is cut, and a stretch without an end ends with the last whole record (unless it `goesOn`). Reads every byte that is not
   * sealed once.
   *
   * @throws ApplianceError WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, BAD_ARGUMENT, NO_SPACE, IO_FAILED
   */
  static async open(directory: string, options: JournalOptions): Promise<Journal> {
    const { key, fileSystem = realFileSystem, clock = systemClock } = options;
    await makeDirectoryDurably(directory, fileSystem);
    const cache = new BlockCache(CACHE_BYTES);
    const { tableBytes = MAX_TABLE_BYTES } = options;
    const content = new JournalContent({ isEncrypted: key !== null, tableBytes });
    const after = content.addSealed(await openSealedParts({ directory, fileSystem, key, cache }));
    const segmentBytes = options.segmentBytes ?? DEFAULT_SEGMENT_BYTES;
    const log = await WriteLog.open(directory, { ...options, segmentBytes, hasEvents: true, observer: content, after });
    content.segmentAt = (number) => log.segments.get(number);
    try {
      content.checkBeginning(directory);
      log.dropThrough((await content.locationOf(content.history.lastFold?.sequence ?? 0)) ?? 0);
    } catch (error) {
      await log.close();
      throw error;
    }
    const { windowMs = DEFAULT_WINDOW_MS, windowBytes = Number.POSITIVE_INFINITY } = options;
    const keeping = {
      directory,
      fileSystem,
      key,
      clock,
      windowMs,
      windowBytes,
      cache,
      startSealing: options.startSealing,
    };
    return new Journal(log, content, keeping, options.goesOn === true);
  }

  private constructor(log: WriteLog, content: JournalContent, keeping: KeeperOptions, goesOn: boolean) {
    const { parts, history } = content;
    this.log = log;
    this.clock = keeping.clock;
    this.content = content;
    this.parts = parts;
    this.history = history;
    forgetExpired(parts, history);
    this.keeper = new JournalKeeper(keeping, { log, parts, history });
    if (goesOn) this.isStretchAsked = history.openStretch !== undefined;
    else if (history.openStretch !== undefined) this.owe('interrupted');
    this.maintenance = setInterval(() => this.maintainInBackground(), MAINTENANCE_MS).unref();
  }

  /** 32 hexadecimal digits, of this journal alone. */
  get logId(): string {
    return this.log.logId.toString('hex');
  }

  /** Sequence of the newest record; 0 in an empty journal. */
  get lastSequence(): number {
    return this.log.lastSequence;
  }

  /** All records up to it are on stable storage, as far as this process knows. */
  get durableSequence(): number {
    return this.log.durableSequence;
  }

  /** A recovery point holds everything up to it; 0 before the first. */
  get foldedSequence(): number {
    return this.history.lastFold?.sequence ?? 0;
  }

  /** The newest fold: the base that the layer belongs over. */
  get lastFold(): Fold | undefined {
    return this.history.lastFold;
  }

  /** All folds on which moments of the journal rest, in order: their recovery points are needed as long. */
  get folds(): readonly Fold[] {
    return this.history.knownFolds;
  }

  /** Views begin here or later: 0, or the oldest fold once what is before has left the window. */
  get oldestBase(): number {
    return (this.parts.first?.firstSequence ?? 1) === 1 ? 0 : (this.folds[0]?.sequence ?? 0);
  }

  /** The newest state: the last record behind which no part of a request is missing. */
  get newest(): Moment {
    return this.content.lastWhole;
  }

  /** The stretch that lasts now, if one does. */
  get openStretch(): { readonly kind: StretchKind; readonly begin: Moment } | undefined {
    return this.history.openStretch;
  }

  /** Bytes of its files. */
  get sizeBytes(): number {
    return this.parts.all.reduce((sum, part) => sum + part.sizeBytes, 0);
  }

  /** Why sealing or releasing segments failed the last time, if it did; it is tried again. */
  get keepingProblem(): Error | undefined {
    return this.keeper.problem;
  }

  /** Bytes of a torn tail that were cut off at the start. */
  get tornBytes(): number {
    return this.log.tornBytes;
  }

  /** The error that ended the log, if one did. */
  get failedWith(): ApplianceError | undefined {
    return this.log.failedWith;
  }

  /** Appends a write. The buffer belongs to the journal until the promise settles. Errors: see `WriteLog`; CLOSED. */
  append(write: { disk: number; offset: number; data: Buffer }): Promise<Appended> {
    if (this.owed === undefined) return this.log.append(write);
    return this.settle().then(() => this.log.append(write));
  }

  /** As `WriteSink.appendNow`. */
  appendNow(disk: number, writes: readonly DataWrite[]): Appended | undefined {
    return this.owed === undefined ? this.log.appendNow(disk, writes) : undefined;
  }

  /** Appends that a range reads as zeroes from now on; `trim` says that the guest trimmed it. */
  appendZero(range: DiskRange, kind: 'zero' | 'trim' = 'zero'): Promise<Appended> {
    if (this.owed === undefined) return this.log.appendZero(range, kind);
    return this.settle().then(() => this.log.appendZero(range, kind));
  }

  /** Settles when everything whose append settled before this call is on stable storage. */
  flush(): Promise<void> {
    return this.log.flush();
  }

  /**
   * From here on every state (`writes`), or every marked one (`interval`), can be opened. What is appended in the same turn
   * after this call is part of the stretch. None may be open.
   */
  async beginStretch(kind: StretchKind): Promise<Moment> {
    invariant(!this.isStretchAsked, 'a stretch begins where none is open');
    this.isStretchAsked = true;
    try {
      return await this.appendEvent({ event: 'stretch-begins', kind });
    } catch (error) {
      this.isStretchAsked = false;
      throw error;
    }
  }

  /**
   * Nothing that is appended from this call on is part of the stretch, nor what came after `at`, a moment of it. When the end
   * cannot be written, it counts all the same, and stands in the log before anything else. Settles with the last moment of
   * the stretch. Without an open one it changes nothing.
   */
  async endStretch(reason: string, at?: Moment): Promise<Moment> {
    if (!this.isStretchAsked) return this.content.lastWhole;
    this.isStretchAsked = false;
    const end = at === undefined ? undefined : this.within(at);
    try {
      const ends = { event: 'stretch-ends', reason: reason.slice(0, MAX_REASON) } as const;
      const here = await this.appendEvent(end === undefined ? ends : { ...ends, at: end });
      return end ?? here;
    } catch (error) {
      if (this.history.openStretch !== undefined) this.owe(reason, end);
      throw error;
    }
  }

  /**
   * In an interval stretch: the state after everything appended so far is consistent, and can be opened. `timeUs`: when the
   * machine was in it; default: now.
   */
  async markMoment(timeUs?: number): Promise<Moment> {
    const { sequence, timeUs: nowUs } = await this.appendEvent(
      timeUs === undefined ? { event: 'moment' } : { event: 'moment', timeUs },
    );
    return this.history.momentAt(sequence) ?? { sequence, timeUs: nowUs };
  }

  /**
   * Gives this moment a name; durable when it settles. Names need not be unique: the newest counts.
   * @throws ApplianceError MOMENT_IN_GAP outside of a stretch; BAD_ARGUMENT as `checkBookmarkName`
   */
  async bookmark(name: string, consistency: Consistency): Promise<Moment> {
    checkBookmarkName(name);
    if (!this.isStretchAsked) {
      throw new ApplianceError('MOMENT_IN_GAP', 'no consistent state is recorded now, so there is nothing to bookmark');
    }
    const moment = await this.appendEvent({ event: 'bookmark', name, consistency });
    await this.flush();
    return moment;
  }

  /**
   * A recovery point holds everything up to a moment, durably: the index drops that much. `switchBase` is called in the
   * same turn, so that whoever reads the newest state puts the new base beneath it at once.
   */
  async folded(fold: { pointId: string; sequence: number }, switchBase?: () => void): Promise<void> {
    const { pointId, sequence } = fold;
    invariant(sequence >= this.foldedSequence && sequence <= this.lastSequence, 'folds go forward, and not too far');
    const timeUs = await this.timeOf(sequence);
    // Once the log says that it is folded, it may be sealed at any time.
    const location = await this.content.locationOf(sequence);
    await this.appendEvent({ event: 'fold', pointId, sequence, timeUs });
    await this.flush();
    if (location !== undefined) this.log.dropThrough(location);
    switchBase?.();
    this.maintainInBackground();
  }

  /**
   * Seals what is full, durable and folded, and releases what has left the window. It happens by itself, after each fold and
   * from time to time, and appends never wait for it. Errors: NO_SPACE, IO_FAILED, WRITE_LOG_CORRUPT; the next call goes on.
   */
  async maintain(): Promise<void> {
    // A run that is under way does not see what became ready since its start; its failure is met again.
    await this.keeper.idle();
    await this.keeper.run();
  }

  /**
   * Everything after `after` up to `upTo`, as a layer over a base that holds everything up to `after`. It keeps its files
   * until it is disposed of. @throws ApplianceError MOMENT_NOT_FOUND, WRITE_LOG_CORRUPT, IO_FAILED
   */
  async openView(after: number, upTo: number): Promise<JournalView> {
    const isThere = after >= (this.parts.first?.firstSequence ?? 1) - 1 && upTo <= this.lastSequence && after <= upTo;
    if (!isThere) {
      const details = { after, upTo, first: this.parts.first?.firstSequence ?? null, last: this.lastSequence };
      throw new ApplianceError('MOMENT_NOT_FOUND', 'the journal does not hold all that leads to that moment', {
        details,
      });
    }
    return await JournalView.open({ after, upTo }, this.parts.between(after + 1, upTo));
  }

  /** What the journal holds, over a span of time (default: all of it, up to now). */
  async timeline(range: TimelineRange = {}): Promise<Timeline> {
    return await timelineOf({ history: this.history, parts: this.parts, now: this.now() }, range);
  }

  /**
   * The moment that a wish means: for a time or a sequence, the last state that is not later.
   * @throws ApplianceError MOMENT_IN_GAP (details: `before` and `after`, the nearest moments), MOMENT_NOT_FOUND
   */
  async resolve(wish: MomentWish): Promise<Moment> {
    if (wish === 'newest') {
      const newest = this.history.newestAt(this.now());
      if (newest === undefined) throw new ApplianceError('MOMENT_NOT_FOUND', 'the journal has no consistent state yet');
      return await this.resolve({ sequence: newest.sequence });
    }
    if ('bookmark' in wish) {
      const found = this.history.bookmark(wish.bookmark);
      if (found !== undefined) return found.moment;
      const names = this.history.bookmarks().map(({ name }) => name);
      throw new ApplianceError('MOMENT_NOT_FOUND', `no bookmark is called ${JSON.stringify(wish.bookmark)}`, {
        details: { bookmarks: names.slice(-20) },
        hint: names.length === 0 ? 'The journal has no bookmarks.' : `The newest ones are ${quoted(names.slice(-5))}.`,
      });
    }
    const now = this.now();
    if ('sequence' in wish) {
      const { kind, begin } = this.history.locate('sequence', wish.sequence, now);
      return kind === 'interval' ? begin : await this.wholeAt(wish.sequence, begin);
    }
    const { kind, begin, end } = this.history.locate('timeUs', wish.timeUs, now);
    if (kind === 'interval') return begin;
    const part = this.parts.withTime(wish.timeUs);
    const sequence = (await part?.table())?.lastAt(wish.timeUs) ?? begin.sequence;
    return await this.wholeAt(Math.min(Math.max(sequence, begin.sequence), end.sequence), begin);
  }

  /** The changes of disks that a query asks for, in order. WRITE_LOG_CORRUPT, IO_FAILED. */
  writes(query: WriteQuery = {}): AsyncGenerator<WriteFact, void, undefined> {
    return listWrites(this.parts, query);
  }

  slices(place: DiskRange): Slice<number>[] {
    return this.log.slices(place);
  }

  sliceIterator(place: DiskRange): Generator<Slice<number>, void, undefined> {
    return this.log.sliceIterator(place);
  }

  read(location: number, from: number, into: Buffer): Promise<void> {
    return this.log.read(location, from, into);
  }

  readCached(location: number, from: number, into: Buffer): boolean {
    return this.log.readCached(location, from, into);
  }

  /** Flushes unless the log has failed, and closes its files. An open stretch stays without an end. Idempotent. */
  close(): Promise<void> {
    clearInterval(this.maintenance);
    this.closing ??= this.keeper.close().then(() => this.log.close());
    return this.closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private maintainInBackground(): void {
    // Its failure stands in `keepingProblem`, and the next run goes on.
    this.keeper.run().catch(() => undefined);
  }

  private now(): Moment {
    const timeUs = Math.max(Math.floor(this.clock.nowMs() * 1000), this.content.lastWhole.timeUs);
    return { sequence: this.content.lastWhole.sequence, timeUs };
  }

  private async appendEvent(event: JournalEvent): Promise<Moment> {
    if (this.owed !== undefined) await this.settle();
    return await this.log.appendEvent(event);
  }

  /** The open stretch ended with the last whole record, or before; nothing may follow in the log before that stands there. */
  private owe(reason: string, at: Moment = this.content.lastWhole): void {
    this.history.end(at, reason);
    this.owed = { event: 'stretch-ends', reason: reason.slice(0, MAX_REASON), at };
  }

  /**
   * The moment, or the nearest one of the open stretch that no recovery point is later than, nor a bookmark for which the guest
   * was frozen: its mirrors were looked at then, and nothing was written since.
   */
  private within(at: Moment): Moment {
    const { openStretch, lastFold } = this.history;
    const frozen = this.history.bookmarks().findLast(({ consistency }) => consistency !== 'crash-consistent');
    const earliest = [openStretch?.begin, lastFold, frozen?.moment].filter((moment) => moment !== undefined);
    return [at, ...earliest].reduce((latest, { sequence, timeUs }) =>
      sequence > latest.sequence ? { sequence, timeUs } : latest,
    );
  }

  private settle(): Promise<unknown> {
    this.settling ??= this.writeOwed();
    return this.settling;
  }

  private async writeOwed(): Promise<void> {
    try {
      if (this.owed !== undefined) await this.log.appendEvent(this.owed);
      this.owed = undefined;
    } finally {
      this.settling = undefined;
    }
  }

  private async timeOf(sequence: number): Promise<number> {
    return (await this.parts.withSequence(sequence)?.table())?.timeOf(sequence) ?? 0;
  }

  /** The last state up to `sequence` between whose records none is missing; `first` is one. */
  private async wholeAt(sequence: number, first: Moment): Promise<Moment> {
    for (let at = sequence; at > first.sequence; ) {
      const table = await this.parts.withSequence(at)?.table();
      if (table === undefined) break;
      while (at > first.sequence && table.has(at)) {
        if (!table.continues(at)) return { sequence: at, timeUs: table.timeOf(at) };
        at -= 1;
      }
    }
    return first;
  }
}

function quoted(names: readonly string[]): string {
  return names.map((name) => JSON.stringify(name)).join(', ');
}
