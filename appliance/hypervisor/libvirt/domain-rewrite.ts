// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { ApplianceError } from '../../core/errors.ts';
import { setMarker } from './domain-marker.ts';
import { rewriteDevices } from './rewrite-devices.ts';
import { rewriteDisks } from './rewrite-disks.ts';
import { rewriteInterfaces } from './rewrite-interfaces.ts';
import type { HostFacts, Rewrite, RewritePlan } from './rewrite-plan.ts';
import {
  attributeOf,
  childrenOf,
  element,
  find,
  formatXml,
  parseXml,
  removeChild,
  removeChildren,
  replaceChild,
  setText,
  textOf,
  type XmlElement,
} from './xml.ts';

export interface RewrittenDomain {
  readonly xml: string;
  /** One sentence for each thing that is not as it was, for people. */
  readonly changes: readonly string[];
}

/**
 * The definition of a machine that stands in for a backed-up one: from the saved `definition`, with other disks and whatever
 * cannot be taken along replaced or left out, each named in `changes`. Processor, machine type, memory, addresses of devices,
 * and all that is not known here stay as they are. Pure: the same input gives the same XML. Throws DOMAIN_XML_INVALID.
 */
export function rewriteDomain(definition: string, plan: RewritePlan, host: HostFacts): RewrittenDomain {
  const domain = parseXml(definition);
  const devices = find(domain, 'devices');
  if (domain.name !== 'domain' || devices === undefined) {
    throw new ApplianceError('DOMAIN_XML_INVALID', 'the saved definition is not a domain with devices');
  }
  const rewrite: Rewrite = { plan, host, changes: [] };
  rewriteIdentity(domain, rewrite);
  rewriteFirmware(domain, rewrite);
  rewriteSecurity(domain, rewrite);
  rewriteEmulator(devices, rewrite);
  rewriteDisks(devices, rewrite);
  rewriteInterfaces(devices, rewrite);
  rewriteDevices(devices, rewrite);
  setMarker(domain, plan.marker);
  return { xml: formatXml(domain), changes: rewrite.changes };
}

function rewriteIdentity(domain: XmlElement, { plan, changes }: Rewrite): void {
  delete domain.attributes['id'];
  const oldName = textOf(find(domain, 'name'));
  const oldUuid = textOf(find(domain, 'uuid'));
  if (oldName !== plan.name) changes.push(`The name is ${plan.name} instead of ${oldName ?? 'none'}.`);
  replaceText(domain, 'name', plan.name);
  replaceText(domain, 'uuid', plan.uuid);
  if (oldUuid?.toLowerCase() !== plan.uuid.toLowerCase()) {
    changes.push(`The UUID is ${plan.uuid} instead of ${oldUuid ?? 'none'}.`);
    // libvirt refuses a definition whose SMBIOS UUID is another.
    for (const entry of childrenOf(find(domain, 'sysinfo/system'), 'entry')) {
      if (attributeOf(entry, 'name') === 'uuid') setText(entry, plan.uuid);
    }
  }
  const generation = find(domain, 'genid');
  if (generation !== undefined) {
    // Guests such as domain controllers learn from a new one that they were set back in time.
    setText(generation, derivedUuid(`${plan.uuid} ${plan.marker.point} generation`));
    changes.push('The VM generation id is new, so that the guest knows that it was set back in time.');
  }
}

function rewriteFirmware(domain: XmlElement, { plan, host, changes }: Rewrite): void {
  const os = find(domain, 'os');
  const nvram = find(os, 'nvram');
  if (os !== undefined && (nvram !== undefined || plan.nvramPath !== undefined)) {
    const kept = { template: attributeOf(nvram, 'template'), templateFormat: attributeOf(nvram, 'templateFormat') };
    const path = plan.nvramPath;
    if (path !== undefined) {
      replaceChild(os, nvram, element('nvram', { ...kept, format: attributeOf(nvram, 'format') }, [path]));
      changes.push(`The firmware's variables are in ${path}.`);
    } else if (nvram !== undefined) {
      // libvirt makes a fresh store for this UUID from the template.
      if (kept.template === undefined) removeChild(os, nvram);
      else replaceChild(os, nvram, element('nvram', kept));
      changes.push("The firmware's variables were not saved; the firmware starts with fresh ones.");
    }
  }
  for (const name of ['loader', 'kernel', 'initrd', 'dtb']) {
    const path = textOf(find(os, name));
    if (path?.startsWith('/') === true && !host.hasPath(path)) {
      changes.push(`The file ${path}, which the machine boots with, is not on this host; the start will fail.`);
    }
  }
}

function rewriteSecurity(domain: XmlElement, { changes }: Rewrite): void {
  if (removeChildren(domain, 'seclabel')) changes.push('Security labels are left out; libvirt makes new ones.');
  if (childrenOf(domain, 'qemu:commandline').length > 0) {
    changes.push('Arguments given to QEMU directly are kept; they may name things of the original host.');
  }
}

function rewriteEmulator(devices: XmlElement, { host, changes }: Rewrite): void {
  const emulator = find(devices, 'emulator');
  const path = textOf(emulator);
  if (emulator === undefined || path === undefined || host.hasPath(path)) return;
  removeChild(devices, emulator);
  changes.push(`The emulator ${path} is not on this host; libvirt chooses one.`);
}

function replaceText(parent: XmlElement, name: string, text: string): void {
  const old = find(parent, name);
  if (old === undefined) parent.children.unshift(element(name, {}, [text]));
  else setText(old, text);
}

/** A UUID of version 8 (RFC 9562) made from `seed`: the same seed, the same UUID. */
function derivedUuid(seed: string): string {
  const hex = createHash('sha256').update(seed).digest('hex');
  const variant = ((Number.parseInt(hex.slice(16, 17), 16) % 4) + 8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
