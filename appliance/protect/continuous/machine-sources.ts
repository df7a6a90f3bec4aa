// SPDX-License-Identifier: Apache-2.0

import { createPosition, dropPositions } from '../../cbt/checkpoint-position.ts';
import { openLibvirtSource, readAttachments } from '../../cbt/libvirt-source.ts';
import { JOB_WAIT, waitForOwnBackup } from '../../cbt/own-backup.ts';
import type { BackupSource, PreviousState, SourceAttachment } from '../../cbt/source.ts';
import type { Clock } from '../../core/clock.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { LibvirtConnection } from '../../hypervisor/libvirt/connection.ts';
import { parseEndpoint } from '../../hypervisor/libvirt/endpoint.ts';
import { readMachine } from '../../hypervisor/libvirt/read-machine.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { JournalPlace } from '../backup-run.ts';
import type { ProtectService } from '../protect-service.ts';
import { type CyclePosition, checkpointsOf } from './cycle-position.ts';
import type { CycleStart, PointSources } from './point-storage.ts';
import type { ProtectionRecord, ProtectionRecords } from './protection-record.ts';

export interface MachineSourcesParts {
  readonly record: ProtectionRecord;
  readonly records: ProtectionRecords;
  readonly protect: ProtectService;
  readonly repositoryId: string;
  readonly clock: Clock;
  readonly runtimeDirectory: string;
  readonly scratchDirectory: string;
  readonly connect: () => Promise<LibvirtConnection>;
  readonly onNotice: (sentence: string) => void;
}

/** What a protected machine gives to its points, through libvirt. */
export class MachineSources implements PointSources {
  readonly #parts: MachineSourcesParts;
  readonly #knownLevels = new Map<string, string>();
  #onWait: (reason: string) => void = () => undefined;

  constructor(parts: MachineSourcesParts) {
    this.#parts = parts;
  }

  async backUp(journalPlace: JournalPlace, signal: AbortSignal): Promise<RecoveryPoint> {
    const { protect, record } = this.#parts;
    const onNotice = (sentence: string): void => {
      if (sentence === JOB_WAIT) this.#onWait(sentence);
      else this.#parts.onNotice(sentence);
    };
    const { machineId: target, connect: connectUri } = record;
    const request = { target, name: undefined, connectUri, isFullScanRequested: false, journalPlace };
    const { point } = await protect.backup(request, { signal, onProgress: () => undefined, onNotice });
    return point;
  }

  exclusively<T>(work: (newest: RecoveryPoint | undefined) => Promise<T>): Promise<T> {
    const { protect, record } = this.#parts;
    return protect.exclusively(record.machineId, record.name, work);
  }

  async openCycle(from: CycleStart, signal: AbortSignal): Promise<BackupSource> {
    const { record, repositoryId, clock, runtimeDirectory, scratchDirectory } = this.#parts;
    const connection = await this.#parts.connect();
    const nothing = (): Promise<void> => Promise.resolve();
    return openLibvirtSource({
      connection,
      domain: await connection.domainByUuid(record.machineId),
      previous: from.position,
      keptCheckpoints: checkpointsOf(from.base),
      repositoryId,
      isFullScanRequested: false,
      // The guest would stand still for a moment each few seconds.
      quiesce: 'never',
      hasAttachments: false,
      knownLevels: this.#knownLevels,
      freezeMarker: { set: nothing, clear: nothing },
      runtimeDirectory,
      scratchDirectory,
      onWait: (reason) => this.#onWait(reason),
      clock,
      signal,
    });
  }

  async attachments(): Promise<SourceAttachment[] | undefined> {
    try {
      const connection = await this.#parts.connect();
      const domain = await connection.domainByUuid(this.#parts.record.machineId);
      const machine = await readMachine(connection, domain);
      return await readAttachments(domain, { machine, endpoint: parseEndpoint(connection.uri), notices: [] });
    } catch (error) {
      // Those of the point before are as good: the machine cannot be changed while libvirt is away.
      if (error instanceof ApplianceError) return undefined;
      throw error;
    }
  }

  loadPosition(): Promise<CyclePosition | undefined> {
    return this.#parts.records.position(this.#parts.record.machineId);
  }

  savePosition(position: CyclePosition): Promise<void> {
    return this.#parts.records.putPosition(this.#parts.record.machineId, position);
  }

  forgetPosition(): Promise<void> {
    return this.#parts.records.removePosition(this.#parts.record.machineId);
  }

  async newPosition(): Promise<PreviousState | undefined> {
    const { repositoryId, record } = this.#parts;
    const connection = await this.#parts.connect();
    const domain = await connection.domainByUuid(record.machineId);
    return createPosition({ connection, domain, repositoryId, knownLevels: this.#knownLevels });
  }

  async dropPositionsBut(keep: readonly PreviousState[]): Promise<void> {
    const connection = await this.#parts.connect();
    await dropPositions(await connection.domainByUuid(this.#parts.record.machineId), this.#parts.repositoryId, keep);
  }

  onWait(listener: (reason: string) => void): void {
    this.#onWait = listener;
  }

  async release(signal: AbortSignal): Promise<void> {
    const { record, repositoryId, runtimeDirectory, clock } = this.#parts;
    const connection = await this.#parts.connect();
    const domain = await connection.domainByUuid(record.machineId);
    const onWait = (reason: string): void => this.#onWait(reason);
    await waitForOwnBackup({ domain, repositoryId, runtimeDirectory, clock, onWait, signal });
  }
}
