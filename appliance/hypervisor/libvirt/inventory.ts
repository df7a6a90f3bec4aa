// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import type { DomainStateName } from './constants.ts';
import { attributeOf, childrenOf, find, parseXml, textOf, type XmlElement } from './xml.ts';

export type DiskSource =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'block'; readonly path: string }
  | { readonly kind: 'network'; readonly protocol: string; readonly name: string; readonly hosts: readonly string[] }
  | { readonly kind: 'volume'; readonly pool: string; readonly volume: string; readonly path: string | null }
  /** vhost-user, NVMe passthrough, a directory as FAT, …; `type` is libvirt's word. */
  | { readonly kind: 'other'; readonly type: string };

export type Protection =
  | { readonly kind: 'incremental' }
  | { readonly kind: 'full-scan'; readonly reason: string; readonly hint?: string }
  | { readonly kind: 'none'; readonly reason: string };

export interface MachineDisk {
  /** Unique in the machine, e.g. `vda`; what libvirt's jobs call it. */
  readonly target: string;
  /** `disk`, `cdrom`, `floppy`, `lun`. */
  readonly device: string;
  readonly bus: string | null;
  readonly serial: string | null;
  readonly wwn: string | null;
  /** Null for an empty drive. */
  readonly source: DiskSource | null;
  readonly format: string;
  /** What the guest sees; null when nobody could tell. */
  readonly sizeBytes: number | null;
  readonly isReadOnly: boolean;
  readonly isShareable: boolean;
  /** A block job of somebody has a hold on it. */
  readonly hasBlockJob: boolean;
  /** Below the image itself, nearest first; only as far as the XML tells, which for inactive machines is nothing. */
  readonly backingChain: readonly { readonly source: DiskSource | null; readonly format: string }[];
  readonly protection: Protection;
}

export interface MachineFirmware {
  readonly kind: 'bios' | 'uefi';
  readonly loaderPath: string | null;
  /** The machine's own variable store; null when it has none yet. */
  readonly nvramPath: string | null;
  readonly nvramTemplate: string | null;
}

export interface Machine {
  /** The domain's UUID, by which a machine is known; names change. */
  readonly id: string;
  readonly name: string;
  readonly state: DomainStateName;
  readonly disks: readonly MachineDisk[];
  readonly firmware: MachineFirmware;
  /** The emulated or host TPM; its state is not in any disk. */
  readonly tpm: { readonly model: string; readonly backend: string } | null;
  /** True when the machine has the channel of QEMU's guest agent. */
  readonly hasAgentChannel: boolean;
  /** Storage the guest can use that is no disk of the machine, each with the reason why it is not protected. */
  readonly unprotectedDevices: readonly { readonly device: string; readonly reason: string }[];
}

/** What the XML does not say, by disk target. */
export interface InventoryFacts {
  readonly state: DomainStateName;
  readonly sizes?: Readonly<Record<string, number>>;
  /** qcow2 compatibility level as `qemu-img info` has it: `0.10` or `1.1`. */
  readonly compat?: Readonly<Record<string, string>>;
  /** Paths of storage volumes that disks name by pool and volume. */
  readonly volumePaths?: Readonly<Record<string, string>>;
  /** Formats of storage volumes whose disk does not name one. */
  readonly formats?: Readonly<Record<string, string>>;
}

/** Reads a domain's XML. Throws DOMAIN_XML_INVALID. */
export function machineFromXml(xml: string, facts: InventoryFacts): Machine {
  const domain = parseXml(xml);
  const id = textOf(find(domain, 'uuid'));
  const name = textOf(find(domain, 'name'));
  if (domain.name !== 'domain' || id === undefined || name === undefined) {
    throw new ApplianceError('DOMAIN_XML_INVALID', 'the XML is not a domain with name and UUID');
  }
  const devices = find(domain, 'devices');
  return {
    id,
    name,
    state: facts.state,
    disks: childrenOf(devices, 'disk').map((disk) => readDisk(disk, facts)),
    firmware: readFirmware(find(domain, 'os')),
    tpm: readTpm(find(devices, 'tpm')),
    hasAgentChannel: childrenOf(devices, 'channel').some(
      (channel) => attributeOf(find(channel, 'target'), 'name') === 'org.qemu.guest_agent.0',
    ),
    unprotectedDevices: readUnprotectedDevices(devices),
  };
}

