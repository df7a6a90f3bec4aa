// SPDX-License-Identifier: Apache-2.0
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../appliance/core/clock.ts';
import { keyFromHex } from '../../appliance/core/content-id.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { ConnectionCache } from '../../appliance/hypervisor/libvirt/connection-cache.ts';
import { createImage } from '../../appliance/hypervisor/qemu-img.ts';
import { ProtectService } from '../../appliance/protect/protect-service.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { PointDevice } from '../../appliance/volume/point-device.ts';
import { FixtureRepository } from '../support/fixture-repository.ts';
import type { TestContext } from '../support/test-scope.ts';

export interface BackupOutcome {
  readonly point: RecoveryPoint;
  readonly notices: readonly string[];
}

/** A protect service over a real repository, as the appliance wires it. */
export class BackupRig {
  readonly fixture: FixtureRepository;
  readonly service: ProtectService;
  readonly runtimeDirectory: string;
  readonly #uri: string;

  private constructor(fixture: FixtureRepository, service: ProtectService, runtimeDirectory: string, uri: string) {
    this.fixture = fixture;
    this.service = service;
    this.runtimeDirectory = runtimeDirectory;
    this.#uri = uri;
  }

  static async create(t: TestContext, uri: string = 'qemu:///session'): Promise<BackupRig> {
    const directory = await t.tempDir();
    const runtimeDirectory = join(directory, 'run');
    const scratchDirectory = join(directory, 'scratch');
    await mkdir(runtimeDirectory);
    await mkdir(scratchDirectory);
    const fixture = t.use(await FixtureRepository.create(join(directory, 'repo')));
    const connections = t.use(new ConnectionCache());
    const service = new ProtectService({
      repository: fixture.repository,
      catalog: fixture.catalog,
      clock: systemClock,
      runtimeDirectory,
      scratchDirectory,
      connect: (to) => connections.get(to),
    });
    return new BackupRig(fixture, service, runtimeDirectory, uri);
  }

  backup(
    target: string,
    options: {
      readonly signal?: AbortSignal;
      readonly onProgress?: () => void;
      readonly isFullScanRequested?: boolean;
    } = {},
  ): Promise<BackupOutcome> {
    return this.service.backup(
      { target, name: undefined, connectUri: this.#uri, isFullScanRequested: options.isFullScanRequested ?? false },
      {
        signal: options.signal ?? new AbortController().signal,
        onProgress: options.onProgress ?? ((): void => undefined),
        onNotice: (): void => undefined,
      },
    );
  }

  /** A disk of a point as a device; nothing of it has to be closed. */
  device(point: RecoveryPoint, name: string): PointDevice {
    const disk = point.disks.find((candidate) => candidate.name === name);
    if (disk === undefined) throw new Error(`the point has no disk ${name}`);
    return new PointDevice({
      reader: this.fixture.repository.reader,
      chunkBytes: this.fixture.repository.chunkBytes,
      root: keyFromHex(disk.root),
      sizeBytes: disk.sizeBytes,
    });
  }
}

export { createImage, LibvirtConnection };
