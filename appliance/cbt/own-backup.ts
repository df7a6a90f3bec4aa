// SPDX-License-Identifier: Apache-2.0
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { readBackupXml } from '../hypervisor/libvirt/backup-xml.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { OwnCheckpoints } from './checkpoints.ts';

export interface OwnBackupRequest {
  readonly domain: Domain;
  readonly repositoryId: string;
  /** Its lock is held by this process: a job with a socket in it is nobody else's. */
  readonly runtimeDirectory: string;
}

export interface BackupWait extends OwnBackupRequest {
  readonly clock: Clock;
  /** Called once, when the job does not end at once. */
  readonly onWait: (reason: string) => void;
  readonly signal: AbortSignal;
}

/** libvirt 9.0 waits 30 s for each event of a port that came while the job ran. */
const LIMIT_MS = 5 * 60_000;
export const SAID_AFTER_MS = 1_000;
export const JOB_WAIT =
  "libvirt has not yet let go of the appliance's own backup job: events of the guest's ports hold it up";
/** The first one may have come before the job could be ended. */
const ABORT_EACH_MS = 5_000;
const POLL_MS = 50;

/**
 * What of this appliance a machine's backup job is: the mark by which it can be ended, or undefined when there is no job.
 * @throws ApplianceError DOMAIN_BUSY when it is somebody else's
 */
export async function ownBackupMark({
  domain,
  repositoryId,
  runtimeDirectory,
}: OwnBackupRequest): Promise<string | undefined> {
  let xml: string;
  try {
    xml = await domain.backupXml();
  } catch (error) {
    if (hasCode(error, 'NO_BACKUP_JOB', 'DOMAIN_WRONG_STATE')) return undefined;
    throw error;
  }
  const { socketPath, exportNames } = readBackupXml(xml);
  const checkpoints = new OwnCheckpoints(domain, repositoryId);
  const isOwn =
    socketPath === undefined
      ? exportNames.every((name) => checkpoints.isOwn(name))
      : dirname(dirname(socketPath)) === runtimeDirectory;
  if (isOwn) return socketPath ?? commonStart(exportNames);
  throw new ApplianceError('DOMAIN_BUSY', `another backup job runs on ${domain.name}`, {
    hint: 'Wait until the other backup tool has finished, or end its job with `virsh domjobabort`.',
  });
}

/**
 * Ends a backup job of this appliance, if the machine has one, and waits until libvirt has let go of it.
 * @throws ApplianceError DOMAIN_BUSY when the job is somebody else's, TIMED_OUT, what the signal was aborted with
 */
export async function waitForOwnBackup(wait: BackupWait): Promise<void> {
  const { domain, clock, onWait, signal } = wait;
  const startedMs = clock.elapsedMs();
  let wasSaid = false;
  let abortAtMs = startedMs;
  while ((await ownBackupMark(wait)) !== undefined) {
    const waitedMs = clock.elapsedMs() - startedMs;
    if (waitedMs > LIMIT_MS) {
      throw new ApplianceError('TIMED_OUT', `libvirt does not end the appliance's own backup job of ${domain.name}`);
    }
    if (waitedMs > SAID_AFTER_MS && !wasSaid) {
      wasSaid = true;
      onWait(JOB_WAIT);
    }
    if (clock.elapsedMs() >= abortAtMs) {
      await abort(domain);
      abortAtMs = clock.elapsedMs() + ABORT_EACH_MS;
    }
    await delay(POLL_MS, undefined, { signal });
  }
}

async function abort(domain: Domain): Promise<void> {
  try {
    await domain.abortJob();
  } catch (error) {
    // It ended meanwhile, or is being ended and cannot be asked.
    if (!hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_BUSY', 'TIMED_OUT')) throw error;
  }
}

function commonStart(names: readonly string[]): string {
  const [first = ''] = names;
  return first.slice(0, first.indexOf('/') + 1);
}
