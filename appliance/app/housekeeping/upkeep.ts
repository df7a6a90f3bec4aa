// SPDX-License-Identifier: Apache-2.0

import { APPLIANCE_PRINCIPAL } from '../../access/principal.ts';
import type { Figures } from '../../api/metrics/figures.ts';
import type { OperationContext } from '../../api/operations.ts';
import type { RunService } from '../../api/runs/run-service.ts';
import type { CheckParams, CheckReport, GcParams, GcReport } from '../../api/schemas/repository.ts';
import type { CapacityReport, UpkeepReport } from '../../api/schemas/upkeep.ts';
import { decodeError } from '../../api/wire-error.ts';
import { DutyCycle, type Pace } from '../../core/duty-cycle.ts';
import { hasCode } from '../../core/errors.ts';
import { nbdServerTotals } from '../../nbd/server/server-totals.ts';
import { scrubSlice } from '../../repository/scrub-slice.ts';
import type { Storage } from '../core.ts';
import { checkReport, checkRepository, checkStructure, collectGarbage } from '../maintenance.ts';
import { type CapacityNow, CapacityWatch, type UpkeepFoundation } from './capacity.ts';
import { choreRecords, Housekeeper } from './housekeeper.ts';
import { CHORES, type Chore, dueMs, sliceBytes } from './plan.ts';
import { afterSlice, NO_SCRUB, type ScrubRecord, withFindings } from './scrub-record.ts';

/** Records in the catalog. */
const CHORES_NOTE = 'chores';
const SCRUB_NOTE = 'scrub';
/** The share of the time that housekeeping works: while nothing else does, and while backups are taken or disks served. */
const IDLE_SHARE = 0.5;
const BUSY_SHARE = 0.1;

/**
 * Garbage collection, checks and the watch over the room, as they are asked for and, in the service, by themselves: see
 * `plan.ts` for when. What is asked for has precedence.
 */
export class Upkeep {
  readonly #foundation: UpkeepFoundation;
  readonly #onNotice: (sentence: string) => void;
  readonly #runs: (() => RunService) | undefined;
  readonly #capacity: CapacityWatch;
  #housekeeper: Housekeeper | undefined;
  #beganMs = 0;

  /** With `runs`, what is done by itself is a run like any other. */
  constructor(foundation: UpkeepFoundation, onNotice: (sentence: string) => void, runs?: () => RunService) {
    this.#foundation = foundation;
    this.#onNotice = onNotice;
    this.#runs = runs;
    this.#capacity = new CapacityWatch(foundation, onNotice);
  }

