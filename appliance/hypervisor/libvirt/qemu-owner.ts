// SPDX-License-Identifier: Apache-2.0
import type { LibvirtConnection } from './connection.ts';
import { attributeOf, childrenOf, find, parseXml, textOf } from './xml.ts';

/** The user that QEMU processes of a connection run as. */
export interface QemuOwner {
  readonly uid: number;
  readonly gid: number;
}

/** A daemon learns of another user when it is started, which ends its connections. */
const knownOwners = new WeakMap<LibvirtConnection, Promise<QemuOwner | undefined>>();

/**
 * From the DAC base label in the host's capabilities (`+64055:+64055`); undefined for a session daemon, whose QEMU runs
 * as the user itself. Asked once for each connection.
 */
export function qemuOwner(connection: LibvirtConnection): Promise<QemuOwner | undefined> {
  const known = knownOwners.get(connection);
  if (known !== undefined) return known;
  const reading = readOwner(connection);
  knownOwners.set(connection, reading);
  reading.catch(() => knownOwners.delete(connection));
  return reading;
}

async function readOwner(connection: LibvirtConnection): Promise<QemuOwner | undefined> {
  const host = find(parseXml(await connection.capabilities()), 'host');
  for (const model of childrenOf(host, 'secmodel')) {
    if (textOf(find(model, 'model')) !== 'dac') continue;
    const labels = childrenOf(model, 'baselabel');
    const label = labels.find((candidate) => attributeOf(candidate, 'type') === 'kvm') ?? labels[0];
    const match = /^\+(\d+):\+(\d+)$/.exec(textOf(label) ?? '');
    if (match !== null) return { uid: Number(match[1]), gid: Number(match[2]) };
  }
  return undefined;
}
