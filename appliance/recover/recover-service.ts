// SPDX-License-Identifier: Apache-2.0
import type { PointId } from '../core/ids.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { PointDevice } from '../volume/point-device.ts';
import type { RecoverableState } from '../volume/recoverable-state.ts';
import type { BootedHistories } from './booted-histories.ts';
import {
  type BootedMachine,
  BootedMachines,
  type BootReport,
  type BootRequest,
  type RestoredSessions,
  type StopReport,
} from './booted-machines.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import type { MigrateRequest } from './migration-plan.ts';
import type { MigrateReport } from './migrations.ts';
import { findAttachment, openPointDevice, selectDisk } from './point-content.ts';
import { type ExportReport, type ExportRequest, PointExports } from './point-exports.ts';
import { PointUse } from './point-use.ts';
import { restore } from './restore.ts';
import type { RestoreReport, RestoreRequest } from './restore-request.ts';
import type { RewindReport } from './rewind.ts';
import type { StandbyPorts } from './standby/standby-parts.ts';
import { StandbyStore } from './standby/standby-record.ts';
import { StandbyService } from './standby/standby-service.ts';

/**
 * Everything that brings recovery points back: exports, booted machines, restores. One in a process and state directory.
 * Points are given as their manifests; whoever calls chooses them.
 */
export class RecoverService implements AsyncDisposable {
  readonly #parts: RecoverParts;
  readonly #use: PointUse;
  readonly #exports: PointExports;
  readonly #machines: BootedMachines;
  readonly #connections: Map<string, Promise<LibvirtConnection>>;

  private constructor(parts: RecoverParts) {
    const connections = new Map<string, Promise<LibvirtConnection>>();
    this.#connections = connections;
    const connectLibvirt: RecoverParts['connectLibvirt'] = (uri) => openOnce(connections, uri, parts.connectLibvirt);
    const journals: RecoverParts['journals'] = {
      openLayer: async (part) => (await this.histories.openLayer(part)) ?? (await parts.journals.openLayer(part)),
    };
    this.#parts = { ...parts, journals, connectLibvirt };
    this.#use = new PointUse(parts.repository);
    this.#exports = new PointExports(this.#parts, this.#use);
    this.#machines = new BootedMachines(this.#parts, this.#use);
  }

  /**
   * Learns which sessions the state directory holds, and removes what a killed process left of exports. Nothing is served
   * before `restoreSessions`. @throws ApplianceError IO_FAILED, REPOSITORY_FORMAT
   */
  static async open(parts: RecoverParts): Promise<RecoverService> {
    const service = new RecoverService(parts);
    await service.#exports.removeLeftovers();
    await service.#machines.load();
    return service;
  }

  /** What keeps the point from being deleted now, named for people; empty when nothing does. */
  usedBy(id: PointId): string[] {
    return this.#use.usedBy(id);
  }

  /** Every point in use, for the garbage collector: their maps and attachments are live, manifest or not. */
  heldPoints(): RecoveryPoint[] {
    return this.#use.heldPoints();
  }

  /** A disk as it was at the point itself, read-only; the caller closes it. @throws ApplianceError DISK_NOT_FOUND, BAD_ARGUMENT */
  openPointDevice(point: RecoveryPoint, disk?: string): PointDevice {
    return openPointDevice(this.#parts.repository, selectDisk(point, disk));
  }

  /** The content of an attachment, or undefined when the point has none of that name. Errors are the repository's. */
  attachment(point: RecoveryPoint, name: string): Promise<Buffer | undefined> {
    return findAttachment(this.#parts.repository, point, name);
  }

  /** See `PointExports.export`. */
  export(request: ExportRequest): Promise<ExportReport> {
    return this.#exports.export(request);
  }

  /** See `PointExports.unexport`. */
  unexport(id: string): Promise<void> {
    return this.#exports.unexport(id);
  }

  exports(): ExportReport[] {
    return this.#exports.list();
  }

  /** See `BootedMachines.boot`. */
  boot(request: BootRequest, context: RecoverContext): Promise<BootReport> {
    return this.#machines.boot(request, context);
  }

  booted(): Promise<BootedMachine[]> {
    return this.#machines.booted();
  }

  /** What booted machines were at any moment, and how their protection stands. */
  get histories(): BootedHistories {
    return this.#machines.histories;
  }

  /** See `BootedMachines.rewind`. */
  rewind(name: string, state: RecoverableState, context: RecoverContext): Promise<RewindReport> {
    return this.#machines.rewind(name, state, context);
  }

  /** See `BootedMachines.stop`. */
  stop(name: string, isDiscarded: boolean): Promise<StopReport> {
    return this.#machines.stop(name, isDiscarded);
  }

  /** See `BootedMachines.migrate`. */
  migrate(request: MigrateRequest, context: RecoverContext): Promise<MigrateReport> {
    return this.#machines.migrate(request, context);
  }

  /** See `BootedMachines.restoreSessions`. Once, when the service starts; not in a process that works for one command. */
  restoreSessions(): Promise<RestoredSessions> {
    return this.#machines.restoreSessions();
  }

  /** Spares that boot over the same sessions; one in a process. */
  standbys(ports: StandbyPorts): StandbyService {
    const store = new StandbyStore(this.#parts.catalog);
    return new StandbyService({ parts: this.#parts, machines: this.#machines, store, ports });
  }

  /** See `restore`. */
  async restore(request: RestoreRequest, context: RecoverContext): Promise<RestoreReport> {
    const endUse = await this.#use.beginListed(request.point, 'restore');
    try {
      return await restore(this.#parts, request, context);
    } finally {
      endUse();
    }
  }

  /** Ends exports, stops serving booted machines (they wait for the next start), closes connections to libvirt. Idempotent. */
  async close(): Promise<void> {
    await this.#exports.close();
    await this.#machines.close();
    const opened = await Promise.allSettled(this.#connections.values());
    this.#connections.clear();
    for (const result of opened) if (result.status === 'fulfilled') await result.value.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** One connection for each URI, opened again when it was lost. */
async function openOnce(
  connections: Map<string, Promise<LibvirtConnection>>,
  uri: string,
  open: (uri: string) => Promise<LibvirtConnection>,
): Promise<LibvirtConnection> {
  const known = connections.get(uri);
  if (known !== undefined) {
    const [settled] = await Promise.allSettled([known]);
    if (settled?.status === 'fulfilled' && settled.value.isOpen) return settled.value;
    if (connections.get(uri) === known) connections.delete(uri);
    if (settled?.status === 'fulfilled') await settled.value.close();
    return openOnce(connections, uri, open);
  }
  const opening = open(uri);
  connections.set(uri, opening);
  return opening;
}
