// SPDX-License-Identifier: Apache-2.0
import { removeMarker } from '../hypervisor/libvirt/domain-marker.ts';
import {
  attributeOf,
  childrenOf,
  element,
  find,
  formatXml,
  parseXml,
  removeChildren,
  replaceChild,
  setText,
  type XmlElement,
} from '../hypervisor/libvirt/xml.ts';
import type { MadeTarget } from './migration-record.ts';

export interface LastingPlan {
  readonly targets: readonly MadeTarget[];
  /** The new place of the firmware's variables. */
  readonly nvramPath: string | undefined;
  /** The definition that the machine had when it was backed up. */
  readonly saved: string | undefined;
}

/** What a boot puts on disks so that the guest waits for us, and what it may have been before. */
const POLICIES = ['error_policy', 'rerror_policy'] as const;

/**
 * The definition of a machine that has left the appliance, from its present one: its disks are files, what a boot added
 * is gone, and what the operator changed since stays. Network links stay as they are. Throws DOMAIN_XML_INVALID.
 */
export function lastingDefinition(present: string, plan: LastingPlan): string {
  const domain = parseXml(present);
  const saved = plan.saved === undefined ? undefined : parseXml(plan.saved);
  removeMarker(domain);
  for (const disk of childrenOf(find(domain, 'devices'), 'disk')) {
    const name = attributeOf(find(disk, 'target'), 'dev');
    const target = plan.targets.find((candidate) => candidate.disk === name);
    if (target !== undefined) settleDisk(disk, target, savedDriver(saved, name));
  }
  const nvram = find(domain, 'os/nvram');
  if (nvram !== undefined && plan.nvramPath !== undefined) {
    delete nvram.attributes['type'];
    setText(nvram, plan.nvramPath);
  }
  return formatXml(domain);
}

function settleDisk(disk: XmlElement, target: LastingPlan['targets'][number], before: XmlElement | undefined): void {
  disk.attributes['type'] = 'file';
  removeChildren(disk, 'backingStore', 'mirror');
  const driver = find(disk, 'driver') ?? element('driver', { name: 'qemu' });
  driver.attributes['type'] = target.format;
  for (const policy of POLICIES) {
    const was = attributeOf(before, policy);
    if (was === undefined) delete driver.attributes[policy];
    else driver.attributes[policy] = was;
  }
  const source = find(disk, 'source');
  const file = element('source', { file: target.path });
  if (source === undefined) disk.children.unshift(file);
  else replaceChild(disk, source, file);
  if (find(disk, 'driver') === undefined) disk.children.unshift(driver);
}

function savedDriver(saved: XmlElement | undefined, name: string | undefined): XmlElement | undefined {
  const disks = childrenOf(find(saved, 'devices'), 'disk');
  return find(
    disks.find((disk) => attributeOf(find(disk, 'target'), 'dev') === name),
    'driver',
  );
}
