// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { Throttle } from '../block/throttled-device.ts';
import type { Catalog } from '../catalog/catalog.ts';
import { removeLeftoverRuns } from '../cbt/leftovers.ts';
import { openLibvirtSource } from '../cbt/libvirt-source.ts';
import { defaultSourceName, machineIdOfName, openNbdSource } from '../cbt/nbd-source.ts';
import { type FreezeMarker, type QuiesceRule, thaw } from '../cbt/quiesce.ts';
import type { BackupSource } from '../cbt/source.ts';
import type { Clock } from '../core/clock.ts';
import type { ErrorCode } from '../core/error-codes.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import { type MachineId, parseMachineId } from '../core/ids.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { type RecoveryPoint, rootsOf } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { type JournalPlace, runBackup } from './backup-run.ts';
import { checkpointsOf } from './continuous/cycle-position.ts';
import { ProtectionRecords } from './continuous/protection-record.ts';
import { byAge } from './point-selector.ts';

export interface ProtectContext {
  readonly signal: AbortSignal;
  readonly onProgress: (phase: string, done: number, total: number) => void;
  readonly onNotice: (sentence: string) => void;
}

export interface ProtectServiceOptions {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly clock: Clock;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
  connect(uri: string): Promise<LibvirtConnection>;
}

export interface BackupRequest {
  /** A machine's name or UUID, or an NBD URI. */
  readonly target: string;
  readonly name: string | undefined;
  readonly connectUri: string;
  readonly isFullScanRequested: boolean;
  /** Freeze the guest's file systems: if possible (the default), or else fail, or never. */
  readonly quiesce?: QuiesceRule | undefined;
  /** Bytes per second that the run may read; no limit when left out. */
  readonly bandwidthBytes?: number | undefined;
  /** Of a machine under continuous protection. */
  readonly journalPlace?: JournalPlace;
}

/** Which guest may be frozen. */
export interface FreezeRecord {
  readonly connectUri: string;
  readonly machine: MachineId;
}

const FREEZE_PREFIX = 'freeze-';

/** Makes recovery points. One run at a time per machine. */
export class ProtectService {
  readonly #options: ProtectServiceOptions;
  readonly #running = new Set<MachineId>();

  constructor(options: ProtectServiceOptions) {
    this.#options = options;
  }

