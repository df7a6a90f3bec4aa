// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { BlockDevice } from '../block/block-device.ts';
import { makeDirectoryDurably } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { ListenAddress } from '../nbd/server/listen-socket.ts';
import { NbdServer } from '../nbd/server/nbd-server.ts';
import { formatNbdUri } from '../nbd/uri.ts';
import type { PointDisk } from '../repository/manifest.ts';
import type { JournalMoment, RecoverableState } from '../volume/recoverable-state.ts';
import type { RecoverParts } from './context.ts';
import { parseListenAddress } from './listen-address.ts';
import { Overlay } from './overlay.ts';
import { selectDisk } from './point-content.ts';
import type { PointUse } from './point-use.ts';
import { StateDisks } from './state-disks.ts';

export interface ExportRequest extends RecoverableState {
  /** Can be left out when the point has only one. */
  readonly disk?: string;
  /** A unix socket of its own, created there. */
  readonly socket?: string;
  /** HOST:PORT; IPv6 hosts in brackets; port 0 for any free one. */
  readonly listen?: string;
  /** Take writes into a log of their own; they are gone when the export ends. */
  readonly writable?: boolean;
}

export interface ExportReport {
  readonly id: string;
  readonly uri: string;
  readonly point: string;
  /** Null for the recovery point itself. */
  readonly moment: JournalMoment | null;
  readonly disk: string;
  readonly sizeBytes: number;
  readonly writable: boolean;
}

/** So long requests in flight may take when an export ends. */
const DRAIN_MS = 5_000;
/** Digits of a point's id in the ids of its exports. */
const ID_DIGITS = 8;

interface OpenExport {
  readonly report: ExportReport;
  close(): Promise<void>;
}

/** Disks of recovery points and of moments that are offered over NBD until somebody ends it. Everything written to them is thrown away then. */
export class PointExports implements AsyncDisposable {
  readonly #parts: RecoverParts;
  readonly #use: PointUse;
  readonly #directory: string;
  readonly #open = new Map<string, OpenExport | undefined>();

  constructor(parts: RecoverParts, use: PointUse) {
    this.#parts = parts;
    this.#use = use;
    this.#directory = join(parts.stateDirectory, 'exports');
  }

  /** Removes the write logs that a killed process left behind. Only before the first export. */
  async removeLeftovers(): Promise<void> {
    await removeTree(this.#directory);
  }

  /**
   * Offers a disk: on the service's socket under the id of the report, or, with `socket` or `listen`, alone on a server of
   * its own under the empty name that clients ask for by default.
   * @throws ApplianceError POINT_NOT_FOUND, BAD_ARGUMENT, DISK_NOT_FOUND, LOCKED, NBD_LISTEN_FAILED, NO_SPACE, IO_FAILED
   */
  async export(request: ExportRequest): Promise<ExportReport> {
    const { point } = request;
    const disk = selectDisk(point, request.disk);
    const listen = ownAddress(request);
    const id = this.#reserve(`${stateName(request)}-${disk.name}`);
    await using undo = new AsyncDisposableStack();
    undo.defer(() => {
      this.#open.delete(id);
    });
    undo.defer(await this.#use.beginListed(point, `export ${id}`));
    const disks = undo.use(await StateDisks.open(this.#parts, request));
    const device = request.writable === true ? await this.#writable(undo, disks, disk) : undo.use(disks.device(disk));
    const uri = await this.#offer(undo, { id, listen, device, description: `${point.machine.name} ${disk.name}` });
    const report: ExportReport = {
      id,
      uri,
      point: point.id,
      moment: request.moment ?? null,
      disk: disk.name,
      sizeBytes: disk.sizeBytes,
      writable: request.writable === true,
    };
    const resources = undo.move();
    this.#open.set(id, { report, close: () => resources.disposeAsync() });
    return report;
  }

  /** Ends an export; its connections are closed. @throws ApplianceError NBD_EXPORT_UNKNOWN */
  async unexport(id: string): Promise<void> {
    const open = this.#open.get(id);
    if (open === undefined) throw new ApplianceError('NBD_EXPORT_UNKNOWN', `there is no export ${id}`);
    // From here on a second call does not find it; the id stays taken until everything is gone.
    this.#open.set(id, undefined);
    await open.close();
  }

  list(): ExportReport[] {
    return [...this.#open.values()].flatMap((open) => (open === undefined ? [] : [open.report]));
  }

  /** Ends all exports. Idempotent. */
  async close(): Promise<void> {
    await Promise.all(this.list().map(({ id }) => this.unexport(id)));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The first free one of `base`, `base-2`, `base-3`, …, taken at once. */
  #reserve(base: string): string {
    let id = base;
    for (let n = 2; this.#open.has(id); n++) id = `${base}-${n}`;
    this.#open.set(id, undefined);
    return id;
  }

  async #writable(undo: AsyncDisposableStack, disks: StateDisks, disk: PointDisk): Promise<BlockDevice> {
    const { repository, clock } = this.#parts;
    const { point } = disks.state;
    const directory = join(this.#directory, randomBytes(8).toString('hex'));
    undo.defer(() => removeTree(directory));
    await makeDirectoryDurably(directory);
    const overlay = undo.use(
      await Overlay.open({ repository, clock, point, directory, base: (one) => disks.device(one) }),
    );
    return overlay.device(disk);
  }

  /** Settles with the URI under which the device is offered. */
  async #offer(
    undo: AsyncDisposableStack,
    offer: {
      readonly id: string;
      readonly listen: ListenAddress | undefined;
      readonly device: BlockDevice;
      readonly description: string;
    },
  ): Promise<string> {
    const { id, listen, device, description } = offer;
    const server = listen === undefined ? this.#parts.nbd : undo.use(await NbdServer.listen({ listen }));
    const name = listen === undefined ? id : '';
    server.addExport({ name, description, device });
    undo.defer(() => server.removeExport(name, { drainMs: DRAIN_MS }));
    return exportUri(server.address, name);
  }
}

/** The URI of an export of a server. */
export function exportUri(address: ListenAddress, exportName: string): string {
  return formatNbdUri(
    address.kind === 'unix'
      ? { kind: 'unix', path: address.path, exportName }
      : { kind: 'tcp', host: address.host, port: address.port, exportName },
  );
}

/** The beginning of the point's id, and the sequence of a moment. */
function stateName({ point, moment }: RecoverableState): string {
  const id = point.id.slice(0, ID_DIGITS);
  return moment === undefined ? id : `${id}-${moment.sequence}`;
}

function ownAddress({ socket, listen }: ExportRequest): ListenAddress | undefined {
  if (socket !== undefined && listen !== undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'an export has either a socket or an address to listen on');
  }
  if (socket !== undefined) return { kind: 'unix', path: resolve(socket) };
  return listen === undefined ? undefined : parseListenAddress(listen);
}

/** Removes a directory with everything in it; nothing happens when it is not there. @throws ApplianceError IO_FAILED */
export async function removeTree(directory: string): Promise<void> {
  try {
    await rm(directory, { recursive: true, force: true });
  } catch (error) {
    throw storageError(error, 'remove', directory);
  }
}
