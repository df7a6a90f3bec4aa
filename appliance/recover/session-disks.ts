// SPDX-License-Identifier: Apache-2.0
import type { RecoverParts } from './context.ts';
import { Overlay } from './overlay.ts';
import { exportUri } from './point-exports.ts';
import type { Session, SessionStore } from './session-store.ts';

const DRAIN_MS = 5_000;

/** The disks of sessions that are served now, under `<machine>/<disk>`: names that come back after every restart. */
export class SessionDisks {
  readonly #parts: RecoverParts;
  readonly #store: SessionStore;
  readonly #open = new Map<string, { readonly overlay: Overlay; readonly exportNames: string[] }>();

  constructor(parts: RecoverParts, store: SessionStore) {
    this.#parts = parts;
    this.#store = store;
  }

  /** Serves all disks of a session, as its log left them. Nothing happens when they are served. Errors as `Overlay.open`. */
  async open(session: Session): Promise<void> {
    if (this.#open.has(session.id)) return;
    const { repository, clock, nbd } = this.#parts;
    const { point } = session;
    const directory = this.#store.logDirectoryOf(session);
    const overlay = await Overlay.open({ repository, clock, point, directory });
    const served = { overlay, exportNames: [] as string[] };
    this.#open.set(session.id, served);
    try {
      for (const disk of point.disks) {
        const name = exportNameOf(session, disk.name);
        nbd.addExport({ name, device: overlay.device(disk), description: `${session.name} ${disk.name}` });
        served.exportNames.push(name);
      }
    } catch (error) {
      await this.remove(session);
      throw error;
    }
  }

  /** Ends the exports of a session and closes its log. Idempotent. */
  async remove(session: Session): Promise<void> {
    const served = this.#open.get(session.id);
    if (served === undefined) return;
    for (const name of served.exportNames.splice(0)) await this.#parts.nbd.removeExport(name, { drainMs: DRAIN_MS });
    await served.overlay.close();
    this.#open.delete(session.id);
  }

  /** Export names by disk. */
  names(session: Session): Record<string, string> {
    return Object.fromEntries(session.point.disks.map((disk) => [disk.name, exportNameOf(session, disk.name)]));
  }

  uris(session: Session): { readonly disk: string; readonly uri: string }[] {
    const { address } = this.#parts.nbd;
    return session.point.disks.map(({ name: disk }) => ({
      disk,
      uri: exportUri(address, exportNameOf(session, disk)),
    }));
  }

  /** Bytes of the session's log while it is served. */
  logBytes(session: Session): number | undefined {
    return this.#open.get(session.id)?.overlay.log.sizeBytes;
  }

  /** Closes all logs. The exports stay until the server goes; guests wait for the next start. Idempotent. */
  async close(): Promise<void> {
    for (const [id, { overlay, exportNames }] of this.#open) {
      for (const name of exportNames) await this.#parts.nbd.removeExport(name, { drainMs: DRAIN_MS });
      await overlay.close();
      this.#open.delete(id);
    }
  }
}

function exportNameOf(session: Session, disk: string): string {
  return `${session.name}/${disk}`;
}
