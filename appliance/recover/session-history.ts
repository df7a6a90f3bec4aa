// SPDX-License-Identifier: Apache-2.0
import { readFile } from 'node:fs/promises';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { PointDisk, RecoveryPoint } from '../repository/manifest.ts';
import { foldJournal, hasChanges, type JournalPoint, type PointFile } from '../volume/fold-journal.ts';
import { DEFAULT_FOLD_LIMITS, FOLDED, type FoldLimits, FoldSchedule } from '../volume/fold-schedule.ts';
import { Journal } from '../volume/journal.ts';
import type { Moment } from '../volume/journal-event.ts';
import { ReplaceableDevice } from '../volume/replaceable-device.ts';
import type { RecoverParts } from './context.ts';
import { listedMachine, originOf } from './origin-point.ts';
import { Overlay } from './overlay.ts';
import { NVRAM_ATTACHMENT, openPointDevice, readAttachment } from './point-content.ts';
import type { SessionRegistry } from './session-registry.ts';
import type { Session, SessionStore } from './session-store.ts';
import { StageLog } from './stage-log.ts';

export interface HistoryParts {
  readonly parts: Pick<RecoverParts, 'repository' | 'catalog' | 'clock'>;
  readonly store: SessionStore;
  readonly registry: SessionRegistry;
  readonly limits?: FoldLimits;
}

/** Folding stands still but for its holder. */
export interface FoldingHold extends Disposable {
  /** As `SessionHistory.foldNow`. */
  foldNow(reason: string): Promise<RecoveryPoint>;
}

/** No hypervisor can tell what changed since a point of a booted machine: its disks are ours. */
export const NO_TRACKER: Readonly<Record<string, string>> = { kind: 'none' };

/**
 * What makes a booted machine a protected one: its journal, and the recovery points beneath it, which are listed under its
 * own name. Its disks are the base with the journal's live index on top, hence: foldedSequence = base.journal.sequence.
 *
 * The base that counts is the one that the session's directory names (`base.json`): it is stored there before the journal
 * hears of it, and an opening tells the journal what it missed. So a fold, and a rewind, is there as a whole or not at all.
 */
export class SessionHistory implements AsyncDisposable {
  readonly session: Session;
  readonly journal: Journal;
  readonly log: StageLog;
  readonly overlay: Overlay;
  readonly #with: HistoryParts;
  readonly #bases: ReadonlyMap<string, ReplaceableDevice>;
  readonly #schedule: FoldSchedule;
  readonly #abort = new AbortController();
  #base: JournalPoint;
  #holds = 0;
  /** Folds follow one another in the journal: each begins when the one before has ended. Never rejects. */
  #lastFold: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  /**
   * Opens what the session's directory holds, or begins it: the first base is the point that the machine is booted from.
   * @throws ApplianceError WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, NO_SPACE, IO_FAILED
   */
  static async open(given: HistoryParts, session: Session): Promise<SessionHistory> {
    const { store, registry } = given;
    const { repository, catalog, clock } = given.parts;
    const { point } = session;
    await using undo = new AsyncDisposableStack();
    const journal = undo.use(
      await Journal.open(store.logDirectoryOf(session), {
        key: repository.keys.isEncrypted ? repository.keys.logRoot : null,
        machineId: point.machine.id,
        clock,
        goesOn: session.phase === 'running' || session.phase === 'rewinding',
      }),
    );
    let base = await store.base(session);
    if (base === undefined) {
      base = originOf(session, { logId: journal.logId, machine: await listedMachine(catalog, session) });
      await registry.putBase(session, base);
      // Of an earlier version, whose logs had no events: what it holds now is a state that can be opened.
      if (journal.lastSequence > 0) await markNewest(journal, session.phase === 'running');
    }
    checkBase(journal, base, store.directoryOf(session));
    const { sequence } = base.journal;
    if (journal.lastFold?.pointId !== base.id) await journal.folded({ pointId: base.id, sequence });
    undo.move();
    return new SessionHistory(given, session, journal, base);
  }

  private constructor(given: HistoryParts, session: Session, journal: Journal, base: JournalPoint) {
    const { clock, repository } = given.parts;
    this.#with = given;
    this.session = session;
    this.journal = journal;
    this.#base = base;
    this.#bases = new Map(
      base.disks.map((disk) => [disk.name, new ReplaceableDevice(openPointDevice(repository, disk))] as const),
    );
    this.log = new StageLog(journal, session.migration !== undefined);
    this.overlay = new Overlay(this.log, session.point, (disk) => this.#baseOf(disk));
    this.#schedule = new FoldSchedule(clock, given.limits ?? DEFAULT_FOLD_LIMITS, journal);
  }

  /** The recovery point beneath the journal. */
  get base(): JournalPoint {
    return this.#base;
  }

  get lastFoldMs(): number | null {
    return this.#schedule.lastFoldMs;
  }

  get foldProblem(): string | null {
    return this.#schedule.problem;
  }

  /** True while somebody needs the live index as it is. */
  get isHeld(): boolean {
    return this.#holds > 0;
  }

  /** Makes the first base a recovery point that is listed, unless it is. Errors of repository and catalog. */
  async list(): Promise<void> {
    const { repository, catalog } = this.#with.parts;
    const base = this.#base;
    if (base.journal.sequence > 0) return;
    if (await repository.manifests.has({ machineId: base.machine.id, pointId: base.id })) return;
    await repository.manifests.put(base);
    await catalog.putPoint(base);
  }