  /**
   * Backs a machine or an NBD export up. @throws ApplianceError DOMAIN_NOT_FOUND, DOMAIN_BUSY, NO_PROTECTABLE_DISK,
   * DOMAIN_GONE, SOURCE_CHANGED, INCOMPLETE_BACKUP, ABORTED, and those of source and repository
   */
  async backup(
    request: BackupRequest,
    context: ProtectContext,
  ): Promise<{ point: RecoveryPoint; notices: readonly string[] }> {
    if (isNbdUri(request.target)) {
      const name = request.name ?? defaultSourceName(request.target);
      return this.exclusively(machineIdOfName(name), name, (previous) =>
        this.#run({ previous, journalPlace: undefined, bandwidthBytes: request.bandwidthBytes }, context, () =>
          openNbdSource({ uri: request.target, name, previous, clock: this.#options.clock, signal: context.signal }),
        ),
      );
    }
    if (request.name !== undefined) {
      throw new ApplianceError('BAD_ARGUMENT', 'a machine is kept under its own name; --name is for NBD URIs');
    }
    const connection = await this.#options.connect(request.connectUri);
    const domain = await findDomain(connection, request.target);
    const machineId = parseMachineId(domain.uuid);
    const position = await new ProtectionRecords(this.#options.catalog).position(machineId);
    return this.exclusively(machineId, domain.name, (previous) =>
      this.#run({ previous, ...request }, context, () =>
        openLibvirtSource({
          keptCheckpoints: checkpointsOf(position),
          connection,
          domain,
          previous,
          repositoryId: this.#options.repository.config.id,
          isFullScanRequested: request.isFullScanRequested,
          quiesce: request.quiesce ?? 'try',
          runtimeDirectory: this.#options.runtimeDirectory,
          scratchDirectory: this.#options.scratchDirectory,
          freezeMarker: this.freezeMarker({ connectUri: request.connectUri, machine: machineId }),
          clock: this.#options.clock,
          onWait: (reason) => context.onNotice(reason),
          signal: context.signal,
        }),
      ),
    );
  }

  /** Removes what runs of a killed process left on this host. Once, before the first backup. Sentences about what was ended. */
  removeLeftovers(): Promise<string[]> {
    return removeLeftoverRuns(this.#options.runtimeDirectory, this.#options.scratchDirectory);
  }

  /** Notes a freeze before it happens, so that `thawLeftovers` of a later process ends it. */
  freezeMarker(record: FreezeRecord): FreezeMarker {
    const name = FREEZE_PREFIX + record.machine;
    return {
      set: () => this.#options.catalog.putRecord('session/', name, record),
      clear: () => this.#options.catalog.deleteRecord('session/', name),
    };
  }

  /** Thaws guests that a process of this appliance may have left frozen. Sentences about what was done. */
  async thawLeftovers(): Promise<string[]> {
    const sentences: string[] = [];
    for (const [name, record] of await this.#options.catalog.records<FreezeRecord>('session/')) {
      if (!name.startsWith(FREEZE_PREFIX)) continue;
      try {
        const connection = await this.#options.connect(record.connectUri);
        const domain = await connection.domainByUuid(record.machine);
        const problem = await thaw(domain);
        sentences.push(problem ?? `${domain.name} was thawed: an interrupted run may have left it frozen`);
        if (problem === undefined) await this.#options.catalog.deleteRecord('session/', name);
      } catch (error) {
        if (hasCode(error, 'DOMAIN_NOT_FOUND')) await this.#options.catalog.deleteRecord('session/', name);
        else sentences.push(`${record.machine} may still be frozen: ${toError(error).message}`);
      }
    }
    return sentences;
  }

  /** Runs what makes a point of a machine, one at a time; its newest point is held meanwhile. @throws ApplianceError DOMAIN_BUSY */
  async exclusively<T>(
    machineId: MachineId,
    name: string,
    action: (previous: RecoveryPoint | undefined) => Promise<T>,
  ): Promise<T> {
    if (this.#running.has(machineId)) throw new ApplianceError('DOMAIN_BUSY', `a backup of ${name} is running already`);
    this.#running.add(machineId);
    try {
      using base = await this.#holdNewest(machineId);
      return await action(base.point);
    } finally {
      this.#running.delete(machineId);
    }
  }

  /**
   * The newest point of the machine, kept from garbage collection: an incremental shares its unchanged nodes without
   * reading them, and the point may be deleted while the run goes on. The manifest is looked for after the hold was
   * taken, so that a collection saw one of the two.
   */
  async #holdNewest(machineId: MachineId): Promise<Disposable & { readonly point: RecoveryPoint | undefined }> {
    const { catalog, repository } = this.#options;
    const points = await catalog.points();
    for (const point of points.filter(({ machine }) => machine.id === machineId).sort(byAge)) {
      const hold = repository.hold(rootsOf(point));
      if (await repository.manifests.has({ machineId, pointId: point.id }))
        return { point, [Symbol.dispose]: () => hold[Symbol.dispose]() };
      hold[Symbol.dispose]();
    }
    return { point: undefined, [Symbol.dispose]: () => undefined };
  }

  async #run(
    on: {
      readonly previous: RecoveryPoint | undefined;
      readonly journalPlace?: JournalPlace | undefined;
      readonly bandwidthBytes?: number | undefined;
    },
    context: ProtectContext,
    open: () => Promise<BackupSource>,
  ): Promise<{ point: RecoveryPoint; notices: readonly string[] }> {
    const { repository, catalog, clock } = this.#options;
    const startedAtMs = clock.elapsedMs();
    const notices: string[] = [];
    const source = await open();
    try {
      const { previous, journalPlace, bandwidthBytes } = on;
      const throttle = bandwidthBytes === undefined ? undefined : new Throttle(bandwidthBytes, clock, context.signal);
      const point = await runBackup({
        repository,
        catalog,
        clock,
        source,
        previous,
        journalPlace,
        throttle,
        startedAtMs,
        signal: context.signal,
        onProgress: (disk, position, sizeBytes) => context.onProgress(`backing up ${disk}`, position, sizeBytes),
        onNotice: (sentence) => notices.push(sentence),
      });
      return { point, notices: [...source.notices, ...notices] };
    } catch (error) {
      throw await clearerCause(source, error);
    } finally {
      await source[Symbol.asyncDispose]();
      for (const sentence of [...source.notices, ...notices]) context.onNotice(sentence);
    }
  }
}

export function isNbdUri(target: string): boolean {
  return /^nbds?(\+unix)?:\/\//.test(target);
}

/** By name, or by UUID. @throws ApplianceError DOMAIN_NOT_FOUND */
export async function findDomain(connection: LibvirtConnection, nameOrId: string): Promise<Domain> {
  try {
    return await connection.domainByName(nameOrId);
  } catch (error) {
    if (!hasCode(error, 'DOMAIN_NOT_FOUND') || !/^[0-9a-f-]{36}$/i.test(nameOrId)) throw error;
    return connection.domainByUuid(nameOrId);
  }
}

/** The hypervisor may notice a moment after we do that a machine has stopped. */
const EXPLANATION_ATTEMPTS = 15;
const EXPLANATION_PAUSE_MS = 200;

const UNCLEAR = [
  'NBD_CONNECTION_LOST',
  'NBD_CONNECT_FAILED',
  'NBD_SERVER_ERROR',
  'CLOSED',
  'LIBVIRT_FAILED',
] as const satisfies readonly ErrorCode[];

/** A lost connection says little: when the source knows why (machine stopped, job ended, no space), that is the error. */
async function clearerCause(source: BackupSource, error: unknown): Promise<unknown> {
  if (!hasCode(error, ...UNCLEAR)) return error;
  for (let attempt = 0; attempt < EXPLANATION_ATTEMPTS; attempt++) {
    try {
      await source.assertAlive();
    } catch (reason) {
      // libvirt may fail to reach a QEMU that is about to end; a moment later it knows more.
      if (hasCode(reason, 'LIBVIRT_FAILED') && attempt < EXPLANATION_ATTEMPTS - 1) {
        await delay(EXPLANATION_PAUSE_MS);
        continue;
      }
      if (!(reason instanceof ApplianceError) || reason.cause !== undefined) return reason;
      return new ApplianceError(reason.code, reason.message, {
        cause: error,
        details: reason.details,
        hint: reason.hint,
      });
    }
    await delay(EXPLANATION_PAUSE_MS);
  }
  return error;
}
