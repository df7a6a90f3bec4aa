// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import type { BlockDevice } from '../block/block-device.ts';
import { walkExtents } from '../block/extent-walk.ts';
import { throwIfAborted } from '../block/pipeline.ts';
import { ApplianceError } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { attributeOf, childrenOf, find, parseXml, type XmlElement } from '../hypervisor/libvirt/xml.ts';
import { checkMachineName } from './machine-name.ts';
import { isThere } from './migration-nvram.ts';
import type { MigrationFormat, MigrationPlace, MigrationRecord, MigrationTarget } from './migration-record.ts';
import { checkPlace, type DiskNeed, type PlaceAccess } from './migration-targets.ts';
import { checkAbsent } from './new-file.ts';
import type { Session } from './session-store.ts';

export interface MigrateRequest {
  /** Of the booted machine. */
  readonly name: string;
  /** Not needed to finish a migration that was interrupted half-way. */
  readonly place?: MigrationPlace;
  /** Default: qcow2, whose changed blocks can be tracked. */
  readonly format?: MigrationFormat;
  /** Of the copy, per second; the guest's own writes are not slowed down by it. */
  readonly bandwidthBytes?: number;
  /** The name that it shall have, from the next time on that it is shut off. */
  readonly as?: string;
  /** Whether it starts with its host; otherwise that stays as it is. */
  readonly autostart?: boolean;
  /** Compare the copies before the machine goes over to them; default true. */
  readonly verifies?: boolean;
}

export interface PlanInput {
  readonly session: Session;
  readonly request: MigrateRequest & { readonly place: MigrationPlace };
  readonly access: PlaceAccess;
  /** Of the running machine. */
  readonly xml: string;
  /** By disk: the export that the machine must have it from. */
  readonly exports: Readonly<Record<string, string>>;
  readonly deviceOf: (disk: string) => BlockDevice;
  /** Of the session's own variables of the firmware. */
  readonly nvramPath: string;
  readonly signal: AbortSignal;
}

/** QEMU's disks end at a multiple of it. */
const SECTOR_BYTES = 512;

/**
 * What is to be done, with everything checked that can be before anything is made.
 * @throws ApplianceError BAD_ARGUMENT, DOMAIN_EXISTS, NOT_SUPPORTED, ABORTED, and as `checkPlace`
 */
export async function planMigration(input: PlanInput): Promise<{ record: MigrationRecord; notices: string[] }> {
  const { session, request, access } = input;
  const { place, as, autostart } = request;
  if (as !== undefined && as !== session.name) await checkName(access.connection, checkMachineName(as));
  const name = as ?? session.name;
  const notices: string[] = [];
  const needs: DiskNeed[] = [];
  for (const { name: disk } of session.point.disks) {
    if (!isServed(input, disk)) {
      notices.push(`${disk} is not attached to ${session.name} any more; it is left behind.`);
      continue;
    }
    const device = input.deviceOf(disk);
    needs.push({
      target: planTarget(name, disk, { request, sizeBytes: device.sizeBytes }),
      dataBytes: await dataBytesOf(device, input.signal),
    });
  }
  if (needs.length === 0) throw new ApplianceError('NOT_SUPPORTED', `${session.name} has none of its disks any more`);
  notices.push(...(await checkPlace(access, needs)));
  const nvramPath = await planNvram(input, name);
  const record: MigrationRecord = {
    place,
    targets: needs.map(({ target }) => target),
    ...(as === undefined || as === session.name ? {} : { as }),
    ...(autostart === undefined ? {} : { autostart }),
    ...(nvramPath === undefined ? {} : { nvramPath }),
  };
  return { record, notices };
}

function planTarget(
  name: string,
  disk: string,
  { request, sizeBytes }: { readonly request: MigrateRequest; readonly sizeBytes: number },
): MigrationTarget {
  const format = request.format ?? 'qcow2';
  return {
    disk,
    format,
    sizeBytes: Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES,
    name: `${name}-${disk}.${format}`,
  };
}

async function checkName(connection: LibvirtConnection, name: string): Promise<void> {
  for (const { domain } of await connection.domains()) {
    if (domain.name !== name) continue;
    throw new ApplianceError('DOMAIN_EXISTS', `there is a machine ${name} on ${connection.uri} already`, {
      hint: 'Choose another name with --as, or rename or undefine that machine first.',
    });
  }
}

/** False when the machine does not have the disk any more. @throws ApplianceError NOT_SUPPORTED when it has it in another way */
function isServed({ xml, exports, session }: PlanInput, name: string): boolean {
  const disk = diskOf(xml, name);
  if (disk === undefined) return false;
  const source = find(disk, 'source');
  if (attributeOf(source, 'protocol') === 'nbd' && attributeOf(source, 'name') === exports[name]) return true;
  throw new ApplianceError('NOT_SUPPORTED', `${name} of ${session.name} does not come from the appliance directly`, {
    hint: 'A snapshot of the machine is in between, or somebody has changed the disk. Commit or remove the snapshot first.',
  });
}

function diskOf(xml: string, name: string): XmlElement | undefined {
  const disks = childrenOf(find(parseXml(xml), 'devices'), 'disk');
  return disks.find((disk) => attributeOf(find(disk, 'target'), 'dev') === name);
}

async function dataBytesOf(device: BlockDevice, signal: AbortSignal): Promise<number> {
  let bytes = 0;
  for await (const extent of walkExtents(device, { offset: 0, length: device.sizeBytes })) {
    throwIfAborted(signal);
    if (extent.kind === 'data') bytes += extent.length;
  }
  return bytes;
}

/** Beside the disks; a pool needs a directory for that. */
async function planNvram({ access, nvramPath }: PlanInput, name: string): Promise<string | undefined> {
  if (!(await isThere(nvramPath))) return undefined;
  const { place, connection } = access;
  const directory = place.kind === 'directory' ? place.path : (await connection.storagePool(place.name)).path;
  if (directory === null) throw new ApplianceError('NOT_SUPPORTED', 'the pool has no place for the firmware variables');
  const path = join(directory, `${name}-nvram.fd`);
  await checkAbsent(path);
  return path;
}
