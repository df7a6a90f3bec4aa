// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Catalog } from '../../catalog/catalog.ts';
import { type Bookmarked, bookmarkFrozen } from '../../cbt/bookmark.ts';
import { MachineWatch } from '../../cbt/machine-watch.ts';
import { MirrorLines } from '../../cbt/mirror-lines.ts';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';
import type { MachineId } from '../../core/ids.ts';
import { type HostUptime, hostUptime } from '../../core/uptime.ts';
import type { LibvirtConnection } from '../../hypervisor/libvirt/connection.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { Repository } from '../../repository/repository.ts';
import { Journal } from '../../volume/journal.ts';
import type { ProtectService } from '../protect-service.ts';
import { MachineSources } from './machine-sources.ts';
import { type Pause, restOfPause } from './passed-time.ts';
import { PointStorage } from './point-storage.ts';
import type { SessionMoment } from './ports.ts';
import type { ProtectionRecord, ProtectionRecords } from './protection-record.ts';
import { ContinuousSession, type SessionStatus } from './session.ts';
import type { SessionSettings } from './session-settings.ts';
import type { StateChange } from './session-state.ts';

/** What continuous protection works with. All of it is owned by whoever made it. */
export interface ContinuousParts {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly protect: ProtectService;
  readonly clock: Clock;
  /** Absolute and short: sockets lie there. */
  readonly runtimeDirectory: string;
  /** Absolute. Journals live in `journals/<machine>` beneath it. */
  readonly stateDirectory: string;
  readonly scratchDirectory: string;
  /** Calls for one machine may wait for calls for it, and for few others'. */
  readonly connect: (uri: string, machineId?: MachineId) => Promise<LibvirtConnection>;
  readonly settings: SessionSettings;
  readonly onNotice: (sentence: string) => void;
  /** Default: the host's. */
  readonly uptime?: () => HostUptime;
  /** Hears of each point that a session makes. */
  readonly onPoint?: (point: RecoveryPoint) => void;
  /** Hears of each state that the protection of a machine goes into. */
  readonly onState?: (machineId: MachineId, change: StateChange) => void;
}

const REOPEN_MS = 2_000;
const MAX_REOPEN_MS = 60_000;
/** Of the machine's id, in the name of its socket. */
const ID_DIGITS = 16;

/** One protected machine: its record, its journal (opened when first needed) and, in the service, its session. */
export class ProtectedMachine {
  readonly directory: string;
  readonly #parts: ContinuousParts;
  readonly #records: ProtectionRecords;
  #record: ProtectionRecord;
  #journal: Promise<Journal> | undefined;
  /** Settles when the journal before is closed. Never rejects. */
  #closingJournal: Promise<void> = Promise.resolve();
  #storage: PointStorage | undefined;
  #session: ContinuousSession | undefined;
  #starting: Promise<void> | undefined;
  #reopening: NodeJS.Timeout | undefined;
  #resuming: NodeJS.Timeout | undefined;
  #failures = 0;
  #isClosed = false;

  constructor(parts: ContinuousParts, records: ProtectionRecords, record: ProtectionRecord) {
    this.#parts = parts;
    this.#records = records;
    this.#record = record;
    this.directory = join(parts.stateDirectory, 'journals', record.machineId);
  }

  get record(): ProtectionRecord {
    return this.#record;
  }

  set record(record: ProtectionRecord) {
    this.#record = record;
  }

  get status(): SessionStatus | undefined {
    return this.#session?.status();
  }

  /** The point that the session's volume stands on. */
  get base(): RecoveryPoint | undefined {
    return this.#storage?.base;
  }

