// SPDX-License-Identifier: Apache-2.0
import type { Rewrite } from './rewrite-plan.ts';
import { attributeOf, childrenOf, find, removeChild, removeChildren, type XmlElement } from './xml.ts';

const CHARACTER_DEVICES = ['serial', 'parallel', 'console', 'channel', 'redirdev', 'smartcard'];
/** Character device types without anything of the host in them. */
const PORTABLE_CHARACTER_TYPES = ['null', 'vc', 'spicevmc', 'spiceport', 'qemu-vdagent', 'dbus', 'emulated'];

/** Everything but disks and network cards: what is tied to the original host or collides with the original. */
export function rewriteDevices(devices: XmlElement, rewrite: Rewrite): void {
  for (const device of childrenOf(devices)) {
    const reason = removalReason(device);
    if (reason !== undefined) {
      removeChild(devices, device);
      rewrite.changes.push(reason);
      continue;
    }
    removeSessionState(device);
    if (CHARACTER_DEVICES.includes(device.name)) rewriteCharacterDevice(devices, device, rewrite);
    else if (device.name === 'graphics') rewriteGraphics(device, rewrite);
    else if (device.name === 'vsock') rewriteVsock(device, rewrite);
    else if (device.name === 'tpm') noteTpm(rewrite);
  }
}

function removalReason(device: XmlElement): string | undefined {
  switch (device.name) {
    case 'hostdev': {
      const type = attributeOf(device, 'type') ?? 'unknown';
      return `A ${type} device of the original host is left out.`;
    }
    case 'filesystem':
      return `The shared folder ${sharedFolder(device)} is left out; it is not part of the machine.`;
    case 'shmem':
      return `The shared memory ${attributeOf(device, 'name') ?? ''} is left out; the original may use it.`;
    case 'lease':
      return 'A lock lease is left out; the original may hold it.';
    case 'memory': {
      const model = attributeOf(device, 'model') ?? '';
      return model === 'nvdimm' || model === 'virtio-pmem'
        ? `Persistent memory (${model}) is left out; its content is not in the recovery point.`
        : undefined;
    }
    case 'tpm':
      return attributeOf(find(device, 'backend'), 'type') === 'passthrough'
        ? 'The TPM of the original host is left out.'
        : undefined;
    default:
      return undefined;
  }
}

/** Only names given by the user (`ua-…`) may be in a definition; the others are those of a session. */
function removeSessionState(device: XmlElement): void {
  const alias = find(device, 'alias');
  if (alias !== undefined && attributeOf(alias, 'name')?.startsWith('ua-') !== true) removeChild(device, alias);
  removeChildren(device, 'seclabel');
  const source = find(device, 'source');
  if (source !== undefined) removeChildren(source, 'seclabel');
}

/** Files, sockets and ports on the host would be the original's. */
function rewriteCharacterDevice(devices: XmlElement, device: XmlElement, { changes }: Rewrite): void {
  const type = attributeOf(device, 'type') ?? attributeOf(device, 'mode') ?? 'pty';
  const where = `${device.name} ${attributeOf(find(device, 'target'), 'port') ?? ''}`.trim();
  if (removeChildren(device, 'log')) changes.push(`The log file of the ${where} device is left out.`);
  delete device.attributes['tty'];
  if (PORTABLE_CHARACTER_TYPES.includes(type)) return;
  const isVirtioChannel = device.name === 'channel' && attributeOf(find(device, 'target'), 'type') === 'virtio';
  if (type === 'unix' && isVirtioChannel) {
    // Without a path libvirt makes one of its own.
    removeChildren(device, 'source');
    return;
  }
  if (device.name === 'redirdev' || device.name === 'smartcard' || (device.name === 'channel' && !isVirtioChannel)) {
    removeChild(devices, device);
    changes.push(`The ${where} device is left out; it was connected to something on the original host.`);
    return;
  }
  removeChildren(device, 'source', 'protocol');
  device.attributes['type'] = 'pty';
  if (type !== 'pty')
    changes.push(`The ${where} device is a terminal of its own; it was a ${type} on the original host.`);
}

function rewriteGraphics(graphics: XmlElement, { changes }: Rewrite): void {
  const fixed = ['port', 'tlsPort', 'websocket'].filter((name) => {
    const value = attributeOf(graphics, name);
    return value !== undefined && value !== '-1' && value !== '0';
  });
  if (fixed.length > 0) {
    const wasAutomatic = attributeOf(graphics, 'autoport') === 'yes';
    for (const name of ['port', 'tlsPort', 'websocket']) delete graphics.attributes[name];
    graphics.attributes['autoport'] = 'yes';
    graphics.attributes['port'] = '-1';
    if (!wasAutomatic) changes.push('The screen has another port; the original may use the old one.');
  }
  const listens = childrenOf(graphics, 'listen').filter((listen) => attributeOf(listen, 'socket') !== undefined);
  for (const listen of listens) delete listen.attributes['socket'];
  const hadSocket = attributeOf(graphics, 'socket') !== undefined;
  delete graphics.attributes['socket'];
  if (listens.length > 0 || hadSocket) changes.push('The screen has another socket; the original may use the old one.');
}

function rewriteVsock(vsock: XmlElement, { changes }: Rewrite): void {
  const cid = find(vsock, 'cid');
  if (cid === undefined || attributeOf(cid, 'address') === undefined) return;
  cid.attributes = { auto: 'yes' };
  changes.push('The vsock address is chosen anew; the original may use the old one.');
}

function noteTpm({ changes }: Rewrite): void {
  changes.push(
    'The TPM starts empty: its state is not in the recovery point, and disks sealed with it need their recovery key.',
  );
}

function sharedFolder(device: XmlElement): string {
  return attributeOf(find(device, 'source'), 'dir') ?? attributeOf(find(device, 'target'), 'dir') ?? '';
}
