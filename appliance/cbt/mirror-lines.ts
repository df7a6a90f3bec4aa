// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { BlockDevice } from '../block/block-device.ts';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { isLocal } from '../hypervisor/libvirt/endpoint.ts';
import type { MirrorDestination } from '../hypervisor/libvirt/mirror-xml.ts';
import { letQemuConnect, letQemuReach } from '../hypervisor/libvirt/qemu-access.ts';
import { qemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import { NbdServer } from '../nbd/server/nbd-server.ts';
import type { MachineWatch } from './machine-watch.ts';
import { DiskMirror, endOwnMirrors, type MirroredDisk } from './mirror.ts';

/** What one disk is mirrored to. */
export interface LineTarget {
  /** Target name of the disk, e.g. `vda`; also the name of the export. */
  readonly name: string;
  readonly device: BlockDevice;
}

export interface MirrorLinesOptions {
  readonly watch: MachineWatch;
  /** Of this machine alone, for good: by it mirrors that an earlier run left are recognised. At most 107 bytes. */
  readonly socketPath: string;
  /** Directories on the way that are ours to let QEMU through. */
  readonly ownDirectories: readonly string[];
}

/** The targets of one machine's disks, offered to its QEMU. */
export interface MirrorLine extends AsyncDisposable {
  /** @throws as `DiskMirror.start` */
  start(disk: { readonly name: string; readonly sizeBytes: number }): Promise<DiskMirror>;
  /** Ends all connections at once: whatever waits for them at the hypervisor fails, and the guest goes on. */
  cut(): void;
}

/** The way from a machine's QEMU to our NBD server: a unix socket that only that QEMU may use. */
export class MirrorLines {
  readonly #options: MirrorLinesOptions;

  constructor(options: MirrorLinesOptions) {
    this.#options = options;
  }

  /**
   * Offers the targets; mirrors that an earlier run left are ended first. `onLost` is called with the disk as soon as a
   * connection ends, also when it was ended from here. @throws ApplianceError NOT_SUPPORTED (another host), QEMU_ACCESS,
   * NBD_LISTEN_FAILED, LOCKED, those of the connection
   */
  async open(targets: readonly LineTarget[], onLost: (disk: string) => void): Promise<MirrorLine> {
    const { socketPath: path } = this.#options;
    await this.#prepare();
    const names = new Map<number, string>();
    const server = await NbdServer.listen({
      listen: { kind: 'unix', path },
      onEvent: (event) => {
        if (event.kind === 'negotiated') names.set(event.connection, event.exportName);
        if (event.kind !== 'closed') return;
        const name = names.get(event.connection);
        names.delete(event.connection);
        if (name !== undefined) onLost(name);
      },
    });
    try {
      for (const { name, device } of targets) server.addExport({ name, device, isListed: false, isWatched: true });
      await this.#letIn();
    } catch (error) {
      await server.close();
      throw error;
    }
    return this.#line(server);
  }

  /** Ends the mirrors that an earlier run of ours left, and returns their disks. @throws those of the connection */
  async endLeftovers(): Promise<string[]> {
    const domain = await this.#options.watch.domain();
    return await endOwnMirrors(domain, (destination) => this.#isOwn(destination));
  }

  #line(server: NbdServer): MirrorLine {
    const { watch, socketPath } = this.#options;
    const cut = (): void => void server.close({ deadlineMs: 0 });
    return {
      start: async ({ name, sizeBytes }) => {
        const disk: MirroredDisk = { target: name, sizeBytes };
        const destination: MirrorDestination = { place: { kind: 'unix', socketPath }, exportName: name };
        return await DiskMirror.start(watch, disk, destination, { cut, isOwn: (other) => this.#isOwn(other) });
      },
      cut,
      [Symbol.asyncDispose]: () => server.close({ deadlineMs: 0 }),
    };
  }

  #isOwn({ place }: MirrorDestination): boolean {
    return place.kind === 'unix' && place.socketPath === this.#options.socketPath;
  }

  async #prepare(): Promise<void> {
    const { watch, socketPath } = this.#options;
    const connection = await watch.connection();
    if (!isLocal(connection.uri)) {
      throw new ApplianceError('NOT_SUPPORTED', 'every write can be kept only of machines on this host', {
        hint: 'Protect the machine in intervals (--interval 5s), or run the appliance on its host.',
      });
    }
    await this.endLeftovers();
    try {
      // A process that was killed leaves it.
      await rm(socketPath, { force: true });
    } catch (error) {
      throw storageError(error, 'remove', socketPath);
    }
  }

  async #letIn(): Promise<void> {
    const { watch, socketPath, ownDirectories } = this.#options;
    const owner = await qemuOwner(await watch.connection());
    await letQemuReach({ owner, ownDirectories: [dirname(socketPath), ...ownDirectories], paths: [socketPath] });
    await letQemuConnect(socketPath, owner);
  }
}
