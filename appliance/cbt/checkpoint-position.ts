// SPDX-License-Identifier: Apache-2.0
import { checkpointXml } from '../hypervisor/libvirt/backup-xml.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { readMachine } from '../hypervisor/libvirt/read-machine.ts';
import { OwnCheckpoints } from './checkpoints.ts';
import { identityOf } from './plan-disks.ts';
import type { PreviousState } from './source.ts';

export interface PositionRequest {
  readonly connection: LibvirtConnection;
  readonly domain: Domain;
  readonly repositoryId: string;
  /** See `ReadMachineOptions`. */
  readonly knownLevels: Map<string, string>;
}

/**
 * A new checkpoint of a running machine without a backup, which libvirt makes while disks are mirrored, too: from it on,
 * the bitmaps count. Undefined when a disk that is backed up cannot keep a bitmap. @throws those of libvirt
 */
export async function createPosition(request: PositionRequest): Promise<PreviousState | undefined> {
  const { connection, domain, repositoryId, knownLevels } = request;
  const machine = await readMachine(connection, domain, { knownLevels });
  const disks = machine.disks.filter(({ protection }) => protection.kind !== 'none');
  if (disks.length === 0 || disks.some(({ protection }) => protection.kind !== 'incremental')) return undefined;
  const targets = disks.map(({ target }) => target);
  const excludedTargets = machine.disks.map(({ target }) => target).filter((target) => !targets.includes(target));
  const name = new OwnCheckpoints(domain, repositoryId).newName();
  await domain.createCheckpoint(checkpointXml({ name, targets, excludedTargets }));
  return {
    tracker: { kind: 'libvirt-checkpoint', checkpoint: name, domain: machine.id },
    disks: disks.map((disk) => ({
      name: disk.target,
      sizeBytes: disk.sizeBytes ?? 0,
      identity: identityOf(disk),
    })),
  };
}

/** Deletes our checkpoints but those of the given positions; one that cannot be deleted stays for the next time. */
export async function dropPositions(
  domain: Domain,
  repositoryId: string,
  keep: readonly PreviousState[],
): Promise<void> {
  const names = keep.flatMap(({ tracker }) => tracker['checkpoint'] ?? []);
  await new OwnCheckpoints(domain, repositoryId).deleteAllBut(...names);
}
