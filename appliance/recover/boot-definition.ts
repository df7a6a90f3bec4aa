// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { type RewrittenDomain, rewriteDomain } from '../hypervisor/libvirt/domain-rewrite.ts';
import type { DiskReplacement, HostFacts } from '../hypervisor/libvirt/rewrite-plan.ts';
import { childrenOf, element, find, formatXml, parseXml, removeChildren } from '../hypervisor/libvirt/xml.ts';

export interface BootPlan {
  readonly name: string;
  readonly uuid: string;
  readonly keepsIdentity: boolean;
  readonly keepsNetwork: boolean;
  /** By disk: the export that it reads from. */
  readonly exports: Readonly<Record<string, string>>;
  readonly socketPath: string;
  readonly nvramPath: string | undefined;
  /** Takes what the first serial console shows. */
  readonly consolePath?: string | undefined;
  readonly point: string;
  readonly machine: string;
  /** Id of the repository. */
  readonly owner: string;
}

/**
 * How long QEMU holds back a guest's request while the service is away, where libvirt can say so (9.1 and later). After
 * it, and with older ones at once, the guest is paused (`stopOnError`), and goes on when the service is back.
 */
const RECONNECT_SECONDS = 300;

/**
 * The definition under which a saved machine is booted from our exports. A disk that cannot be reached pauses the guest
 * instead of showing it an I/O error: file systems of a guest that saw one would be read-only ever after.
 * @throws ApplianceError DOMAIN_XML_INVALID; NOT_SUPPORTED for a console that is to be kept and is not there
 */
export function bootDefinition(definition: string, plan: BootPlan, host: HostFacts): RewrittenDomain {
  const disks = Object.fromEntries(
    Object.entries(plan.exports).map(([disk, exportName]): [string, DiskReplacement] => [
      disk,
      { kind: 'nbd', socketPath: plan.socketPath, exportName, reconnectSeconds: RECONNECT_SECONDS },
    ]),
  );
  const { xml, changes } = rewriteDomain(
    definition,
    {
      name: plan.name,
      uuid: plan.uuid,
      keepsMacAddresses: plan.keepsIdentity,
      keepsNetwork: plan.keepsNetwork,
      disks,
      ...(plan.nvramPath === undefined ? {} : { nvramPath: plan.nvramPath }),
      marker: { purpose: 'boot', point: plan.point, machine: plan.machine, owner: plan.owner },
    },
    host,
  );
  const stopping = stopOnError(xml);
  return { xml: plan.consolePath === undefined ? stopping : logConsole(stopping, plan.consolePath), changes };
}

function stopOnError(xml: string): string {
  const domain = parseXml(xml);
  for (const disk of childrenOf(find(domain, 'devices'), 'disk')) {
    if (disk.attributes['type'] !== 'network') continue;
    const driver = find(disk, 'driver') ?? element('driver');
    driver.attributes['error_policy'] = 'stop';
    driver.attributes['rerror_policy'] = 'stop';
  }
  return formatXml(domain);
}

function logConsole(xml: string, path: string): string {
  const domain = parseXml(xml);
  const devices = find(domain, 'devices');
  const serial = childrenOf(devices, 'serial')[0] ?? childrenOf(devices, 'console')[0];
  if (serial === undefined) {
    throw new ApplianceError('NOT_SUPPORTED', 'the machine has no serial console', {
      hint: 'Add one to the machine, and let its operating system use it (`console=ttyS0`).',
    });
  }
  removeChildren(serial, 'log');
  serial.children.push(element('log', { file: path, append: 'on' }));
  return formatXml(domain);
}
