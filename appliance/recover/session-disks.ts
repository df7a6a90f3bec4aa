// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MarkedDevice } from '../block/marked-device.ts';
import { storageError } from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import { letQemuConnect } from '../hypervisor/libvirt/qemu-access.ts';
import { NbdServer } from '../nbd/server/nbd-server.ts';
import type { RecoverParts } from './context.ts';
import { copyLayer } from './copy-layer.ts';
import { Overlay } from './overlay.ts';
import { exportUri } from './point-exports.ts';
import type { Session, SessionStore } from './session-store.ts';
import { logDiskOf, StateDisks } from './state-disks.ts';

const DRAIN_MS = 5_000;

interface Served {
  readonly overlay: Overlay;
  readonly devices: ReadonlyMap<string, MarkedDevice>;
  readonly server: NbdServer;
}

/**
 * The disks of sessions that are served now: each session on a socket of its own, which serves nothing else and which
 * nobody but its QEMU is let into, under `<machine>/<disk>`. Socket and names come back after every restart.
 */
export class SessionDisks {
  readonly #parts: RecoverParts;
  readonly #store: SessionStore;
  readonly #open = new Map<string, Served>();

  constructor(parts: RecoverParts, store: SessionStore) {
    this.#parts = parts;
    this.#store = store;
  }

  /**
   * Serves all disks of a session, as its log left them. Nothing happens when they are served. The log of a session that
   * starts at a moment is first given what the journal holds of it, once and for all: neither the journal's window nor its
   * end touches the session from then on.
   * @throws ApplianceError ABORTED, MOMENT_NOT_FOUND, NOT_SUPPORTED, NBD_LISTEN_FAILED, LOCKED, IO_FAILED, and as `Overlay.open`
   */
  async open(session: Session, signal?: AbortSignal): Promise<void> {
    if (this.#open.has(session.id)) return;
    const { repository, clock } = this.#parts;
    const { point } = session;
    const directory = this.#store.logDirectoryOf(session);
    await using undo = new AsyncDisposableStack();
    const overlay = undo.use(await Overlay.open({ repository, clock, point, directory }));
    if (session.phase === 'starting') await this.#fill(session, overlay, signal);
    const path = this.socketPathOf(session);
    const server = undo.use(await NbdServer.listen({ listen: { kind: 'unix', path }, clock }));
    const devices = new Map(point.disks.map((disk) => [disk.name, new MarkedDevice(overlay.device(disk))] as const));
    for (const [disk, device] of devices) {
      server.addExport({ name: exportNameOf(session, disk), device, description: `${session.name} ${disk}` });
    }
    // Last of all: whoever waits for it finds everything in its place.
    await letQemuConnect(path, session.qemuOwner);
    undo.move();
    this.#open.set(session.id, { overlay, devices, server });
  }

  /** Ends the exports of a session and closes its log. Idempotent. */
  async remove(session: Session): Promise<void> {
    const served = this.#open.get(session.id);
    if (served !== undefined) await this.#end(session.id, served);
    const path = this.socketPathOf(session);
    try {
      // A killed process leaves it.
      await rm(path, { force: true });
    } catch (error) {
      throw storageError(error, 'remove', path);
    }
  }

  /** The device behind an export of a session that is served; it is not the caller's to close. */
  device(session: Session, disk: string): MarkedDevice {
    const device = this.#open.get(session.id)?.devices.get(disk);
    invariant(device !== undefined, 'a session that is served has all of its disks');
    return device;
  }

  socketPathOf(session: Session): string {
    return join(this.#parts.runtimeDirectory, `boot-${session.id}.sock`);
  }

  /** Export names by disk. */
  names(session: Session): Record<string, string> {
    return Object.fromEntries(session.point.disks.map((disk) => [disk.name, exportNameOf(session, disk.name)]));
  }

  uris(session: Session): { readonly disk: string; readonly uri: string }[] {
    const path = this.socketPathOf(session);
    return session.point.disks.map(({ name: disk }) => ({
      disk,
      uri: exportUri({ kind: 'unix', path }, exportNameOf(session, disk)),
    }));
  }

  /** The disks of a session while they are served; they are not the caller's to close. */
  overlayOf(session: Session): Overlay | undefined {
    return this.#open.get(session.id)?.overlay;
  }

  /** Bytes of the session's log while it is served. */
  logBytes(session: Session): number | undefined {
    return this.#open.get(session.id)?.overlay.log.sizeBytes;
  }

  /** Ends all exports and closes all logs; guests wait for the next start. Idempotent. */
  async close(): Promise<void> {
    for (const [id, served] of this.#open) await this.#end(id, served);
  }

  async #fill(session: Session, overlay: Overlay, signal: AbortSignal | undefined): Promise<void> {
    if (session.moment === undefined) return;
    const { point } = session;
    await using state = await StateDisks.open(this.#parts, session);
    if (state.layer === undefined) return;
    const disks = point.disks.map((disk, to) => ({ from: logDiskOf(point, disk), to, sizeBytes: disk.sizeBytes }));
    await copyLayer(state.layer, overlay.log, disks, signal);
  }

  async #end(id: string, { overlay, server }: Served): Promise<void> {
    await server.close({ deadlineMs: DRAIN_MS });
    await overlay.close();
    this.#open.delete(id);
  }
}

function exportNameOf(session: Session, disk: string): string {
  return `${session.name}/${disk}`;
}
