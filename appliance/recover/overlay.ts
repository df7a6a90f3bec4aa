// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../block/block-device.ts';
import type { Clock } from '../core/clock.ts';
import { invariant } from '../core/invariant.ts';
import type { PointDisk, RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { loggedDevice } from '../volume/logged-device.ts';
import type { WriteLayer, WriteSink } from '../volume/write-layer.ts';
import { WriteLog } from '../volume/write-log.ts';
import { openPointDevice } from './point-content.ts';

/** Where the writes go, and what they cover. */
export interface OverlayLog extends WriteLayer, WriteSink {
  close(): Promise<void>;
}

export interface OverlayOptions {
  readonly repository: Repository;
  readonly clock: Clock;
  readonly point: RecoveryPoint;
  /** What is beneath each disk; by default the point's. Closed with the overlay. */
  readonly base?: (disk: PointDisk) => BlockDevice;
  /** Of the write log; created when missing. Nobody else uses it. */
  readonly directory: string;
}

/**
 * The disks of a recovery point, or of a moment above one, writable: what is written goes into one write log for all of them, so that its order
 * across the disks is kept. What is beneath never changes. Opened again on the same directory, the disks hold what was
 * written before. The log is encrypted when the repository is.
 *
 * Disk n of the log is disk n of the manifest, which never changes either.
 */
export class Overlay implements AsyncDisposable {
  readonly #log: OverlayLog;
  readonly #devices: ReadonlyMap<string, BlockDevice>;

  /** Over a log that is open already, and is closed with the overlay. Disk n of it is disk n of the point. */
  constructor(log: OverlayLog, point: RecoveryPoint, base: (disk: PointDisk) => BlockDevice) {
    this.#log = log;
    this.#devices = new Map(
      point.disks.map((disk, index) => [disk.name, loggedDevice({ base: base(disk), log, disk: index })]),
    );
  }

  /** @throws ApplianceError WRITE_LOG_CORRUPT, REPOSITORY_KEY, REPOSITORY_FORMAT, NO_SPACE, IO_FAILED */
  static async open(options: OverlayOptions): Promise<Overlay> {
    const { repository, point, base = (disk) => openPointDevice(repository, disk) } = options;
    const log = await WriteLog.open(options.directory, {
      key: repository.keys.isEncrypted ? repository.keys.logRoot : null,
      machineId: point.machine.id,
      clock: options.clock,
    });
    return new Overlay(log, point, base);
  }

  device(disk: PointDisk): BlockDevice {
    const device = this.#devices.get(disk.name);
    invariant(device !== undefined, 'an overlay has every disk of its point');
    return device;
  }

  /** Closes the disks, flushes and closes the log. Idempotent. */
  async close(): Promise<void> {
    for (const device of this.#devices.values()) await device.close();
    await this.#log.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
