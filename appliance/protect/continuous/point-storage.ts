// SPDX-License-Identifier: Apache-2.0

import type { BlockDevice } from '../../block/block-device.ts';
import { checked } from '../../block/checked-device.ts';
import { unaligned } from '../../block/unaligned-device.ts';
import type { Catalog } from '../../catalog/catalog.ts';
import type { BackupSource, PreviousState, SourceAttachment } from '../../cbt/source.ts';
import type { Clock } from '../../core/clock.ts';
import { keyFromHex } from '../../core/content-id.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import type { Range } from '../../core/extents.ts';
import type { MachineId } from '../../core/ids.ts';
import { type RecoveryPoint, rootsOf } from '../../repository/manifest.ts';
import type { Repository } from '../../repository/repository.ts';
import { foldJournal, hasChanges, isOfJournal, type JournalPoint } from '../../volume/fold-journal.ts';
import { loggedDevice } from '../../volume/logged-device.ts';
import { PointDevice } from '../../volume/point-device.ts';
import type { WriteLayer } from '../../volume/write-layer.ts';
import type { JournalPlace } from '../backup-run.ts';
import type { CyclePosition } from './cycle-position.ts';
import { HeldChunks } from './held-chunks.ts';
import { byPlace, hasDisks, numbering } from './journal-disks.ts';
import type { CycleWish, IntervalCycle, SessionDisk, SessionJournal, SessionMoment, SessionStorage } from './ports.ts';

import { type RecordedRanges, readChanges, recordedRanges } from './read-changes.ts';
import type { KnownContent } from './seeding-target.ts';

/** The journal as folding needs it. */
export interface FoldableJournal extends SessionJournal, WriteLayer {
  readonly logId: string;
  /** The live index has what came after it; the base of the volume holds this much at least. */
  readonly foldedSequence: number;
  /** Everything after `after` up to `upTo`. */
  openView(after: number, upTo: number): Promise<WriteLayer & AsyncDisposable>;
  /** `switchBase` is called in the turn in which the live index drops what the point holds. */
  folded(fold: { pointId: string; sequence: number }, switchBase: () => void): Promise<void>;
}

export interface CycleStart {
  /** Undefined: everything is read. */
  readonly position: PreviousState | undefined;
  /** The newest point of the journal: an ordinary backup continues from its position, which stays. */
  readonly base: RecoveryPoint;
}

/** The ways to the machine that making points needs. */
export interface PointSources {
  /** An ordinary backup, with a place in the journal. */
  backUp(place: JournalPlace, signal: AbortSignal): Promise<RecoveryPoint>;
  /** Runs what makes a point, alone; with the machine's newest point. */
  exclusively<T>(work: (newest: RecoveryPoint | undefined) => Promise<T>): Promise<T>;
  /** What changed since a position of the tracker; everything without one. */
  openCycle(from: CycleStart, signal: AbortSignal): Promise<BackupSource>;
  /** The machine's definition and firmware variables; undefined when they cannot be read now. */
  attachments(): Promise<SourceAttachment[] | undefined>;
  /** The position of the last cycle, kept through restarts. */
  loadPosition(): Promise<CyclePosition | undefined>;
  savePosition(position: CyclePosition): Promise<void>;
  forgetPosition(): Promise<void>;
  /** A position of now, beside those that there are; undefined where a disk cannot have one. */
  newPosition(): Promise<PreviousState | undefined>;
  /** Removes all positions of ours at the hypervisor but these. */
  dropPositionsBut(keep: readonly PreviousState[]): Promise<void>;
  /** As `SessionStorage.releaseMachine`. */
  release(signal: AbortSignal): Promise<void>;
  onWait(listener: (reason: string) => void): void;
}

export interface PointStorageParts {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly clock: Clock;
  readonly machineId: MachineId;
  readonly journal: FoldableJournal;
  readonly sources: PointSources;
  /** Hears of each point that is made here, once it is one. */
  readonly onPoint?: (point: RecoveryPoint) => void;
}

/**
 * The recovery points beneath a journal, over a real repository. The volume of a disk is the base point with the journal's
 * live index on top, hence: foldedSequence <= base.journal.sequence <= lastSequence.
 */