  /**
   * The one journal over the directory: another is opened only when that is closed, and none once `close` was called.
   * @throws ApplianceError LOCKED, WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, NO_SPACE, IO_FAILED
   */
  journal(): Promise<Journal> {
    const { repository, clock } = this.#parts;
    const { machineId, name, windowMs, windowBytes } = this.#record;
    if (this.#isClosed) {
      const hint = 'Try again in a moment.';
      return Promise.reject(new ApplianceError('LOCKED', `the protection of ${name} is being changed`, { hint }));
    }
    const key = repository.keys.isEncrypted ? repository.keys.logRoot : null;
    if (this.#journal !== undefined) return this.#journal;
    const window = {
      ...(windowMs === undefined ? {} : { windowMs }),
      ...(windowBytes === undefined ? {} : { windowBytes }),
    };
    const options = { key, machineId, clock, ...window };
    const opening = this.#closingJournal.then(() => Journal.open(this.directory, options));
    this.#journal = opening;
    opening.catch(() => {
      if (this.#journal === opening) this.#journal = undefined;
    });
    return opening;
  }

  /** Begins the session. Errors as `journal`. */
  async start(): Promise<void> {
    if (this.#session !== undefined || this.#isClosed) return;
    this.#starting ??= this.#start();
    try {
      await this.#starting;
      this.#failures = 0;
    } finally {
      this.#starting = undefined;
    }
  }

  /** The same, again and again until it works; problems are said. */
  startWhenPossible(): void {
    void this.#reopen();
  }

  async #start(): Promise<void> {
    const { clock, repository, catalog, settings } = this.#parts;
    const journal = await this.journal();
    const { machineId, intervalMs, durability } = this.#record;
    const connect = (): Promise<LibvirtConnection> => this.#parts.connect(this.#record.connect, machineId);
    const { protect, runtimeDirectory, scratchDirectory, stateDirectory, onNotice } = this.#parts;
    const sources = new MachineSources({
      record: this.#record,
      records: this.#records,
      protect,
      repositoryId: repository.config.id,
      clock,
      runtimeDirectory,
      scratchDirectory,
      connect,
      onNotice,
    });
    this.#storage = new PointStorage({
      repository,
      catalog,
      clock,
      machineId,
      journal,
      sources,
      onPoint: (point) => this.#parts.onPoint?.(point),
    });
    const lastMoment = await newestMoment(journal);
    const watch = await MachineWatch.open({ connect, uuid: machineId });
    if (this.#isClosed) return await watch.close();
    this.#session = new ContinuousSession({
      clock,
      settings: { ...settings, intervalMs, durability },
      watch,
      lines: new MirrorLines({
        watch,
        socketPath: join(runtimeDirectory, `mirror-${machineId.replaceAll('-', '').slice(0, ID_DIGITS)}.sock`),
        ownDirectories: [runtimeDirectory, stateDirectory],
      }),
      journal,
      storage: this.#storage,
      lastMoment,
      onChange: (change) => this.#changed(change, journal),
    });
    this.#goOnPausing();
    this.#session.start();
  }

  /** @throws ApplianceError DOMAIN_BUSY, and those of folding */
  async foldNow(reason: string): Promise<RecoveryPoint | undefined> {
    if (this.#session === undefined) throw new ApplianceError('DOMAIN_BUSY', 'the session is not running');
    return (await this.#session.foldNow(reason)) ?? this.base;
  }

  /** Names a moment at which the guest is frozen. @throws ApplianceError DOMAIN_BUSY, and as `bookmarkFrozen` */
  async bookmark(name: string): Promise<Bookmarked<SessionMoment>> {
    const session = this.#session;
    if (session === undefined) throw new ApplianceError('DOMAIN_BUSY', 'the session is not running');
    const { machineId, connect: connectUri } = this.#record;
    const { change } = session.status();
    if (change.state !== 'protected') {
      throw new ApplianceError('DOMAIN_BUSY', `there is no consistent state now: ${change.reason}`);
    }
    const guest = await (await this.#parts.connect(connectUri)).domainByUuid(machineId);
    return bookmarkFrozen({
      guest,
      marker: this.#parts.protect.freezeMarker({ connectUri, machine: machineId }),
      name,
      mark: (text, consistency) => session.bookmark(text, consistency),
    });
  }

  /** Until `resume`, or so long, through restarts of the service. Durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED */
  async pause(reason: string, forMs?: number): Promise<void> {
    const at = new Date(this.#parts.clock.nowMs()).toISOString();
    const pause: Pause = { reason, ...(forMs === undefined ? {} : { forMs }), at, since: this.#uptime() };
    const record = { ...this.#record, pause };
    await this.#records.put(record);
    this.#record = record;
    this.#resumeAfter(forMs);
    await this.#session?.pause(reason);
  }

  /** Errors as `pause`; then it stays paused. */
  async resume(): Promise<void> {
    const { pause, ...record } = this.#record;
    if (pause !== undefined) await this.#records.put(record);
    this.#record = record;
    clearTimeout(this.#resuming);
    this.#session?.resume();
  }

  /** Ends session and journal; what they were stays. Idempotent. */
  async close(reason: string): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#reopening);
    clearTimeout(this.#resuming);
    await Promise.allSettled([this.#starting]);
    await this.#end(reason);
  }

  /** Ends everything and removes the journal. */
  async removeJournal(): Promise<void> {
    await this.close('protection has ended');
    await rm(this.directory, { recursive: true, force: true }).catch((error: unknown) => {
      throw storageError(error, 'remove', this.directory);
    });
  }

  /** A session begins as the one before was told. */
  #goOnPausing(): void {
    const { pause } = this.#record;
    if (pause === undefined) return;
    const restMs = restOfPause(pause, this.#parts.clock.nowMs(), this.#uptime());
    void this.#session?.pause(pause.reason);
    this.#resumeAfter(restMs);
  }

  #resumeAfter(restMs: number | undefined): void {
    clearTimeout(this.#resuming);
    if (restMs !== undefined) this.#resuming = setTimeout(() => void this.#resumeByItself(), restMs).unref();
  }

  async #resumeByItself(): Promise<void> {
    try {
      await this.resume();
    } catch (error) {
      // The next start finds that its time has passed.
      this.#parts.onNotice(`that the pause of ${this.#record.name} is over was not kept: ${toError(error).message}`);
      this.#session?.resume();
    }
  }

  #uptime(): HostUptime {
    return (this.#parts.uptime ?? hostUptime)();
  }

  async #end(reason: string): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    await session?.close(reason);
    this.#storage?.[Symbol.dispose]();
    this.#storage = undefined;
    const journal = this.#journal;
    this.#journal = undefined;
    const closing = journal?.then(
      (opened) => opened.close(),
      () => undefined,
    );
    if (closing !== undefined) this.#closingJournal = closing.catch(() => undefined);
    await closing;
  }

  #changed(change: StateChange, journal: Journal): void {
    const { state, mode, reason } = change;
    this.#parts.onNotice(`${this.#record.name}: ${state} (${mode}): ${reason}`);
    this.#parts.onState?.(this.#record.machineId, change);
    if (journal.failedWith === undefined || this.#isClosed) return;
    // A log that failed stays failed; only opening it again tells what is on the disk.
    this.#reopenLater();
  }

  #reopenLater(): void {
    if (this.#reopening !== undefined || this.#isClosed) return;
    const waitMs = Math.min(MAX_REOPEN_MS, REOPEN_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#reopening = setTimeout(() => void this.#reopen(), waitMs);
  }

  async #reopen(): Promise<void> {
    this.#reopening = undefined;
    try {
      // What it failed with was said when it failed.
      await this.#end('the journal is opened anew').catch(() => undefined);
      await this.start();
    } catch (error) {
      if (!this.#isClosed) this.#parts.onNotice(`${this.#record.name} is not protected: ${toError(error).message}`);
      this.#reopenLater();
    }
  }
}

async function newestMoment(journal: Journal): Promise<SessionMoment | undefined> {
  try {
    return await journal.resolve('newest');
  } catch (error) {
    if (hasCode(error, 'MOMENT_NOT_FOUND', 'MOMENT_IN_GAP')) return undefined;
    throw error;
  }
}
