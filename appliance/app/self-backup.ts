// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { AuditAnchor } from '../audit/anchor.ts';
import type { Catalog } from '../catalog/catalog.ts';
import type { Configuration } from '../config/configuration.ts';
import { canonicalJson } from '../core/canonical-json.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import type { ApplianceStates, OpenedState } from '../repository/appliance-state.ts';
import type { ApplianceAudit } from './appliance-audit.ts';
import {
  type ApplianceStateContent,
  type CatalogRecords,
  isLeftOut,
  readCatalogRecords,
  readConfigurationFiles,
} from './appliance-state.ts';

export interface SelfBackupOptions {
  readonly stateDirectory: string;
  readonly configuration: Configuration;
  readonly audit: ApplianceAudit;
  readonly states: ApplianceStates;
  readonly isEncrypted: boolean;
  readonly clock: Clock;
  /** The catalog while it is open. */
  readonly catalog: () => Promise<Pick<Catalog, 'records'> | undefined>;
  readonly onNotice: (sentence: string) => void;
}

/** So long after a change, so that changes that belong together are kept together. */
export const SETTLE_MS = 10_000;
/** Changes that go on and on (a token that is used) make a state no more often than this. */
const MIN_INTERVAL_MS = 600_000;
/** A state is kept at least this often by a service, although nothing was changed: for the anchor of the audit log. */
export const PERIOD_MS: number = 24 * 3_600_000;
const LOOK_MS: number = 3_600_000;

/** Operations after which the catalog knows something that nothing else does. */
const CHANGING: ReadonlySet<string> = new Set([
  'protect',
  'unprotect',
  'protectionPause',
  'protectionResume',
  'standbyCreate',
  'standbyRemove',
  'failover',
  'failoverUndo',
  'failback',
]);

/**
 * Keeps the state of the appliance in the repository: a while after each change, each day, and when the process ends with a change
 * that was not kept yet. What cannot be kept is a notice, never an error: the next change or hour tries again.
 */
export class SelfBackup {
  readonly #options: SelfBackupOptions;
  readonly #stops: (() => void)[] = [];
  #isDirty = false;
  #settling: NodeJS.Timeout | undefined;
  #looking: NodeJS.Timeout | undefined;
  #running: Promise<void> = Promise.resolve();
  #lastDigest: string | undefined;
  /** Elapsed time. */
  #keptMs: number | undefined;

  constructor(options: SelfBackupOptions) {
    this.#options = options;
    this.#stops.push(
      options.configuration.onChange((name) => {
        if (!isLeftOut(name)) this.note();
      }),
      options.audit.onEntry(({ phase, action }) => {
        if (phase === 'ended' && CHANGING.has(action)) this.note();
      }),
    );
  }

  /** Something was changed. */
  note(): void {
    this.#isDirty = true;
    this.#settling ??= setTimeout(() => {
      this.#settling = undefined;
      void this.flush();
    }, this.#waitMs()).unref();
  }

  /** Keeps a state each day from here on; one now when the last is older than that. For the service. */
  start(): void {
    this.#looking ??= setInterval(() => void this.#look(), LOOK_MS).unref();
    void this.#look();
  }

  /** Keeps what was changed. Never rejects. */
  flush(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#isDirty) await this.#keep();
    });
  }

  /** The same, and no more from here on. Never rejects. */
  async stop(): Promise<void> {
    for (const stop of this.#stops) stop();
    clearTimeout(this.#settling);
    clearInterval(this.#looking);
    this.#looking = undefined;
    await this.flush();
  }

  /** The ends of the audit log that the repository keeps, newest first. @throws ApplianceError IO_FAILED */
  async anchors(): Promise<readonly AuditAnchor[]> {
    const { states } = await this.#options.states.list();
    return states.flatMap(({ stored }) => (stored.anchor === null ? [] : [stored.anchor as AuditAnchor]));
  }

  #waitMs(): number {
    const sinceMs = this.#options.clock.elapsedMs() - (this.#keptMs ?? Number.NEGATIVE_INFINITY);
    return Math.max(SETTLE_MS, MIN_INTERVAL_MS - sinceMs);
  }

  #look(): Promise<void> {
    return this.#inTurn(async () => {
      const [newest] = (await this.#options.states.list()).states;
      const ageMs = this.#options.clock.nowMs() - Date.parse(newest?.stored.createdAt ?? '');
      // Also for a clock that was behind when the last one was kept.
      if (this.#isDirty || !(ageMs >= 0 && ageMs < PERIOD_MS)) await this.#keep();
    });
  }

  async #keep(): Promise<void> {
    const { configuration, states, clock } = this.#options;
    if (!configuration.settings.value('selfbackup.enabled')) return;
    this.#isDirty = false;
    try {
      const content = await this.#content();
      const log = await this.#options.audit.log();
      const createdAt = new Date(clock.nowMs()).toISOString();
      const anchor = log.head.sequence === 0 ? null : log.anchor();
      const digest = createHash('sha256')
        .update(canonicalJson([content, anchor?.hash]))
        .digest('hex');
      if (digest === this.#lastDigest) return;
      await states.put({ createdAt, anchor, content });
      this.#lastDigest = digest;
      this.#keptMs = clock.elapsedMs();
      await states.prune(configuration.settings.value('selfbackup.keep'));
    } catch (error) {
      this.#isDirty = true;
      throw error;
    }
  }

  async #content(): Promise<ApplianceStateContent> {
    const { stateDirectory, isEncrypted, audit } = this.#options;
    const files = await readConfigurationFiles(stateDirectory, isEncrypted);
    const numbers = await (await audit.log()).files.numbers();
    return { version: 1, ...files, ...(await this.#records()), auditSegment: numbers.at(-1) ?? 0 };
  }

  /** Of a catalog that is not open, what was kept of it before. */
  async #records(): Promise<CatalogRecords> {
    const catalog = await this.#options.catalog();
    if (catalog !== undefined) return readCatalogRecords(catalog);
    const newest = await newestState(this.#options.states);
    const { records = {}, runs = {} } = (newest?.content ?? {}) as Partial<CatalogRecords>;
    return { records, runs };
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#running = this.#running.then(work).catch((error: unknown) => {
      if (!(error instanceof ApplianceError)) throw error;
      this.#options.onNotice(`the configuration could not be kept in the repository: ${error.message}`);
    });
    return this.#running;
  }
}

/** The newest state that is whole; undefined when there is none. @throws ApplianceError IO_FAILED */
export async function newestState(states: ApplianceStates): Promise<OpenedState | undefined> {
  for (const state of (await states.list()).states) {
    try {
      return states.open(state);
    } catch (error) {
      if (!(error instanceof ApplianceError) || error.code !== 'REPOSITORY_CORRUPT') throw error;
    }
  }
  return undefined;
}
