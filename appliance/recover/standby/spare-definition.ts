// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import {
  attributeOf,
  childrenOf,
  element,
  find,
  formatXml,
  parseXml,
  replaceChild,
} from '../../hypervisor/libvirt/xml.ts';

/** What is to be different from the saved definition when a spare stands in for its machine. */
export interface SpareWishes {
  /** Names of networks, bridges or devices on the original's hypervisor, with what they are called on the spare's. */
  readonly networks: Readonly<Record<string, string>>;
  /** Null leaves the memory as it is. */
  readonly memoryMiB: number | null;
}

/** The attributes of an interface's `<source>` that name where it is plugged in, by libvirt's interface type. */
const SOURCE_ATTRIBUTES: Readonly<Record<string, string>> = { network: 'network', bridge: 'bridge', direct: 'dev' };

/**
 * The saved definition with networks renamed and another memory size; everything else is left to `rewriteDomain`. Pure.
 * @throws ApplianceError DOMAIN_XML_INVALID; NOT_SUPPORTED for a memory size where the definition divides memory into cells
 */
export function adaptDefinition(
  definition: string,
  wishes: SpareWishes,
): { readonly xml: string; readonly changes: readonly string[] } {
  const domain = parseXml(definition);
  const changes: string[] = [];
  childrenOf(find(domain, 'devices'), 'interface').forEach((card, index) => {
    const attribute = SOURCE_ATTRIBUTES[attributeOf(card, 'type') ?? ''];
    const source = find(card, 'source');
    const from = attribute === undefined ? undefined : attributeOf(source, attribute);
    const to = from === undefined ? undefined : wishes.networks[from];
    if (attribute === undefined || source === undefined || to === undefined) return;
    source.attributes[attribute] = to;
    delete source.attributes['portgroup'];
    changes.push(`Network card ${index + 1} is plugged into ${to} instead of ${from}.`);
  });
  if (wishes.memoryMiB !== null) {
    if (find(domain, 'cpu/numa') !== undefined || find(domain, 'maxMemory') !== undefined) {
      throw new ApplianceError('NOT_SUPPORTED', 'the memory of this machine is divided into cells or slots', {
        hint: 'Leave --memory out: the spare then has the memory of the original.',
      });
    }
    for (const name of ['memory', 'currentMemory']) {
      const old = find(domain, name);
      if (old === undefined) continue;
      replaceChild(domain, old, element(name, { unit: 'MiB' }, [String(wishes.memoryMiB)]));
    }
    changes.push(`The memory is ${wishes.memoryMiB} MiB.`);
  }
  return { xml: formatXml(domain), changes };
}

/** `old=new,other=new` as a table. @throws ApplianceError BAD_ARGUMENT */
export function parseNetworks(text: string | undefined): Record<string, string> {
  const networks: Record<string, string> = {};
  for (const part of (text ?? '').split(',').filter((piece) => piece !== '')) {
    const [from = '', to = '', ...rest] = part.split('=').map((word) => word.trim());
    if (from === '' || to === '' || rest.length > 0 || from in networks) {
      throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(part)} does not say which network becomes which`, {
        hint: 'Write OLD=NEW, each OLD once.',
      });
    }
    networks[from] = to;
  }
  return networks;
}
