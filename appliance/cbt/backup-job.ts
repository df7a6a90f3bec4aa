// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasCode, toError } from '../core/errors.ts';
import { type BackupDisk, type BackupServer, backupXml, checkpointXml } from '../hypervisor/libvirt/backup-xml.ts';
import type { BackupChannel } from './backup-channel.ts';
import { removeLeftoverScratch, scratchPathBeside } from './leftovers.ts';
import type { PreparedMachine } from './libvirt-source.ts';
import { ownBackupMark } from './own-backup.ts';
import type { DiskPlan } from './plan-disks.ts';

/** A pull backup job that runs, and what it has on the hypervisor's host. */
export interface BackupJob {
  /** Begins the names of its exports: what recognises it. */
  readonly mark: string;
  readonly checkpoint: string | undefined;
  readonly scratchPaths: readonly string[];
  readonly plans: readonly DiskPlan[];
}

/** Names of a job's exports and of the bitmaps in them. */
export function exportNameOf(job: BackupJob, plan: DiskPlan): string {
  return job.mark + plan.disk.target;
}

export function bitmapNameOf(plan: DiskPlan): string {
  return `backup-${plan.disk.target}`;
}

/**
 * Ends a job that a dead process of this appliance left: its socket lies in our directory, whose lock we hold, or its exports
 * have names of ours. @throws ApplianceError DOMAIN_BUSY when the job is somebody else's
 */
export async function endOrphan(prepared: PreparedMachine): Promise<void> {
  const { options, checkpoints, baseName, notices } = prepared;
  const mark = await ownBackupMark(options);
  if (mark !== undefined) {
    await options.domain.endBackup(mark);
    notices.push('a backup job that an interrupted run had left was ended');
  }
  notices.push(...(await checkpoints.deleteAllBut(baseName)));
  await removeScratch(prepared);
}

/** On another host libvirt removes them at the job's end, and nobody else can. */
async function removeScratch({ endpoint, plans }: PreparedMachine): Promise<void> {
  if (endpoint.kind === 'local') await removeLeftoverScratch(plans);
}

/** When libvirt cannot use the old checkpoint, everything is scanned instead, with libvirt's reason. */
export async function beginWithFallback(prepared: PreparedMachine, channel: BackupChannel): Promise<BackupJob> {
  try {
    return await beginJob(prepared, prepared.plans, channel);
  } catch (error) {
    const isBaseUnusable = hasCode(error, 'CHECKPOINT_INCONSISTENT', 'CHECKPOINT_NOT_FOUND');
    if (!isBaseUnusable || !prepared.plans.some(({ kind }) => kind === 'incremental')) throw error;
    const reason = `libvirt cannot use the checkpoint: ${error.message}`;
    const scans = prepared.plans.map((plan) =>
      plan.kind === 'incremental' ? { ...plan, kind: 'full-scan' as const, reason } : plan,
    );
    return beginJob(prepared, scans, channel);
  }
}

async function beginJob(
  prepared: PreparedMachine,
  plans: readonly DiskPlan[],
  channel: BackupChannel,
): Promise<BackupJob> {
  const { options, machine, checkpoints } = prepared;
  const name = checkpoints.newName();
  const tracked = plans.filter(({ disk }) => disk.protection.kind === 'incremental').map(({ disk }) => disk.target);
  const planned = plans.map(({ disk }) => disk.target);
  const othersThan = (targets: readonly string[]): string[] =>
    machine.disks.map(({ target }) => target).filter((target) => !targets.includes(target));
  const scratchPaths = plans.map((plan) => scratchPath(plan, prepared, name));
  const job = { mark: `${name}/`, checkpoint: tracked.length === 0 ? undefined : name, scratchPaths, plans };
  const disks = plans.map((plan, i) => backupDisk(job, plan, { scratchPath: scratchPaths[i] ?? '', prepared }));
  const checkpoint = checkpointXml({ name, targets: tracked, excludedTargets: othersThan(tracked) });
  const start = (server: BackupServer): Promise<void> =>
    options.domain.backupBegin({
      backup: backupXml({ server, disks, excludedTargets: othersThan(planned) }),
      ...(tracked.length === 0 ? {} : { checkpoint }),
    });
  try {
    await channel.begin(start);
  } catch (error) {
    await removeTraces(prepared, job);
    throw error;
  }
  return job;
}

function backupDisk(
  job: BackupJob,
  plan: DiskPlan,
  by: { readonly scratchPath: string; readonly prepared: PreparedMachine },
): BackupDisk {
  const { baseName } = by.prepared;
  const isIncremental = plan.kind === 'incremental';
  return {
    target: plan.disk.target,
    exportName: exportNameOf(job, plan),
    mode: isIncremental && baseName !== undefined ? { kind: 'incremental', checkpoint: baseName } : { kind: 'full' },
    ...(isIncremental ? { exportBitmap: bitmapNameOf(plan) } : {}),
    scratchPath: by.scratchPath,
  };
}

/** Beside the image, where QEMU may write; else in the appliance's own directory. */
function scratchPath(plan: DiskPlan, { options, endpoint }: PreparedMachine, name: string): string {
  const image = plan.disk.source?.kind === 'file' ? plan.disk.source.path : undefined;
  if (image !== undefined) return scratchPathBeside(image, name);
  if (endpoint.kind === 'local') return join(options.scratchDirectory, `${name}-${plan.disk.target}`);
  return join(REMOTE_SCRATCH, `${name}-${plan.disk.target}.scratch`);
}

/** Exists on every host with libvirt, and images are expected there. */
const REMOTE_SCRATCH = '/var/lib/libvirt/images';

/** After the job's end: libvirt has removed its scratch files, unless the job was killed or never began. */
export async function removeTraces({ endpoint, notices }: PreparedMachine, job: BackupJob): Promise<void> {
  if (endpoint.kind !== 'local') return;
  for (const path of job.scratchPaths) {
    try {
      await rm(path, { force: true });
    } catch (error) {
      notices.push(`the file ${path} cannot be removed: ${toError(error).message}`);
    }
  }
}
