// SPDX-License-Identifier: Apache-2.0
import { attributeOf, childrenOf, element, find, parseXml, removeChild, type XmlElement } from './xml.ts';

/** The namespace of our element in `<metadata>`. */
export const MARKER_NAMESPACE: string = 'https://understudy.dev/xmlns/domain/1';

/** What a domain that we made says about itself; by it we find our domains again, and touch no other. */
export interface DomainMarker {
  /** An instant boot, which lives on our exports, a restored machine, or a spare that was never started. */
  readonly purpose: 'boot' | 'restore' | 'standby';
  /** Id of the recovery point. */
  readonly point: string;
  /** UUID of the machine that was backed up. */
  readonly machine: string;
  /** Tells appliances apart that use one hypervisor: the repository's id, for example. */
  readonly owner: string;
}

/** The marker of a domain's XML; undefined for domains that are not ours, whatever they look like. */
export function readMarker(xml: string): DomainMarker | undefined {
  const found = childrenOf(find(parseXml(xml), 'metadata')).find((entry) => isMarker(entry));
  if (found === undefined) return undefined;
  const { purpose, point, machine, owner } = found.attributes;
  if (purpose !== 'boot' && purpose !== 'restore' && purpose !== 'standby') return undefined;
  if (point === undefined || machine === undefined || owner === undefined) return undefined;
  return { purpose, point, machine, owner };
}

/** Puts the marker into `<metadata>`, in the place of an older one; other tools' metadata stay. */
export function setMarker(domain: XmlElement, marker: DomainMarker): void {
  const metadata = find(domain, 'metadata') ?? addMetadata(domain);
  for (const entry of childrenOf(metadata).filter(isMarker)) removeChild(metadata, entry);
  const { purpose, point, machine, owner } = marker;
  metadata.children.push(
    element('understudy:domain', { 'xmlns:understudy': MARKER_NAMESPACE, purpose, point, machine, owner }),
  );
}

/** Takes the marker out, and `<metadata>` with it when nothing else is in there. */
export function removeMarker(domain: XmlElement): void {
  const metadata = find(domain, 'metadata');
  if (metadata === undefined) return;
  for (const entry of childrenOf(metadata).filter(isMarker)) removeChild(metadata, entry);
  if (childrenOf(metadata).length === 0) removeChild(domain, metadata);
}

function addMetadata(domain: XmlElement): XmlElement {
  const metadata = element('metadata');
  const before = domain.children.findIndex((child) => 'name' in child && child.name === 'memory');
  domain.children.splice(before < 0 ? 0 : before, 0, metadata);
  return metadata;
}

function isMarker(entry: XmlElement): boolean {
  const prefix = entry.name.split(':')[0] ?? '';
  return entry.name.endsWith(':domain') && attributeOf(entry, `xmlns:${prefix}`) === MARKER_NAMESPACE;
}
