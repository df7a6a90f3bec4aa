// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { walkExtents } from '../block/extent-walk.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import { type MachineId, parseMachineId } from '../core/ids.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import type { BackupSource, PreviousState, SourceDisk } from './source.ts';

/** The only disk of an NBD source. */
const DISK_NAME = 'disk';

export interface NbdSourceOptions {
  readonly uri: string;
  /** Under which the recovery points are kept. */
  readonly name: string;
  readonly previous: PreviousState | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
}

/** The id of a source that no hypervisor names: a UUID made from its name (version 8, RFC 9562). */
export function machineIdOfName(name: string): MachineId {
  const digest = createHash('sha256').update(`understudy source\0${name}`).digest();
  digest.writeUInt8((digest.readUInt8(6) % 16) + 0x80, 6);
  digest.writeUInt8((digest.readUInt8(8) % 64) + 0x80, 8);
  const hex = digest.toString('hex', 0, 16);
  return parseMachineId(
    [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-'),
  );
}

/** The name of a source when the operator gives none: its export, or the place that serves it. */
export function defaultSourceName(uri: string): string {
  const target = parseNbdUri(uri);
  if (target.exportName !== '') return target.exportName;
  return target.kind === 'unix' ? (target.path.split('/').at(-1) ?? 'nbd') : target.host;
}

/**
 * Any NBD export as a source: physical machines, other hypervisors. It has no change tracking, so everything that is not
 * zero is read at every run and compared by content. The server must show a frozen state for as long as the run lasts;
 * a connection that was lost ends the run, because nothing could prove that another one shows the same state.
 */
export async function openNbdSource(options: NbdSourceOptions): Promise<BackupSource> {
  const takenAtMs = options.clock.nowMs();
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  const device = await connectNbd(options.uri, { reconnect: false, ...signal });
  if (device.sizeBytes === 0) {
    await device.close();
    throw new ApplianceError('NO_PROTECTABLE_DISK', `the export at ${options.uri} has no bytes`);
  }
  return new NbdSource(options, device, takenAtMs);
}

class NbdSource implements BackupSource {
  readonly machine: BackupSource['machine'];
  readonly takenAtMs: number;
  readonly consistency = 'crash-consistent';
  readonly disks: readonly SourceDisk[];
  readonly skipped: BackupSource['skipped'] = [];
  readonly attachments: BackupSource['attachments'] = [];
  readonly tracker: BackupSource['tracker'];
  readonly notices: readonly string[] = [];
  readonly #device: NbdDevice;

  constructor(options: NbdSourceOptions, device: NbdDevice, takenAtMs: number) {
    this.machine = { id: machineIdOfName(options.name), name: options.name };
    this.takenAtMs = takenAtMs;
    this.tracker = { kind: 'none', uri: options.uri };
    this.#device = device;
    const isFirst = options.previous === undefined;
    this.disks = [
      {
        name: DISK_NAME,
        device,
        kind: isFirst ? 'full' : 'full-scan',
        reason: isFirst ? 'first backup' : 'an NBD export has no change tracking: everything was read and compared',
        identity: { export: device.exportName },
        changes: (): AsyncIterable<Extent> => walkExtents(device, { offset: 0, length: device.sizeBytes }),
      },
    ];
  }

  async assertAlive(): Promise<void> {
    await this.#device.extents({
      offset: 0,
      length: Math.min(this.#device.limits.preferredBytes, this.#device.sizeBytes),
    });
  }

  async commit(): Promise<void> {
    // There is no position to move: the next run reads everything again.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#device.close();
  }
}
