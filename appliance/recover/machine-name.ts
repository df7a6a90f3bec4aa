// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';

const MAX_NAME_LENGTH = 200;

/** A name that libvirt takes and that can be part of a file name. @throws ApplianceError BAD_ARGUMENT */
export function checkMachineName(name: string): string {
  const isName = name.length > 0 && name.length <= MAX_NAME_LENGTH && !/[/\p{Cc}]/u.test(name);
  if (isName && name.trim() === name && name !== '.' && name !== '..') return name;
  throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(name)} cannot be the name of a machine`);
}

/**
 * Refuses a name or UUID that a machine of the connection has: libvirt would take a definition with a UUID that it knows
 * for a new definition of that very machine. @throws ApplianceError DOMAIN_EXISTS
 */
export async function checkMachineIsNew(connection: LibvirtConnection, name: string, machineId: string): Promise<void> {
  for (const { domain } of await connection.domains()) {
    if (domain.name === name) {
      throw new ApplianceError('DOMAIN_EXISTS', `there is a machine ${name} on ${connection.uri} already`);
    }
    if (domain.uuid.toLowerCase() === machineId.toLowerCase()) {
      throw new ApplianceError('DOMAIN_EXISTS', `${connection.uri} has ${domain.name} with the same UUID`, {
        hint: 'Boot it without --keep-identity, or undefine the original first.',
      });
    }
  }
}
