// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { renameDurably, syncDirectory, temporaryPath } from '../core/durable-file.ts';
import { toError } from '../core/errors.ts';
import { type FileSystem, isSystemError, type OpenFile, readExactly, storageError } from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import type { BlockCache } from './block-cache.ts';
import type { JournalHistory } from './journal-history.ts';
import type { JournalParts } from './journal-part.ts';
import { RawPart } from './raw-part.ts';
import { SealedPart, sealedName } from './sealed-part.ts';
import { type Sealing, SealingThread } from './sealing-thread.ts';
import type { SealingTask } from './segment-sealer.ts';
import { WindowClock } from './window-clock.ts';
import type { WriteLog } from './write-log.ts';
import { SALT_BYTES, SEGMENT_HEADER_BYTES } from './write-log-format.ts';
import type { Segment } from './write-log-segment.ts';

export interface KeeperOptions {
  readonly directory: string;
  readonly fileSystem: FileSystem;
  readonly key: Buffer | null;
  readonly clock: Clock;
  /** What is older leaves, as far as a recovery point holds it. */
  readonly windowMs: number;
  /** So do the oldest parts while there is more than this. */
  readonly windowBytes: number;
  readonly cache: BlockCache;
  /** Default: a thread. */
  readonly startSealing: (() => Sealing) | undefined;
}

/** What the keeper works on. */
export interface KeptJournal {
  readonly log: WriteLog;
  readonly parts: JournalParts;
  readonly history: JournalHistory;
}

/** A segment goes to the thread in pieces of this length. */
const PIECE_BYTES: number = 1024 * 1024;
/** Whoever looked up a place in a segment before it was folded has this long to read it. */
const RETIREMENT_MS = 30_000;
/** A segment with older records is ended, so that it can be sealed and leave. */
const MAX_OPEN_MS = 3_600_000;

/**
 * Seals the segments of a journal that are full, durable and wholly folded, and removes those that have left the window. One
 * run at a time, oldest first; appends never wait for it.
 *
 * Invariants: sealed parts are a prefix of the journal; a raw file is removed only after its sealed form is durable and was
 * opened; a sealed file is removed only when a recovery point holds all of it, nobody holds it, and a sealed one follows.
 */
export class JournalKeeper {
  private readonly options: KeeperOptions;
  private readonly journal: KeptJournal;
  private readonly window: WindowClock;
  private retired: { readonly part: RawPart; readonly sinceMs: number }[] = [];
  /** Files that nothing refers to any more. */
  private readonly leftovers: string[] = [];
  private running: Promise<void> | undefined;
  private isClosing = false;
  private lastProblem: Error | undefined;

  constructor(options: KeeperOptions, journal: KeptJournal) {
    this.options = options;
    this.journal = journal;
    this.window = new WindowClock(options.clock, options.windowMs, journal.parts.last?.lastTimeUs);
  }

  /** Why the last run ended early, if it did. */
  get problem(): Error | undefined {
    return this.lastProblem;
  }

  /** One run, or the one that is under way. Rejects with what ended it early; the next one goes on there. */
  run(): Promise<void> {
    this.running ??= this.runOnce();
    return this.running;
  }

  /** Settles when no run is under way. Never rejects. */
  async idle(): Promise<void> {
    await this.running?.catch(() => undefined);
  }

  /** Settles when nothing of it runs any more; a run ends after the segment that it is at. */
  async close(): Promise<void> {
    this.isClosing = true;
    // Its starter has heard of a failure.
    await this.idle();
  }

  private async runOnce(): Promise<void> {
    try {
      await this.removeLeftovers();
      this.closeRetired();
      this.endOldSegment();
      await this.sealFolded();
      await this.expire();
      this.lastProblem = undefined;
    } catch (error) {
      this.lastProblem = toError(error);
      throw this.lastProblem;
    } finally {
      this.running = undefined;
    }
  }

  private closeRetired(): void {
    const nowMs = this.options.clock.elapsedMs();
    this.retired = this.retired.filter(({ part, sinceMs }) => {
      if (nowMs - sinceMs < RETIREMENT_MS) return true;
      const segment = this.journal.log.detachSegment(part.number);
      if (segment !== undefined) part.release(segment);
      return false;
    });
  }

  private endOldSegment(): void {
    const { log, parts } = this.journal;
    const { last } = parts;
    const oldestUs = (this.options.clock.nowMs() - MAX_OPEN_MS) * 1000;
    if (last !== undefined && last.number === log.openSegment && last.firstTimeUs < oldestUs) log.endSegment();
  }

  private async sealFolded(): Promise<void> {
    const raw = this.journal.parts.all.filter((part) => part instanceof RawPart);
    const [oldest] = raw;
    // A log that was just opened has flushed nothing yet.
    if (oldest !== undefined && this.isFolded(oldest) && !this.isDurable(oldest)) await this.journal.log.flush();
    const ready = raw.slice(
      0,
      countWhile(raw, (part) => this.isReady(part)),
    );
    if (ready.length === 0) return;
    await using thread = this.options.startSealing?.() ?? new SealingThread();
    for (const part of ready) {
      if (this.isClosing) return;
      await this.removeEmptyBefore(part.number);
      await this.seal(part, thread);
    }
  }

  private isReady(part: RawPart): boolean {
    return this.isFolded(part) && this.isDurable(part);
  }

  /** Full, and held by a recovery point. */
  private isFolded(part: RawPart): boolean {
    const { log, history } = this.journal;
    return part.number !== log.openSegment && part.lastSequence <= (history.lastFold?.sequence ?? 0);
  }

  private isDurable(part: RawPart): boolean {
    return part.lastSequence <= this.journal.log.durableSequence;
  }

