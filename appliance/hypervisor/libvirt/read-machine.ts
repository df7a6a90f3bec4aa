// SPDX-License-Identifier: Apache-2.0
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { hasCode, systemErrorCode } from '../../core/errors.ts';
import { imageInfo } from '../qemu-img.ts';
import type { CallOptions } from './call-channel.ts';
import type { LibvirtConnection } from './connection.ts';
import type { Domain } from './domain.ts';
import { isLocal } from './endpoint.ts';
import { type InventoryFacts, type Machine, type MachineDisk, machineFromXml } from './inventory.ts';
import { attributeOf, find, parseXml, textOf } from './xml.ts';

/** All machines of the connection, running or not, in the daemon's order; one that vanishes meanwhile is left out. */
export async function readMachines(connection: LibvirtConnection, options?: CallOptions): Promise<Machine[]> {
  const machines: Machine[] = [];
  for (const { domain } of await connection.domains(options)) {
    try {
      machines.push(await readMachine(connection, domain, options));
    } catch (error) {
      if (!hasCode(error, 'DOMAIN_NOT_FOUND')) throw error;
    }
  }
  return machines;
}

export interface ReadMachineOptions extends CallOptions {
  /** Versions of qcow2 images by path: what is in it is not looked at again, and what was looked at is put into it. */
  readonly knownLevels?: Map<string, string>;
}

/** One machine as it is now: its live definition when it runs, sizes asked from libvirt, storage volumes resolved. */
export async function readMachine(
  connection: LibvirtConnection,
  domain: Domain,
  options?: ReadMachineOptions,
): Promise<Machine> {
  const { state } = await domain.state(options);
  const xml = await domain.xml(options);
  const plain = machineFromXml(xml, { state });
  const sizes: Record<string, number> = {};
  const compat: Record<string, string> = {};
  const volumePaths: Record<string, string> = {};
  const formats: Record<string, string> = {};
  for (const disk of plain.disks) {
    if (disk.protection.kind === 'none') continue;
    let size = await readSize(domain, disk, options);
    let path = disk.source?.kind === 'file' || disk.source?.kind === 'block' ? disk.source.path : undefined;
    let format = disk.format;
    if (disk.source?.kind === 'volume') {
      const volume = await readVolume(connection, disk.source, options);
      path = volume?.path;
      if (volume !== undefined) volumePaths[disk.target] = volume.path;
      if (volume?.format !== undefined) formats[disk.target] = volume.format;
      format = volume?.format ?? format;
      // libvirt looks volumes up when the machine starts; before that it cannot tell the disk's size.
      size ??= volume?.sizeBytes;
    }
    if (size !== undefined) sizes[disk.target] = size;
    // A file of the same name on this host would be another one.
    const level =
      format === 'qcow2' && path !== undefined && isLocal(connection.uri)
        ? await levelOf(path, options?.knownLevels)
        : undefined;
    if (level !== undefined) compat[disk.target] = level;
  }
  const facts: InventoryFacts = { state, sizes, compat, volumePaths, formats };
  return machineFromXml(xml, facts);
}

async function levelOf(path: string, known: Map<string, string> | undefined): Promise<string | undefined> {
  const level = known?.get(path) ?? (await readCompat(path));
  if (level !== undefined) known?.set(path, level);
  return level;
}

async function readSize(domain: Domain, disk: MachineDisk, options?: CallOptions): Promise<number | undefined> {
  try {
    return (await domain.blockInfo(disk.target, options)).capacityBytes;
  } catch (error) {
    // An image that is missing or on storage that is down: the machine is listed all the same, without a size.
    if (hasCode(error, 'LIBVIRT_FAILED', 'DOMAIN_WRONG_STATE', 'NOT_SUPPORTED', 'VOLUME_NOT_FOUND')) return undefined;
    throw error;
  }
}

interface ResolvedVolume {
  readonly path: string;
  readonly format: string | undefined;
  readonly sizeBytes: number | undefined;
}

async function readVolume(
  connection: LibvirtConnection,
  source: { readonly pool: string; readonly volume: string },
  options?: CallOptions,
): Promise<ResolvedVolume | undefined> {
  try {
    const { path, xml } = await connection.storageVolume(source.pool, source.volume, options);
    const volume = parseXml(xml);
    // libvirt writes it in bytes.
    const capacity = Number(textOf(find(volume, 'capacity')) ?? 'none');
    return {
      path,
      format: attributeOf(find(volume, 'target/format'), 'type'),
      sizeBytes: Number.isSafeInteger(capacity) ? capacity : undefined,
    };
  } catch (error) {
    if (hasCode(error, 'VOLUME_NOT_FOUND', 'LIBVIRT_FAILED')) return undefined;
    throw error;
  }
}

/** Only of images that this process can read; where it cannot, starting the backup will tell. */
async function readCompat(path: string): Promise<string | undefined> {
  try {
    await access(path, constants.R_OK);
    return (await imageInfo({ location: path, format: 'qcow2' }, { isShared: true })).compat ?? undefined;
  } catch (error) {
    if (hasCode(error, 'TOOL_FAILED', 'TOOL_MISSING', 'TIMED_OUT') || systemErrorCode(error) !== undefined)
      return undefined;
    throw error;
  }
}