export class PointStorage implements SessionStorage, Disposable {
  readonly #parts: PointStorageParts;
  #base: JournalPoint | undefined;
  #held: Disposable | undefined;
  /** What looks for a base, or makes one, ends before the next begins. Never rejects. */
  #lastBase: Promise<unknown> = Promise.resolve();
  readonly #volumes = new Map<string, BlockDevice>();
  readonly #heldChunks = new Map<string, HeldChunks>();

  constructor(parts: PointStorageParts) {
    this.#parts = parts;
  }

  /** The point that the volume stands on now. */
  get base(): RecoveryPoint | undefined {
    return this.#base;
  }

  hasBase(disks: readonly SessionDisk[]): Promise<boolean> {
    return this.#alone(() => this.#findBase(disks));
  }

  makeBase(disks: readonly SessionDisk[], signal: AbortSignal): Promise<RecoveryPoint> {
    return this.#alone(() => this.#makeBase(disks, signal));
  }

  async #findBase(disks: readonly SessionDisk[]): Promise<boolean> {
    if (this.#base !== undefined && hasDisks(this.#base, disks)) return true;
    const { journal } = this.#parts;
    const points = await this.#journalPoints();
    refuseOldCopy(journal, points);
    const fits = points.filter(
      (point) =>
        point.journal.sequence >= journal.foldedSequence &&
        point.journal.sequence <= journal.lastSequence &&
        hasDisks(point, disks),
    );
    for (const point of fits.sort(byPlace).reverse()) {
      const adopt = await this.#hold(point);
      if (adopt === undefined) continue;
      const { sequence } = point.journal;
      // The process died between the two: what comes now is written over this point, and no older one is its base.
      if (sequence > journal.foldedSequence) await journal.folded({ pointId: point.id, sequence }, adopt);
      else adopt();
      return true;
    }
    return false;
  }

  async #makeBase(disks: readonly SessionDisk[], signal: AbortSignal): Promise<RecoveryPoint> {
    const { journal, sources } = this.#parts;
    const numbers = numbering(await this.#journalPoints());
    // A place of its own: the state that is saved now is later than that of any record before.
    const { sequence } = await journal.markMoment();
    const { logId } = journal;
    const place: JournalPlace = (ofPoint, takenAtMs) => ({
      logId,
      sequence,
      timeUs: Math.floor(takenAtMs * 1000),
      disks: Object.fromEntries(ofPoint.map((disk) => [disk.name, numbers(disk)])),
    });
    await journal.flush();
    const point = await sources.backUp(place, signal);
    if (!isOfJournal(point) || !hasDisks(point, disks)) {
      throw new ApplianceError('SOURCE_CHANGED', 'the disks of the machine changed while its base was made');
    }
    const adopt = await this.#hold(point);
    if (adopt === undefined) throw new ApplianceError('POINT_NOT_FOUND', `${point.id} was deleted at once`);
    await journal.folded({ pointId: point.id, sequence }, adopt);
    // The backup left a position of its own, and removed the one before.
    await sources.savePosition({ tracker: point.tracker, disks: point.disks, journal: { logId, sequence } });
    this.#parts.onPoint?.(point);
    return point;
  }

  logDiskOf(disk: string): number {
    const number = this.#base?.journal.disks[disk];
    if (number === undefined) throw new ApplianceError('DISK_NOT_FOUND', `the base has no disk ${disk}`);
    return number;
  }

  volume(disk: string): BlockDevice {
    const known = this.#volumes.get(disk);
    if (known !== undefined) return known;
    const { repository, journal } = this.#parts;
    const found = this.#base?.disks.find(({ name }) => name === disk);
    if (found === undefined) throw new ApplianceError('DISK_NOT_FOUND', `the base has no disk ${disk}`);
    const base = new PointDevice({
      reader: repository.reader,
      chunkBytes: repository.chunkBytes,
      root: keyFromHex(found.root),
      sizeBytes: found.sizeBytes,
    });
    const volume = loggedDevice({ base: unaligned(checked(base)), log: journal, disk: this.logDiskOf(disk) });
    this.#volumes.set(disk, volume);
    return volume;
  }