  /** Segments that never got a record stay behind after crashes. */
  private async removeEmptyBefore(number: number): Promise<void> {
    const { log, parts } = this.journal;
    const used = new Set(parts.all.map((part) => part.number));
    const retired = new Set(this.retired.map(({ part }) => part.number));
    for (const other of log.segments.keys()) {
      if (other >= number || used.has(other) || retired.has(other)) continue;
      const segment = log.detachSegment(other);
      if (segment === undefined) continue;
      await segment.file.close();
      await this.remove(segment.path);
    }
  }

  private async seal(part: RawPart, thread: Sealing): Promise<void> {
    const { directory, fileSystem, key, cache, clock } = this.options;
    const { parts, log } = this.journal;
    const segment = log.segments.get(part.number);
    invariant(segment !== undefined, 'a raw part has its segment');
    const before = parts.all.findLast((other) => other.number < part.number);
    invariant(before === undefined || before instanceof SealedPart, 'sealed parts are a prefix');
    const task: SealingTask = {
      key,
      header: segment.header,
      salt: randomBytes(SALT_BYTES),
      before: before?.after() ?? { lastWhole: { sequence: 0, timeUs: 0 }, stretch: null },
    };
    const temporary = temporaryPath(directory);
    const path = join(directory, sealedName(part.number));
    try {
      await this.write(temporary, segment, task, thread);
      await renameDurably(temporary, path, fileSystem);
    } catch (error) {
      await this.forget(temporary);
      throw error;
    }
    const sealed = await SealedPart.open({ fileSystem, path, key, cache });
    const isWhole = sealed.firstSequence === part.firstSequence && sealed.lastSequence === part.lastSequence;
    invariant(isWhole, 'a sealed segment has every record');
    parts.replace(sealed);
    part.forgetTable();
    this.retired.push({ part, sinceMs: clock.elapsedMs() });
    await this.remove(segment.path);
  }

  private async write(path: string, segment: Segment, task: SealingTask, thread: Sealing): Promise<void> {
    const { fileSystem } = this.options;
    let at = 0;
    let file: OpenFile | undefined;
    const put = async (blocks: readonly Buffer[]): Promise<void> => {
      if (blocks.length === 0) return;
      await file?.write(blocks, at);
      for (const block of blocks) at += block.length;
    };
    try {
      const rawBytes = await segment.file.sizeBytes();
      file = await fileSystem.open(path, 'create');
      await put(await thread.begin(task));
      for (let position = SEGMENT_HEADER_BYTES; position < rawBytes; position += PIECE_BYTES) {
        const piece = new ArrayBuffer(Math.min(PIECE_BYTES, rawBytes - position));
        await readExactly(segment.file, Buffer.from(piece), position, segment.path);
        await put(await thread.feed(piece));
      }
      await put(await thread.finish());
      await file.syncData();
    } catch (error) {
      throw storageError(error, 'seal', segment.path);
    } finally {
      await file?.close();
    }
  }

  /** Removes what lies before the window, as far as it may leave, oldest first. */
  private async expire(): Promise<void> {
    const { parts, history } = this.journal;
    const boundary = this.boundary();
    for (;;) {
      const [first, second] = parts.all;
      if (!(first instanceof SealedPart && second instanceof SealedPart)) break;
      if (first.lastSequence > boundary || first.isHeld || this.isClosing) break;
      parts.removeFirst();
      await this.remove(first.path);
    }
    forgetExpired(parts, history);
  }

  /** The newest fold that the window can begin with: everything up to it may leave. */
  private boundary(): number {
    const { parts, history } = this.journal;
    const { windowBytes } = this.options;
    const oldestUs = this.window.oldestUs();
    let boundary = 0;
    for (const fold of history.knownFolds) {
      const keptBytes = parts.all.reduce((sum, part) => (part.lastSequence > boundary ? sum + part.sizeBytes : sum), 0);
      if (fold.timeUs > oldestUs && keptBytes <= windowBytes) break;
      boundary = fold.sequence;
    }
    return boundary;
  }

  /** Removes a file for good; while that fails nothing else is sealed or removed. */
  private async remove(path: string): Promise<void> {
    this.leftovers.push(path);
    await this.removeLeftovers();
  }

  /** In order and one by one, so that neither a failure nor a loss of power can leave a gap. */
  private async removeLeftovers(): Promise<void> {
    const { directory, fileSystem } = this.options;
    for (let path = this.leftovers[0]; path !== undefined; path = this.leftovers[0]) {
      try {
        await fileSystem.unlink(path);
      } catch (error) {
        // Gone already, when it was the sync that failed the last time.
        if (!isSystemError(error, 'ENOENT')) throw storageError(error, 'remove', path);
      }
      await syncDirectory(directory, fileSystem);
      this.leftovers.shift();
    }
  }

  /** Removes what a failed sealing left, if that can be had; the next start does it otherwise. */
  private async forget(path: string): Promise<void> {
    try {
      await this.options.fileSystem.unlink(path);
    } catch {
      // There was nothing, or it stays until the next start; the first failure is the one to tell.
    }
  }
}

/** What lies before the oldest state that can still be opened is forgotten. */
export function forgetExpired(parts: JournalParts, history: JournalHistory): void {
  const first = parts.first?.firstSequence ?? 1;
  if (first === 1) return;
  const oldest = history.knownFolds.find(({ sequence }) => sequence >= first - 1);
  if (oldest !== undefined) history.forgetBefore({ sequence: oldest.sequence, timeUs: oldest.timeUs });
}

function countWhile<T>(items: readonly T[], isWanted: (item: T) => boolean): number {
  const end = items.findIndex((item) => !isWanted(item));
  return end === -1 ? items.length : end;
}
