// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../appliance/core/errors.ts';
import type { Domain } from '../appliance/hypervisor/libvirt/domain.ts';

export interface GuestWrite {
  readonly offset: number;
  readonly length: number;
  /** What it is filled with; 0 is written as zeroes (`WRITE_ZEROES`). */
  readonly byte: number;
}

/**
 * Writes to the n-th virtio disk of a running machine as its guest would: through QEMU's device, whatever is between it and the
 * image, a mirror among it. Settles when it is complete for the guest. @throws ApplianceError TOOL_FAILED
 */
export async function guestWrite(domain: Domain, disk: number, write: GuestWrite): Promise<void> {
  const { offset, length, byte } = write;
  const how = byte === 0 ? '-z' : `-P ${byte}`;
  await guestIo(domain, disk, `write ${how} ${offset} ${length}`);
}

/** Any command of qemu-io on the n-th virtio disk. @throws ApplianceError TOOL_FAILED */
export async function guestIo(domain: Domain, disk: number, command: string): Promise<void> {
  const device = `/machine/peripheral/virtio-disk${disk}/virtio-backend`;
  const reply = await domain.monitorCommand({
    execute: 'human-monitor-command',
    arguments: { 'command-line': `qemu-io -d ${device} "${command}"` },
  });
  if (!/failed|error/i.test(String(reply))) return;
  throw new ApplianceError('TOOL_FAILED', `${domain.name}, disk ${disk}: ${command}: ${String(reply)}`);
}
