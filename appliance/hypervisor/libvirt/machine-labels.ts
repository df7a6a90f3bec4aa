// SPDX-License-Identifier: Apache-2.0
import { hasCode } from '../../core/errors.ts';
import type { CallOptions } from './call-channel.ts';
import type { LibvirtConnection } from './connection.ts';
import { type DomainMarker, readMarker } from './domain-marker.ts';
import { find, parseXml, textOf } from './xml.ts';

/** By what a machine can be chosen besides its name: words in square brackets in its title and description. */
export interface MachineLabels {
  /** `[gold]` */
  readonly tags: readonly string[];
  /** `[/prod/web]`; the first there is. */
  readonly folder: string | null;
}

/** A machine as it is listed, without its disks. */
export interface LabelledMachine extends MachineLabels {
  readonly id: string;
  readonly name: string;
  readonly isActive: boolean;
  /** Undefined for a machine that is not ours. */
  readonly marker: DomainMarker | undefined;
}

/** More are a mistake, or somebody's text. */
const MAX_TAGS = 100;
const LABEL = /\[([^[\]\s]{1,200})\]/g;

/** Reads `<title>` and `<description>` of a domain's XML. Throws DOMAIN_XML_INVALID. */
export function readLabels(xml: string): MachineLabels {
  const domain = parseXml(xml);
  const text = ['title', 'description'].map((name) => textOf(find(domain, name)) ?? '').join('\n');
  const labels = [...text.matchAll(LABEL)].map(([, label = '']) => label).slice(0, MAX_TAGS);
  const folder = labels.find((label) => label.startsWith('/'))?.replace(/\/+$/, '');
  return { tags: [...new Set(labels.filter((label) => !label.startsWith('/')))], folder: folder ?? null };
}

/** All machines of the connection; one call for each, so that it can be asked for often. */
export async function readLabelledMachines(
  connection: LibvirtConnection,
  options?: CallOptions,
): Promise<LabelledMachine[]> {
  const machines: LabelledMachine[] = [];
  for (const { domain, isActive } of await connection.domains(options)) {
    try {
      const xml = await domain.xml(options);
      machines.push({ id: domain.uuid, name: domain.name, isActive, marker: readMarker(xml), ...readLabels(xml) });
    } catch (error) {
      if (!hasCode(error, 'DOMAIN_NOT_FOUND')) throw error;
    }
  }
  return machines;
}
