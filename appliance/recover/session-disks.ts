// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MarkedDevice } from '../block/marked-device.ts';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import { letQemuConnect } from '../hypervisor/libvirt/qemu-access.ts';
import { NbdServer } from '../nbd/server/nbd-server.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { copyLayer } from './copy-layer.ts';
import { removeOrigin } from './origin-point.ts';
import { exportUri } from './point-exports.ts';
import { SessionHistory } from './session-history.ts';
import type { SessionRegistry } from './session-registry.ts';
import type { Session, SessionStore } from './session-store.ts';
import { logDiskOf, StateDisks } from './state-disks.ts';

const DRAIN_MS = 5_000;

interface Served {
  readonly history: SessionHistory;
  readonly devices: ReadonlyMap<string, MarkedDevice>;
  readonly server: NbdServer;
}

/**
 * The disks of sessions that are served now: each session on a socket of its own, which serves nothing else and which
 * nobody but its QEMU is let into, under `<machine>/<disk>`. Socket and names come back after every restart. Beneath them are
 * the journals, which can be read while nothing is served.
 */
export class SessionDisks {
  readonly #parts: RecoverParts;
  readonly #store: SessionStore;
  readonly #registry: SessionRegistry;
  readonly #open = new Map<string, Served>();
  readonly #histories = new Map<string, Promise<SessionHistory>>();

  constructor(parts: RecoverParts, store: SessionStore, registry: SessionRegistry) {
    this.#parts = parts;
    this.#store = store;
    this.#registry = registry;
  }

  /** The history of a session, served or not; it stays open until `forget`. Errors as `SessionHistory.open`. */
  history(session: Session): Promise<SessionHistory> {
    const known = this.#histories.get(session.id);
    if (known !== undefined) return known;
    const opening = SessionHistory.open({ parts: this.#parts, store: this.#store, registry: this.#registry }, session);
    this.#histories.set(session.id, opening);
    opening.catch(() => {
      if (this.#histories.get(session.id) === opening) this.#histories.delete(session.id);
    });
    return opening;
  }

  /** The history of a session that is served now. */
  servedHistory(session: Session): SessionHistory | undefined {
    return this.#open.get(session.id)?.history;
  }

  /**
   * Serves all disks of a session, as its journal left them. Nothing happens when they are served. The journal of a session
   * that starts at a moment is first given what another one holds of it, once and for all: neither that one's window nor its
   * end touches the session from then on.
   * @throws ApplianceError ABORTED, MOMENT_NOT_FOUND, NOT_SUPPORTED, NBD_LISTEN_FAILED, LOCKED, IO_FAILED, and as `history`
   */
  async open(session: Session, context: Partial<Pick<RecoverContext, 'signal' | 'onNotice'>> = {}): Promise<void> {
    if (this.#open.has(session.id)) return;
    const { clock } = this.#parts;
    await using undo = new AsyncDisposableStack();
    const history = await this.history(session);
    if (session.phase === 'starting') {
      await this.#fill(session, history, context.signal);
      await list(history, context.onNotice);
    }
    const path = this.socketPathOf(session);
    const server = undo.use(await NbdServer.listen({ listen: { kind: 'unix', path }, clock }));
    const devices = new Map(
      session.point.disks.map((disk) => [disk.name, new MarkedDevice(history.overlay.device(disk))] as const),
    );
    for (const [disk, device] of devices) {
      server.addExport({ name: exportNameOf(session, disk), device, description: `${session.name} ${disk}` });
    }
    // Last of all: whoever waits for it finds everything in its place.
    await letQemuConnect(path, session.qemuOwner);
    undo.move();
    this.#open.set(session.id, { history, devices, server });
  }

  /** Ends the exports of a session; its journal is flushed, and stays open. Idempotent. */
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

  /**
   * Closes the journal of a session whose end it is, after `remove`, and takes the point that it began with off the list.
   * A sentence when that was not possible. Idempotent.
   */
  async forget(session: Session): Promise<string | undefined> {
    await this.#endHistory(session.id);
    return removeOrigin(this.#parts, session, (point) => this.#registry.isUsedByOthers(session, point));
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

  /** Bytes of the session's journal while it is open. */
  logBytes(session: Session): number | undefined {
    return this.#open.get(session.id)?.history.journal.sizeBytes;
  }

  /** Ends all exports and closes all journals; guests wait for the next start, and their stretches go on. Idempotent. */
  async close(): Promise<void> {
    for (const [id, served] of this.#open) await this.#end(id, served);
    for (const id of this.#histories.keys()) await this.#endHistory(id);
  }

  async #fill(session: Session, { journal }: SessionHistory, signal: AbortSignal | undefined): Promise<void> {
    if (session.moment === undefined) return;
    const { point } = session;
    await using state = await StateDisks.open(this.#parts, session);
    if (state.layer === undefined) return;
    const disks = point.disks.map((disk, to) => ({ from: logDiskOf(point, disk), to, sizeBytes: disk.sizeBytes }));
    // No history of this machine: it stands before its first stretch.
    await copyLayer(state.layer, journal, disks, signal);
  }

  async #end(id: string, { history, server }: Served): Promise<void> {
    await server.close({ deadlineMs: DRAIN_MS });
    await history.log.close();
    this.#open.delete(id);
  }

  /** Closes the journal of a session that is not served; whoever needs it opens it again. */
  closeHistory(session: Session): Promise<void> {
    return this.#endHistory(session.id);
  }

  async #endHistory(id: string): Promise<void> {
    const opening = this.#histories.get(id);
    if (opening === undefined) return;
    // What could not be opened needs no closing.
    const history = await opening.catch(() => undefined);
    await history?.close();
    this.#histories.delete(id);
  }
}

/** A boot goes on without: the next fold tries again. */
async function list(history: SessionHistory, onNotice: ((sentence: string) => void) | undefined): Promise<void> {
  const { name } = history.base.machine;
  if (name !== history.session.name) {
    onNotice?.(`Its moments and points are those of ${name}: ${history.session.name} means another machine's.`);
  }
  try {
    await history.list();
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw error;
    onNotice?.(`No moment of ${history.session.name} can be recovered yet: ${error.message}.`);
  }
}

function exportNameOf(session: Session, disk: string): string {
  return `${session.name}/${disk}`;
}