  /** Does what is due over this core by itself, until `end`. */
  begin(storage: Storage): void {
    this.#capacity.forget();
    this.#beganMs = this.#foundation.clock.nowMs();
    this.#housekeeper = new Housekeeper({
      clock: this.#foundation.clock,
      load: async () => choreRecords(await storage.catalog.note(CHORES_NOTE)),
      save: (records) => storage.catalog.putNote(CHORES_NOTE, records),
      perform: (chore, signal) => this.#perform(storage, chore, signal),
      measure: async () => (await this.#capacity.look(storage)) !== 'ok',
      onNotice: this.#onNotice,
    });
    this.#housekeeper.start();
  }

  /** Nothing runs by itself any more when it settles. To be called before the core is closed. */
  async end(): Promise<void> {
    const housekeeper = this.#housekeeper;
    this.#housekeeper = undefined;
    await housekeeper?.[Symbol.asyncDispose]();
  }

  /** Does what is due now, if something is; the service looks each minute by itself. Never rejects. */
  async look(): Promise<void> {
    await this.#housekeeper?.look();
  }

  gc(storage: Storage, params: GcParams, context: OperationContext): Promise<GcReport> {
    if (isOwn(context)) {
      return collectGarbage(this.#foundation, storage, { pace: this.#pace(storage, context.signal) }, context);
    }
    return this.#asked('collection', () => collectGarbage(this.#foundation, storage, params, context));
  }

  check(storage: Storage, params: CheckParams, context: OperationContext): Promise<CheckReport> {
    const { readData = false, slice = false } = params;
    if (isOwn(context)) return this.#scrub(storage, context, this.#pace(storage, context.signal));
    if (slice) return this.#asked('scrub', () => this.#scrub(storage, context));
    return this.#asked(readData ? 'scrub' : undefined, async () => {
      const { result, report } = await checkRepository(this.#foundation, storage, readData, context);
      const { findings, omittedFindings } = result;
      // Without reading, nothing is known of damage inside the packs: what was found there stays.
      await this.#noteFindings(storage, {
        packs: readData ? undefined : [],
        findings,
        omittedFindings,
        at: this.#now(),
      });
      return report;
    });
  }

  capacity(storage: Storage): Promise<CapacityReport> {
    return this.#capacity.report(storage);
  }

  async figures(storage: Storage): Promise<Pick<Figures, 'repository' | 'chores'>> {
    const { sample, growthBytesPerDay, daysUntilFull } = await this.#capacity.now(storage);
    const { findings, omittedFindings } = await this.#scrubRecord(storage);
    const records = choreRecords(await storage.catalog.note(CHORES_NOTE));
    const { atMs: _, ...sizes } = sample;
    return {
      repository: {
        ...sizes,
        points: (await storage.catalog.points()).length,
        growthBytesPerDay,
        daysUntilFull,
        findings: findings.length + omittedFindings,
      },
      chores: Object.fromEntries(
        CHORES.map((chore) => {
          const record = records[chore];
          return [chore, { lastMs: record?.endedMs ?? null, failures: record?.failures ?? 0 }];
        }),
      ),
    };
  }

  async status(storage: Storage): Promise<UpkeepReport> {
    const scrub = await this.#scrubRecord(storage);
    const now = await this.#capacity.now(storage);
    return {
      collection: await this.#choreReport(storage, 'collection', now),
      scrub: await this.#choreReport(storage, 'scrub', now),
      round: { startedAt: scrub.roundStartedAt, readBytes: scrub.readBytes, lastEndedAt: scrub.lastRoundAt },
      findings: scrub.findings.map(({ touches, ...finding }) => ({
        ...finding,
        points: [...new Set(touches.map(({ pointId }) => pointId))],
      })),
      omittedFindings: scrub.omittedFindings,
      capacity: {
        level: now.level,
        freeBytes: now.sample.freeBytes,
        totalBytes: now.sample.totalBytes,
        growthBytesPerDay: now.growthBytesPerDay,
        daysUntilFull: now.daysUntilFull,
      },
    };
  }

  /** Somebody asked for it: what runs by itself gives way, and has it done for it. */
  async #asked<T>(instead: Chore | undefined, work: () => Promise<T>): Promise<T> {
    const housekeeper = this.#housekeeper;
    if (housekeeper === undefined) return work();
    return housekeeper.withoutChores(async () => {
      const startedMs = this.#foundation.clock.nowMs();
      const result = await work();
      if (instead !== undefined) await housekeeper.noteDone(instead, startedMs);
      return result;
    });
  }

  async #perform(storage: Storage, chore: Chore, signal: AbortSignal): Promise<void> {
    const [operation, params] = CALLS[chore];
    const runs = this.#runs?.();
    if (runs === undefined) {
      const context = {
        signal,
        principal: APPLIANCE_PRINCIPAL,
        onProgress: (): void => undefined,
        onNotice: this.#onNotice,
      };
      await (operation === 'gc' ? this.gc(storage, {}, context) : this.check(storage, params, context));
      return;
    }
    const run = runs.start({ operation, params, principal: APPLIANCE_PRINCIPAL });
    const cancel = (): void => run.cancel('it gives way, and is done again');
    signal.addEventListener('abort', cancel);
    if (signal.aborted) cancel();
    await run.ended;
    signal.removeEventListener('abort', cancel);
    const { error } = run.report();
    if (error !== null) throw decodeError(error);
  }

  /** The next slice, and at the end of a round what only a look at the whole can tell. */
  async #scrub(storage: Storage, context: OperationContext, pace?: Pace): Promise<CheckReport> {
    const { repository, catalog } = storage;
    const { signal } = context;
    const { clock } = this.#foundation;
    const startedMs = clock.elapsedMs();
    const record = await this.#scrubRecord(storage);
    const { storedBytes } = await catalog.totals();
    const slice = await scrubSlice(repository, catalog, {
      after: record.after ?? undefined,
      sliceBytes: sliceBytes(storedBytes),
      signal,
      ...(pace === undefined ? {} : { pace }),
      onProgress: (done, total) => context.onProgress({ phase: 'reading packs', done, total, unit: 'items' }),
    });
    const next = afterSlice(record, { ...slice, at: this.#now() });
    await this.#keep(storage, next);
    this.#announce(record, next);
    if (slice.after === undefined) {
      const { findings, omittedFindings } = await checkStructure(storage, signal, pace);
      await this.#noteFindings(storage, { packs: [], findings, omittedFindings, at: this.#now() });
    }
    const { findings, points, readBytes, packs } = slice;
    const durationMs = Math.round(clock.elapsedMs() - startedMs);
    return checkReport({ findings, points, readBytes, packs: packs.length, nodes: 0, chunks: 0 }, true, durationMs);
  }

  #pace({ repository }: Storage, signal: AbortSignal): Pace {
    let seen = nbdServerTotals.requestCount;
    const share = (): number => {
      const requests = nbdServerTotals.requestCount;
      const isBusy = repository.isStoring || requests !== seen;
      seen = requests;
      return isBusy ? BUSY_SHARE : IDLE_SHARE;
    };
    return new DutyCycle({ clock: this.#foundation.clock, share, signal }).pace;
  }

  async #noteFindings(storage: Storage, examined: Parameters<typeof withFindings>[1]): Promise<void> {
    const before = await this.#scrubRecord(storage);
    const after = withFindings(before, examined);
    await this.#keep(storage, after);
    this.#announce(before, after);
  }

  /** On a full disk the record stays behind; what was found is announced and reported all the same. */
  async #keep({ catalog }: Storage, record: ScrubRecord): Promise<void> {
    try {
      await catalog.putNote(SCRUB_NOTE, record);
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE')) throw error;
      this.#onNotice(`what was checked cannot be recorded: ${error.message}`);
    }
  }

  #announce(before: ScrubRecord, after: ScrubRecord): void {
    const known = new Set(before.findings.map(({ object, what }) => `${object} ${what}`));
    for (const { object, what, touches } of after.findings) {
      if (known.has(`${object} ${what}`)) continue;
      const points = new Set(touches.map(({ pointId }) => pointId)).size;
      this.#onNotice(`the repository is damaged: ${object}: ${what}; it touches ${points} recovery points`);
    }
  }

  async #scrubRecord({ catalog }: Storage): Promise<ScrubRecord> {
    return ((await catalog.note(SCRUB_NOTE)) as ScrubRecord | undefined) ?? NO_SCRUB;
  }

  async #choreReport({ catalog }: Storage, chore: Chore, { level }: CapacityNow): Promise<UpkeepReport['collection']> {
    const last = choreRecords(await catalog.note(CHORES_NOTE))[chore];
    const facts = {
      nowMs: this.#foundation.clock.nowMs(),
      upSinceMs: this.#beganMs,
      isSpaceLow: level !== 'ok',
    };
    const nextAtMs = this.#housekeeper === undefined ? undefined : dueMs(chore, last, facts);
    return {
      lastAt: last === undefined ? null : new Date(last.endedMs).toISOString(),
      nextAt: nextAtMs === undefined ? null : new Date(nextAtMs).toISOString(),
      problem: last?.problem ?? null,
    };
  }

  #now(): string {
    return new Date(this.#foundation.clock.nowMs()).toISOString();
  }
}

/** What is asked for when a chore is due. */
const CALLS: Readonly<Record<Chore, readonly ['gc' | 'check', CheckParams]>> = {
  collection: ['gc', {}],
  scrub: ['check', { slice: true }],
};

function isOwn({ principal }: OperationContext): boolean {
  return principal.kind === 'appliance';
}
