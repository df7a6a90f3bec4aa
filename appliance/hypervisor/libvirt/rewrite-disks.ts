// SPDX-License-Identifier: Apache-2.0
import type { DiskReplacement, Rewrite } from './rewrite-plan.ts';
import { attributeOf, childrenOf, element, find, removeChild, removeChildren, type XmlElement } from './xml.ts';

/** Of an image that is not used any more, or of the session that ended. */
const STALE_DISK_CHILDREN = [
  'backingStore',
  'mirror',
  'auth',
  'encryption',
  'transient',
  'readonly',
  'shareable',
] as const;
/** They depend on the kind of storage; the rest of `<driver>` is about the guest's side and stays. */
const STORAGE_DRIVER_ATTRIBUTES = [
  'type',
  'cache',
  'io',
  'discard',
  'copy_on_read',
  'discard_no_unref',
  'metadata_cache',
] as const;

/** Gives every disk of the plan its new storage in the same slot, empties drives whose medium is gone, drops the others. */
export function rewriteDisks(devices: XmlElement, rewrite: Rewrite): void {
  const used = new Set<string>();
  for (const disk of childrenOf(devices, 'disk')) {
    const target = attributeOf(find(disk, 'target'), 'dev') ?? '';
    const replacement = rewrite.plan.disks[target];
    if (replacement !== undefined) {
      used.add(target);
      replaceStorage(disk, replacement);
      rewrite.changes.push(`Disk ${target} reads from ${storageWords(replacement)}.`);
    } else if (attributeOf(disk, 'device') === 'cdrom' || attributeOf(disk, 'device') === 'floppy') {
      rewriteRemovable(disk, target, rewrite);
    } else {
      removeChild(devices, disk);
      rewrite.changes.push(`Disk ${target} is not in the recovery point and is left out.`);
    }
  }
  for (const target of Object.keys(rewrite.plan.disks)) {
    if (!used.has(target)) rewrite.changes.push(`Disk ${target} is not in the saved definition and is not attached.`);
  }
}

function replaceStorage(disk: XmlElement, replacement: DiskReplacement): void {
  removeChildren(disk, ...STALE_DISK_CHILDREN);
  const types = { nbd: 'network', file: 'file', block: 'block' } as const;
  disk.attributes['type'] = types[replacement.kind];
  disk.attributes['device'] = 'disk';
  delete disk.attributes['rawio'];
  delete disk.attributes['sgio'];
  delete disk.attributes['snapshot'];
  const oldDriver = find(disk, 'driver');
  const kept = Object.entries(oldDriver?.attributes ?? {}).filter(
    ([name]) => !STORAGE_DRIVER_ATTRIBUTES.some((unwanted) => unwanted === name),
  );
  const driver = element('driver', {
    ...Object.fromEntries(kept),
    name: 'qemu',
    type: replacement.kind === 'file' ? replacement.format : 'raw',
    cache: 'none',
    discard: 'unmap',
  });
  driver.children = (oldDriver?.children ?? []).filter(
    (child) => !('name' in child) || child.name !== 'metadata_cache',
  );
  const source = sourceElement(replacement);
  const oldSource = find(disk, 'source');
  disk.children = disk.children.map((child) => (child === oldDriver ? driver : child === oldSource ? source : child));
  if (oldSource === undefined) disk.children.unshift(source);
  if (oldDriver === undefined) disk.children.unshift(driver);
}

function sourceElement(replacement: DiskReplacement): XmlElement {
  switch (replacement.kind) {
    case 'nbd':
      return element('source', { protocol: 'nbd', name: replacement.exportName }, [
        element('host', { transport: 'unix', socket: replacement.socketPath }),
        element('reconnect', { delay: String(replacement.reconnectSeconds) }),
      ]);
    case 'file':
      return element('source', { file: replacement.path });
    case 'block':
      return element('source', { dev: replacement.path });
  }
}

function rewriteRemovable(drive: XmlElement, target: string, { host, changes }: Rewrite): void {
  const source = find(drive, 'source');
  removeChildren(drive, 'backingStore');
  if (source === undefined) return;
  const path = attributeOf(source, 'file') ?? attributeOf(source, 'dev');
  const isCdrom = attributeOf(drive, 'device') === 'cdrom';
  // A floppy can be written: the original may have the same one.
  if (isCdrom && path !== undefined && host.hasPath(path)) return;
  removeChild(drive, source);
  drive.attributes['type'] = 'file';
  const medium = path ?? 'its medium';
  changes.push(
    isCdrom
      ? `The CD drive ${target} is empty: ${medium} is not on this host.`
      : `The floppy drive ${target} is empty; it had ${medium}.`,
  );
}

function storageWords(replacement: DiskReplacement): string {
  switch (replacement.kind) {
    case 'nbd':
      return `the export ${replacement.exportName}`;
    case 'file':
    case 'block':
      return replacement.path;
  }
}