  known(disk: string): KnownContent {
    const { repository, journal } = this.#parts;
    return {
      chunkBytes: repository.chunkBytes,
      holds: (offset, data) => {
        // The base of now, with the index of now: a fold changes both in one turn.
        const root = this.#base?.disks.find(({ name }) => name === disk)?.root;
        if (root === undefined) return Promise.resolve(false);
        let held = this.#heldChunks.get(disk);
        held ??= new HeldChunks(repository, journal, { root: keyFromHex(root), disk: this.logDiskOf(disk) });
        this.#heldChunks.set(disk, held);
        return held.holds(offset, data);
      },
    };
  }

  fold(upTo: SessionMoment, reason: string, signal: AbortSignal): Promise<RecoveryPoint | undefined> {
    return this.#alone(() => this.#fold(upTo, reason, signal));
  }

  async #fold(upTo: SessionMoment, reason: string, signal: AbortSignal): Promise<RecoveryPoint | undefined> {
    const { repository, catalog, clock, journal, sources } = this.#parts;
    const base = this.#base;
    if (base === undefined || upTo.sequence <= base.journal.sequence) return undefined;
    // The point says that it holds every record up to a number: none of them may be lost and its number used again.
    await journal.flush();
    await using layer = await journal.openView(base.journal.sequence, upTo.sequence);
    if (!hasChanges(layer, base)) return undefined;
    const attachments = await sources.attachments();
    const position = await this.#position(upTo);
    const point = await sources.exclusively((newest = base) =>
      foldJournal({
        repository,
        catalog,
        clock,
        base,
        newest,
        layer,
        upTo,
        reason,
        attachments,
        tracker: position?.tracker ?? base.tracker,
        signal,
      }),
    );
    const adopt = await this.#hold(point);
    if (adopt !== undefined) await journal.folded({ pointId: point.id, sequence: upTo.sequence }, adopt);
    this.#parts.onPoint?.(point);
    return point;
  }

  async cycle(disks: readonly SessionDisk[], wish: CycleWish, signal: AbortSignal): Promise<IntervalCycle> {
    const { sources, journal } = this.#parts;
    const base = this.#base;
    if (base === undefined) throw new ApplianceError('INTERNAL', 'a cycle needs a base');
    const position = await this.#position(journal.newest);
    const recorded = await this.#recordedSince(position);
    if (wish.kind === 'catch-up' && recorded === undefined) {
      throw new ApplianceError('TRACKER_FAILED', 'there is no position from which on the journal has every record');
    }
    const source = await sources.openCycle({ position: recorded && position, base }, signal);
    try {
      const names = disks.map(({ name }) => name).sort();
      if (JSON.stringify(source.disks.map(({ name }) => name).sort()) !== JSON.stringify(names)) {
        throw new ApplianceError('SOURCE_CHANGED', 'the disks of the machine changed');
      }
      const volume = (disk: string): BlockDevice => this.volume(disk);
      const changedBytes = await readChanges({ source, volume, recorded: recorded ?? new Map(), wish, signal });
      await source.assertAlive();
      const { logId, lastSequence: sequence } = journal;
      return {
        changedBytes,
        takenAtMs: source.takenAtMs,
        commit: async () => {
          await sources.savePosition({
            tracker: source.tracker,
            disks: positionDisks(source),
            journal: { logId, sequence },
          });
          await source.commit();
        },
        abandon: async () => source[Symbol.asyncDispose](),
      };
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  }

  async newPosition(): Promise<CyclePosition | undefined> {
    const { sources, journal } = this.#parts;
    const { logId, lastSequence: sequence } = journal;
    const position = await sources.newPosition();
    return position && { ...position, journal: { logId, sequence } };
  }

  adoptPosition(position: CyclePosition, newer: CyclePosition): Promise<void> {
    const { sources, journal } = this.#parts;
    // All that the disks had then has come, and more.
    const { sequence: newerAfter } = position.journal;
    const { logId, lastSequence: sequence } = journal;
    return this.#alone(async () => {
      await journal.flush();
      await sources.savePosition({ ...position, journal: { logId, sequence, newerAfter } });
      // An ordinary backup would continue from the position of the newest point.
      await sources.dropPositionsBut([position, newer, ...(this.#base === undefined ? [] : [this.#base])]);
    });
  }

  releaseMachine(signal: AbortSignal): Promise<void> {
    return this.#parts.sources.release(signal);
  }

  onWait(listener: (reason: string) => void): void {
    this.#parts.sources.onWait(listener);
  }

  [Symbol.dispose](): void {
    this.#held?.[Symbol.dispose]();
    this.#held = undefined;
  }

  /** Bases follow one another in the journal: two that were made at once could not. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#lastBase.then(work);
    this.#lastBase = done.catch(() => undefined);
    return done;
  }

  /**
   * The last position, if a state of the journal holds what was there then. Another cycle may have come after the state; and a
   * journal that was put back from a copy lacks what the position counts on.
   */
  async #position({ sequence }: SessionMoment): Promise<CyclePosition | undefined> {
    const { sources, journal } = this.#parts;
    const position = await sources.loadPosition();
    const isHeld = position?.journal.logId === journal.logId && position.journal.sequence <= journal.lastSequence;
    if (isHeld) return position.journal.sequence <= sequence ? position : undefined;
    // Never again, also when the journal has come as far once more.
    if (position !== undefined) await sources.forgetPosition();
    return undefined;
  }

  /**
   * What the journal wrote into each disk since a position. The tracker would name all of it, unless the disk is an older
   * copy that was put back, account and all. Undefined when the journal cannot tell.
   */
  async #recordedSince(position: CyclePosition | undefined): Promise<RecordedRanges | undefined> {
    const { journal } = this.#parts;
    if (position === undefined) return undefined;
    const { sequence, newerAfter = sequence } = position.journal;
    const ranges = new Map<string, readonly Range[]>();
    try {
      await using layer = await journal.openView(newerAfter, journal.lastSequence);
      for (const { name, sizeBytes } of this.#base?.disks ?? []) {
        ranges.set(name, recordedRanges(layer, this.logDiskOf(name), sizeBytes));
      }
      return ranges;
    } catch (error) {
      // It has left the window.
      if (hasCode(error, 'MOMENT_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  /** Holds a point. What makes it the base, and lets go of the one before; undefined when the point was deleted. */
  async #hold(point: JournalPoint): Promise<(() => void) | undefined> {
    const { repository, machineId } = this.#parts;
    const hold = repository.hold(rootsOf(point));
    if (!(await repository.manifests.has({ machineId, pointId: point.id }))) {
      hold[Symbol.dispose]();
      return undefined;
    }
    return () => {
      this.#held?.[Symbol.dispose]();
      this.#held = hold;
      this.#base = point;
      this.#volumes.clear();
      this.#heldChunks.clear();
    };
  }

  async #journalPoints(): Promise<JournalPoint[]> {
    const { catalog, machineId, journal } = this.#parts;
    const points = (await catalog.points()).filter(isOfJournal);
    return points.filter(({ machine, journal: place }) => machine.id === machineId && place.logId === journal.logId);
  }
}

/** What a point says that the journal holds was on stable storage before the point was made. */
function refuseOldCopy({ lastSequence, logId }: FoldableJournal, points: readonly JournalPoint[]): void {
  const ahead = points.find(({ journal }) => journal.sequence > lastSequence);
  if (ahead === undefined) return;
  const { id, journal } = ahead;
  throw new ApplianceError(
    'WRITE_LOG_CORRUPT',
    `the journal ends with record ${lastSequence}, and the recovery point ${id} has its record ${journal.sequence}: it is an older copy`,
    {
      details: { logId, lastSequence, point: id, sequence: journal.sequence },
      hint: "End the service and move the machine's directory out of `journals/` in the state directory: a new journal begins then.",
    },
  );
}

function positionDisks({ disks }: BackupSource): PreviousState['disks'] {
  return disks.map(({ name, device, identity }) => ({ name, sizeBytes: device.sizeBytes, identity }));
}
