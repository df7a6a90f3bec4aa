// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import { isLocal } from '../hypervisor/libvirt/endpoint.ts';

/**
 * A booted machine reads its disks from a unix socket of this host, so its hypervisor must run here.
 * @throws ApplianceError NOT_SUPPORTED for a connection to another host, BAD_ARGUMENT
 */
export function checkIsLocal(uri: string): void {
  if (isLocal(uri)) return;
  throw new ApplianceError('NOT_SUPPORTED', `${uri} is another host; a point is booted on the host of the appliance`, {
    details: { uri },
    hint: 'Use qemu:///system or qemu:///session, or restore the machine there.',
  });
}