/** The disks that a recovery point of this machine holds: everything that can be read. */
export function protectableDisks(machine: Machine): MachineDisk[] {
  return machine.disks.filter((disk) => disk.protection.kind !== 'none');
}

function readDisk(disk: XmlElement, facts: InventoryFacts): MachineDisk {
  const target = attributeOf(find(disk, 'target'), 'dev') ?? '';
  const source = readSource(disk, facts.volumePaths?.[target] ?? null);
  const described = {
    target,
    device: attributeOf(disk, 'device') ?? 'disk',
    bus: attributeOf(find(disk, 'target'), 'bus') ?? null,
    serial: textOf(find(disk, 'serial')) ?? null,
    wwn: textOf(find(disk, 'wwn')) ?? null,
    source,
    // libvirt takes a disk without a format for raw, and never probes.
    format: attributeOf(find(disk, 'driver'), 'type') ?? facts.formats?.[target] ?? 'raw',
    sizeBytes: facts.sizes?.[target] ?? null,
    isReadOnly: find(disk, 'readonly') !== undefined,
    isShareable: find(disk, 'shareable') !== undefined,
    isTransient: find(disk, 'transient') !== undefined,
    hasBlockJob: find(disk, 'mirror') !== undefined,
    backingChain: readBackingChain(disk),
  };
  const { isTransient, ...result } = described;
  return { ...result, protection: protectionOf({ ...described, isTransient, compat: facts.compat?.[target] ?? null }) };
}

function readSource(holder: XmlElement, volumePath: string | null): DiskSource | null {
  const source = find(holder, 'source');
  const type = attributeOf(holder, 'type') ?? 'file';
  switch (type) {
    case 'file':
    case 'block': {
      const path = attributeOf(source, type === 'file' ? 'file' : 'dev');
      return path === undefined ? null : { kind: type, path };
    }
    case 'network': {
      if (source === undefined) return null;
      const hosts = childrenOf(source, 'host').map(
        (host) =>
          attributeOf(host, 'socket') ?? `${attributeOf(host, 'name') ?? ''}:${attributeOf(host, 'port') ?? ''}`,
      );
      const { protocol = '', name = '' } = source.attributes;
      return { kind: 'network', protocol, name, hosts };
    }
    case 'volume': {
      const { pool, volume } = source?.attributes ?? {};
      if (pool === undefined || volume === undefined) return null;
      return { kind: 'volume', pool, volume, path: volumePath };
    }
    default:
      return { kind: 'other', type };
  }
}

function readBackingChain(disk: XmlElement): MachineDisk['backingChain'] {
  const chain: { source: DiskSource | null; format: string }[] = [];
  let layer = find(disk, 'backingStore');
  // The last layer is an empty <backingStore/>.
  while (layer !== undefined && find(layer, 'source') !== undefined) {
    chain.push({ source: readSource(layer, null), format: attributeOf(find(layer, 'format'), 'type') ?? 'raw' });
    layer = find(layer, 'backingStore');
  }
  return chain;
}

type DescribedDisk = Omit<MachineDisk, 'protection'> & {
  readonly isTransient: boolean;
  readonly compat: string | null;
};