  /** Folds in the background when it is time to. Problems are kept, and the next time tries again. */
  foldIfDue(): void {
    if (this.#holds > 0 || this.#closing !== undefined || !this.log.isWhole || !this.#schedule.isDue()) return;
    this.#fold(FOLDED).catch(() => undefined);
  }

  /**
   * Makes a recovery point of the newest state, which becomes the base; the base when that is the newest state.
   * @throws ApplianceError DOMAIN_BUSY while the disks go elsewhere, LOCKED while folding is held; those of repository, catalog
   *   and journal
   */
  async foldNow(reason: string): Promise<RecoveryPoint> {
    if (this.isHeld) throw new ApplianceError('LOCKED', `what ${this.session.name} has written is being copied`);
    return this.#foldWhole(reason);
  }

  /** Nothing is folded until the result is disposed of, but through it: the live index keeps what it has. */
  async holdFolding(): Promise<FoldingHold> {
    this.#holds += 1;
    await this.#lastFold;
    return {
      foldNow: (reason) => this.#foldWhole(reason),
      [Symbol.dispose]: () => {
        this.#holds -= 1;
      },
    };
  }

  /**
   * From here on the disks are the state of a recovery point, which has its place behind everything in the journal. The step
   * that counts is one file taking the place of another. @throws ApplianceError NO_SPACE, IO_FAILED
   */
  async adopt(point: JournalPoint): Promise<void> {
    const { registry } = this.#with;
    await registry.putBase(this.session, point);
    const { sequence } = point.journal;
    await this.journal.folded({ pointId: point.id, sequence }, () => this.#switchTo(point));
  }

  /** What the next point of this machine comes after. */
  async newest(): Promise<Pick<RecoveryPoint, 'machine' | 'sequence'>> {
    const { machine } = this.#base;
    const own = (await this.#with.parts.catalog.points()).filter((point) => point.machine.id === machine.id);
    return { machine, sequence: own.reduce((most, { sequence }) => Math.max(most, sequence), this.#base.sequence) };
  }

  /** Settles when nothing of it runs any more; a stretch that lasts stays open. Idempotent. */
  close(): Promise<void> {
    this.#abort.abort(new ApplianceError('ABORTED', 'the machine is let go'));
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #finish(): Promise<void> {
    await this.#lastFold;
    await this.overlay.close();
    await this.journal.close();
  }

  #baseOf(disk: PointDisk): ReplaceableDevice {
    const device = this.#bases.get(disk.name);
    if (device === undefined) throw new ApplianceError('DISK_NOT_FOUND', `the base has no disk ${disk.name}`);
    return device;
  }

  #switchTo(point: JournalPoint): void {
    this.#base = point;
    for (const disk of point.disks) this.#baseOf(disk).replace(openPointDevice(this.#with.parts.repository, disk));
  }

  async #foldWhole(reason: string): Promise<RecoveryPoint> {
    if (!this.log.isWhole) throw new ApplianceError('DOMAIN_BUSY', 'the disks of the machine are being moved');
    return (await this.#fold(reason)) ?? this.#base;
  }

  #fold(reason: string): Promise<RecoveryPoint | undefined> {
    const folding = this.#lastFold.then(() =>
      this.#schedule.run(this.journal.newest, (upTo) => this.#foldUpTo(upTo, reason)),
    );
    this.#lastFold = folding.catch(() => undefined);
    return folding;
  }

  async #foldUpTo(upTo: Moment, reason: string): Promise<RecoveryPoint | undefined> {
    const { repository, catalog, clock } = this.#with.parts;
    const { journal } = this;
    const base = this.#base;
    await this.list();
    if (upTo.sequence <= base.journal.sequence) return undefined;
    // The point says that it holds every record up to a number: none of them may be lost and its number used again.
    await journal.flush();
    await using layer = await journal.openView(base.journal.sequence, upTo.sequence);
    if (!hasChanges(layer, base)) return undefined;
    const point = await foldJournal({
      repository,
      catalog,
      clock,
      base,
      newest: await this.newest(),
      layer,
      upTo,
      reason,
      attachments: await this.#files(base),
      tracker: NO_TRACKER,
      signal: this.#abort.signal,
    });
    await this.adopt(point);
    return point;
  }

  /** Those of the base, with the variables of the firmware as they are now; undefined when it has none. */
  async #files({ attachments }: JournalPoint): Promise<PointFile[] | undefined> {
    const { store, parts } = this.#with;
    let nvram: Buffer;
    const path = store.nvramPathOf(this.session);
    try {
      nvram = await readFile(path);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw storageError(error, 'read', path);
    }
    const files: PointFile[] = [];
    for (const attachment of attachments) {
      const isNvram = attachment.name === NVRAM_ATTACHMENT;
      files.push({
        name: attachment.name,
        bytes: isNvram ? nvram : await readAttachment(parts.repository, attachment),
      });
    }
    return files;
  }
}

async function markNewest(journal: Journal, isRunning: boolean): Promise<void> {
  await journal.beginStretch('writes');
  if (!isRunning) await journal.endStretch('the machine was stopped');
}

function checkBase(journal: Journal, { id, journal: place }: JournalPoint, directory: string): void {
  const { foldedSequence, lastSequence, logId } = journal;
  const fits = place.logId === logId && place.sequence >= foldedSequence && place.sequence <= lastSequence;
  if (fits) return;
  throw new ApplianceError('WRITE_LOG_CORRUPT', `the journal in ${directory} does not belong over its base ${id}`, {
    details: { directory, base: id, sequence: place.sequence, foldedSequence, lastSequence },
  });
}
