// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../block/block-device.ts';
import { ApplianceError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import type { PointDisk, RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { layeredDevice } from '../volume/logged-device.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import type { WriteLayer } from '../volume/write-layer.ts';
import { openPointDevice } from './point-content.ts';

/** A part of a journal as one layer over each disk, kept from being released until it is disposed of. */
export type JournalLayer = WriteLayer & AsyncDisposable;

/** Where the journals are. */
export interface JournalSource {
  /**
   * Everything of the log after one record up to another. @throws ApplianceError MOMENT_NOT_FOUND (released meanwhile, or
   * another log), WRITE_LOG_CORRUPT, IO_FAILED
   */
  openLayer(part: {
    readonly machineId: MachineId;
    readonly logId: string;
    readonly after: number;
    readonly upTo: number;
  }): Promise<JournalLayer>;
}

/** What is needed to read a state. */
export interface StateParts {
  readonly repository: Repository;
  readonly journals: JournalSource;
}

/** The disks of a state, read-only, for as long as it is open: nothing of the journal that they need is released meanwhile. */
export class StateDisks implements AsyncDisposable {
  readonly state: RecoverableState;
  /** The journal's part, for a moment. */
  readonly layer: JournalLayer | undefined;
  readonly #repository: Repository;

  private constructor(repository: Repository, state: RecoverableState, layer: JournalLayer | undefined) {
    this.#repository = repository;
    this.state = state;
    this.layer = layer;
  }

  /** For a recovery point this reads nothing; for a moment, the headers of the records between. Errors as `openLayer`. */
  static async open({ repository, journals }: StateParts, state: RecoverableState): Promise<StateDisks> {
    const { point, moment } = state;
    if (moment === undefined) return new StateDisks(repository, state, undefined);
    const after = placeOf(point, moment);
    const { id: machineId } = point.machine;
    const part = { machineId, logId: moment.logId, after, upTo: moment.sequence };
    return new StateDisks(repository, state, await journals.openLayer(part));
  }

  /** A disk as it was; the caller closes it before these. @throws ApplianceError MOMENT_NOT_FOUND */
  device(disk: PointDisk): BlockDevice {
    const base = openPointDevice(this.#repository, disk);
    if (this.layer === undefined) return base;
    return layeredDevice({ base, layer: this.layer, disk: logDiskOf(this.state.point, disk) });
  }

  async close(): Promise<void> {
    await this.layer?.[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The number under which the journal knows a disk of a base point. @throws ApplianceError MOMENT_NOT_FOUND */
export function logDiskOf(point: RecoveryPoint, disk: PointDisk): number {
  const number = point.journal?.disks[disk.name];
  if (number !== undefined) return number;
  throw new ApplianceError(
    'MOMENT_NOT_FOUND',
    `the journal does not hold the disk ${disk.name} of ${point.machine.name}`,
    {
      hint: `Use the recovery point beneath, ${point.id}.`,
    },
  );
}

function placeOf({ id, journal }: RecoveryPoint, { logId, sequence }: JournalMoment): number {
  if (journal !== undefined && journal.logId === logId && journal.sequence <= sequence) return journal.sequence;
  throw new ApplianceError('MOMENT_NOT_FOUND', `recovery point ${id} is no base of the moment ${sequence} of ${logId}`);
}