function protectionOf(disk: DescribedDisk): Protection {
  const reason = exclusionReason(disk);
  if (reason !== undefined) return { kind: 'none', reason };
  if (disk.isTransient) {
    return { kind: 'full-scan', reason: 'the disk is transient: what the guest writes is thrown away when it stops' };
  }
  if (disk.format === 'qcow2') {
    if (disk.compat !== '0.10') return { kind: 'incremental' };
    return {
      kind: 'full-scan',
      reason: 'the image is a qcow2 of version 2 (compat 0.10), which cannot store dirty bitmaps',
      hint: 'With the machine shut off, run `qemu-img amend -o compat=1.1 IMAGE`; from then on backups are incremental.',
    };
  }
  return {
    kind: 'full-scan',
    reason: `${storageWords(disk)} cannot store dirty bitmaps; only qcow2 can`,
    hint: 'Every backup reads the whole disk and stores what differs. A qcow2 image makes backups incremental.',
  };
}

function exclusionReason(disk: DescribedDisk): string | undefined {
  if (disk.device === 'cdrom') return 'a CD-ROM drive; removable media are no part of the machine';
  if (disk.device === 'floppy') return 'a floppy drive; removable media are no part of the machine';
  if (disk.device === 'lun')
    return 'a SCSI device passed through to the guest; the hypervisor does not see what it writes';
  if (disk.source === null) return 'the drive is empty';
  if (disk.isShareable) {
    return 'the disk is shared with other machines, so no single machine has a consistent view of it';
  }
  if (disk.isReadOnly) return 'the disk is read-only for the machine, so the machine cannot have changed it';
  if (disk.source.kind === 'other' && disk.source.type !== 'nvme') {
    return `the disk is of type ${disk.source.type}, whose data does not pass through the hypervisor`;
  }
  return undefined;
}

function storageWords(disk: DescribedDisk): string {
  const source = disk.source;
  if (source?.kind === 'network') return `${disk.format} on ${source.protocol} storage`;
  if (source?.kind === 'block') return `a ${disk.format} block device`;
  return `a ${disk.format} image`;
}

function readFirmware(os: XmlElement | undefined): MachineFirmware {
  const loader = find(os, 'loader');
  const nvram = find(os, 'nvram');
  const isUefi =
    attributeOf(os, 'firmware') === 'efi' || attributeOf(loader, 'type') === 'pflash' || nvram !== undefined;
  return {
    kind: isUefi ? 'uefi' : 'bios',
    loaderPath: textOf(loader) ?? null,
    // Since libvirt 8.5 the store may be a <source> instead of text.
    nvramPath: textOf(nvram) ?? attributeOf(find(nvram, 'source'), 'file') ?? null,
    nvramTemplate: attributeOf(nvram, 'template') ?? null,
  };
}

function readTpm(tpm: XmlElement | undefined): Machine['tpm'] {
  if (tpm === undefined) return null;
  return {
    model: attributeOf(tpm, 'model') ?? 'unknown',
    backend: attributeOf(find(tpm, 'backend'), 'type') ?? 'unknown',
  };
}

function readUnprotectedDevices(devices: XmlElement | undefined): Machine['unprotectedDevices'] {
  const found: { device: string; reason: string }[] = [];
  for (const device of childrenOf(devices, 'hostdev')) {
    const type = attributeOf(device, 'type') ?? 'unknown';
    found.push({
      device: `host ${type} device`,
      reason: 'a device of the host is passed through; the hypervisor does not see its data',
    });
  }
  for (const share of childrenOf(devices, 'filesystem')) {
    const directory = attributeOf(find(share, 'source'), 'dir') ?? 'unknown';
    found.push({
      device: `shared folder ${directory}`,
      reason: 'a folder of the host; it is protected with the host, not with the machine',
    });
  }
  for (const memory of childrenOf(devices, 'memory')) {
    const model = attributeOf(memory, 'model');
    if (model !== 'nvdimm' && model !== 'virtio-pmem') continue;
    found.push({
      device: `persistent memory (${model})`,
      reason: 'persistent memory is not a disk for the hypervisor',
    });
  }
  return found;
}
