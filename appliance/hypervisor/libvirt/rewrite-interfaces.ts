// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { Rewrite } from './rewrite-plan.ts';
import { attributeOf, childrenOf, element, find, removeChildren, replaceChild, type XmlElement } from './xml.ts';

/** What makes sense for any kind of network card; the rest belongs to the network that it was on. */
const GUEST_SIDE_CHILDREN = ['mac', 'model', 'address', 'boot', 'rom', 'mtu', 'acpi', 'alias', 'link'];
/** libvirt's network card towards nowhere: QEMU's user network, which needs neither privileges nor a bridge. */
const ISOLATED_TYPE = 'user';

/** New addresses, cable out, and a network that exists, as far as the plan asks for it. */
export function rewriteInterfaces(devices: XmlElement, rewrite: Rewrite): void {
  const { plan, changes } = rewrite;
  childrenOf(devices, 'interface').forEach((card, index) => {
    const number = index + 1;
    if (!plan.keepsMacAddresses) {
      const address = derivedMac(plan.uuid, index);
      const old = find(card, 'mac');
      replaceChild(card, old, element('mac', { address }));
      changes.push(
        `Network card ${number} has the address ${address} instead of ${attributeOf(old, 'address') ?? 'none'}.`,
      );
    }
    const obstacle = networkObstacle(card, rewrite);
    if (obstacle !== undefined) isolate(card);
    else removeSessionState(card);
    if (obstacle === undefined && plan.keepsNetwork) return;
    replaceChild(card, find(card, 'link'), element('link', { state: 'down' }));
    changes.push(
      obstacle === undefined
        ? `Network card ${number} has no link.`
        : `Network card ${number} has no link and no network: ${obstacle}.`,
    );
  });
}

function networkObstacle(card: XmlElement, { host }: Rewrite): string | undefined {
  const source = find(card, 'source');
  const type = attributeOf(card, 'type') ?? 'unknown';
  switch (type) {
    case 'user':
      return undefined;
    case 'bridge': {
      const bridge = attributeOf(source, 'bridge') ?? '';
      return host.hasBridge(bridge) ? undefined : `the bridge ${bridge} cannot be used here`;
    }
    case 'network': {
      const network = attributeOf(source, 'network') ?? '';
      return host.hasNetwork(network) ? undefined : `the network ${network} is not active here`;
    }
    case 'direct': {
      const device = attributeOf(source, 'dev') ?? '';
      return host.hasPath(`/sys/class/net/${device}`) ? undefined : `the device ${device} is not on this host`;
    }
    default:
      return `a card of type ${type} depends on the original host`;
  }
}

function isolate(card: XmlElement): void {
  card.attributes['type'] = ISOLATED_TYPE;
  delete card.attributes['managed'];
  delete card.attributes['trustGuestRxFilters'];
  card.children = card.children.filter((child) => !('name' in child) || GUEST_SIDE_CHILDREN.includes(child.name));
}

/** The name of the tap device and the port number belong to the running original. */
function removeSessionState(card: XmlElement): void {
  removeChildren(card, 'target', 'actual');
  const source = find(card, 'source');
  if (source !== undefined) delete source.attributes['portid'];
}

/** In QEMU's range 52:54:00, made from the domain's UUID and the card's number. */
function derivedMac(uuid: string, index: number): string {
  const digest = createHash('sha256').update(`${uuid.toLowerCase()} card ${index}`).digest();
  return `52:54:00:${[0, 1, 2].map((byte) => digest.toString('hex', byte, byte + 1)).join(':')}`;
}
