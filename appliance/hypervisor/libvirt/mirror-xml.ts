// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';
import { MAX_SOCKET_PATH_LENGTH } from './backup-xml.ts';
import { attributeOf, childrenOf, element, find, formatXml, parseXml, type XmlElement } from './xml.ts';

/** Where QEMU finds the NBD server of a mirror. */
export type MirrorPlace =
  /** A path of at most 107 bytes, on QEMU's host. */
  | { readonly kind: 'unix'; readonly socketPath: string }
  /** `isTls`: with the certificates that qemu.conf gives to QEMU as an NBD client (`nbd_tls_x509_cert_dir`). */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly isTls: boolean };

export interface MirrorDestination {
  readonly place: MirrorPlace;
  readonly exportName: string;
}

/** A block job as a disk of the running machine shows it. */
export interface DiskJob {
  /** Target of the disk, e.g. `vda`. */
  readonly disk: string;
  /** `copy`, `active-commit`. */
  readonly kind: string;
  /** The copy has everything; `abort` and `pivot` stand for jobs that are about to end. */
  readonly ready: 'no' | 'yes' | 'abort' | 'pivot';
  /** Undefined when the destination is no NBD export. */
  readonly destination: MirrorDestination | undefined;
}

/** The `<disk>` that `Domain.blockCopy` takes as its destination (libvirt: formatdomain, "Hard drives"). */
export function mirrorDestinationXml({ place, exportName }: MirrorDestination): string {
  const isTls = place.kind === 'tcp' && place.isTls;
  return formatXml(
    element('disk', { type: 'network', device: 'disk' }, [
      element('driver', { name: 'qemu', type: 'raw', discard: 'unmap' }),
      element('source', { protocol: 'nbd', name: exportName, tls: isTls ? 'yes' : undefined }, [host(place)]),
      element('target', { dev: 'vda' }),
    ]),
  );
}

/** The jobs that hold disks of a running machine; of its live definition. Throws DOMAIN_XML_INVALID. */
export function readDiskJobs(liveXml: string): DiskJob[] {
  const jobs: DiskJob[] = [];
  for (const disk of childrenOf(find(parseXml(liveXml), 'devices'), 'disk')) {
    const mirror = find(disk, 'mirror');
    const target = attributeOf(find(disk, 'target'), 'dev');
    if (mirror === undefined || target === undefined) continue;
    jobs.push({
      disk: target,
      kind: attributeOf(mirror, 'job') ?? 'copy',
      ready: readReady(attributeOf(mirror, 'ready')),
      destination: readDestination(mirror),
    });
  }
  return jobs;
}

/** Whether two names are of one export in one place. */
export function isSameDestination(one: MirrorDestination, other: MirrorDestination): boolean {
  if (one.exportName !== other.exportName) return false;
  if (one.place.kind === 'unix') return other.place.kind === 'unix' && one.place.socketPath === other.place.socketPath;
  return other.place.kind === 'tcp' && one.place.host === other.place.host && one.place.port === other.place.port;
}

function host(place: MirrorPlace): XmlElement {
  if (place.kind === 'tcp') return element('host', { name: place.host, port: String(place.port) });
  const isShort = Buffer.byteLength(place.socketPath) <= MAX_SOCKET_PATH_LENGTH;
  invariant(isShort, 'a unix socket path has at most 107 bytes');
  return element('host', { transport: 'unix', socket: place.socketPath });
}

function readReady(ready: string | undefined): DiskJob['ready'] {
  return ready === 'yes' || ready === 'abort' || ready === 'pivot' ? ready : 'no';
}

function readDestination(mirror: XmlElement): MirrorDestination | undefined {
  const source = find(mirror, 'source');
  if (attributeOf(mirror, 'type') !== 'network' || attributeOf(source, 'protocol') !== 'nbd') return undefined;
  const exportName = attributeOf(source, 'name') ?? '';
  const { transport, socket, name = '', port = '10809' } = find(source, 'host')?.attributes ?? {};
  if (transport === 'unix') return { exportName, place: { kind: 'unix', socketPath: socket ?? '' } };
  const isTls = attributeOf(source, 'tls') === 'yes';
  return { exportName, place: { kind: 'tcp', host: name, port: Number(port), isTls } };
}
