// SPDX-License-Identifier: Apache-2.0
import type { BackupReport, MachineDetails, MachineDisk, MachineSummary, PointSummary } from '../api/operations.ts';
import type { GuardReport } from '../api/schemas/retention.ts';
import { sourceText } from '../cbt/plan-disks.ts';
import type { Machine } from '../hypervisor/libvirt/inventory.ts';
import { pointsOfMachine } from '../protect/point-selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { PointGuard } from '../repository/point-guard.ts';
import type { MachineCover } from './policies/machine-cover.ts';

/** Pure translations of what the services know into what the operations answer. */

/** Where a machine is, and who protects it. */
export type MachinePlace = Pick<MachineSummary, 'hypervisor'> & MachineCover;

export function machineSummary(
  machine: Machine,
  points: readonly RecoveryPoint[],
  place: MachinePlace,
): MachineSummary {
  const own = pointsOfMachine(points, machine.id);
  return {
    id: machine.id,
    name: machine.name,
    state: machine.state,
    disks: machine.disks.map(
      (disk): MachineDisk => ({
        name: disk.target,
        device: disk.device,
        source: sourceText(disk.source),
        format: disk.format,
        sizeBytes: disk.sizeBytes,
        protection: disk.protection.kind,
        reason: disk.protection.kind === 'incremental' ? '' : disk.protection.reason,
      }),
    ),
    points: own.length,
    newestPoint: own[0]?.createdAt ?? null,
    ...place,
  };
}

export function machineDetails(
  machine: Machine,
  points: readonly RecoveryPoint[],
  place: MachinePlace,
): MachineDetails {
  const notes = machine.unprotectedDevices.map(({ device, reason }) => `${device}: ${reason}`);
  if (machine.tpm !== null) notes.push(`TPM (${machine.tpm.backend}): its state is in no recovery point`);
  if (machine.firmware.kind === 'uefi' && machine.firmware.nvramPath === null) {
    notes.push('UEFI firmware without a variable store yet: there is none to save');
  }
  return {
    ...machineSummary(machine, points, place),
    firmware: machine.firmware.kind,
    hasAgent: machine.hasAgentChannel,
    notes,
  };
}

export function backupReport(point: RecoveryPoint, notices: readonly string[]): BackupReport {
  return {
    point: point.id,
    machine: point.machine.name,
    kind: point.kind,
    reason: point.reason,
    consistency: point.consistency,
    createdAt: point.createdAt,
    durationMs: point.durationMs,
    disks: point.disks.map(({ name, sizeBytes, kind, reason, stats }) => ({ name, sizeBytes, kind, reason, ...stats })),
    skipped: point.skipped,
    notices,
  };
}

/** A hold or a lock as the operations show it. */
export function guardReport(guard: PointGuard | undefined): GuardReport | null {
  return guard === undefined ? null : { reason: guard.reason, since: guard.since, until: guard.until };
}

export function pointSummary(
  point: RecoveryPoint,
  { hold, lock }: Pick<PointSummary, 'hold' | 'lock'>,
  isLost: boolean,
): PointSummary {
  const sum = (of: (disk: RecoveryPoint['disks'][number]) => number): number =>
    point.disks.reduce((total, disk) => total + of(disk), 0);
  return {
    id: point.id,
    machine: point.machine.name,
    machineId: point.machine.id,
    createdAt: point.createdAt,
    kind: point.kind,
    reason: point.reason,
    consistency: point.consistency,
    disks: point.disks.length,
    sizeBytes: sum((disk) => disk.sizeBytes),
    dataBytes: sum((disk) => disk.dataBytes),
    newChunkBytes: sum((disk) => disk.stats.newChunkBytes),
    storedBytes: sum((disk) => disk.stats.storedBytes),
    durationMs: point.durationMs,
    lost: isLost,
    hold,
    lock,
  };
}
