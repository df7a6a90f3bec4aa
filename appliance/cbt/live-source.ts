// SPDX-License-Identifier: Apache-2.0
import { chown, mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { walkExtents } from '../block/extent-walk.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import { backupXml, checkpointXml } from '../hypervisor/libvirt/backup-xml.ts';
import { qemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import { BASE_ALLOCATION } from '../nbd/protocol.ts';
import { changedExtents } from './changes.ts';
import { connectWhenReady } from './connect-when-ready.ts';
import { removeLeftoverScratch, scratchPathBeside } from './leftovers.ts';
import type { PreparedMachine } from './libvirt-source.ts';
import type { DiskPlan } from './plan-disks.ts';
import { withFrozenGuest } from './quiesce.ts';
import type { BackupSource, SourceDisk } from './source.ts';
import { SpaceWatch } from './space-watch.ts';

/** A pull backup job that runs, and what it left on this host. */
interface Job {
  readonly directory: string;
  readonly socketPath: string;
  readonly checkpoint: string | undefined;
  readonly scratchPaths: readonly string[];
  readonly plans: readonly DiskPlan[];
}

/**
 * Begins a pull backup over every protectable disk in one atomic step, together with the checkpoint that the next run
 * continues from. When libvirt cannot use the old checkpoint, everything is scanned instead, with libvirt's reason.
 */
export async function openLiveSource(prepared: PreparedMachine): Promise<BackupSource> {
  const { machine, notices, options } = prepared;
  await endOrphan(prepared);
  const begin = (): Promise<Job> => beginWithFallback(prepared);
  const hasAgent = machine.hasAgentChannel && machine.state === 'running';
  let takenAtMs = options.clock.nowMs();
  let isFrozen = false;
  let job: Job;
  if (hasAgent) {
    const quiesced = await withFrozenGuest(options.domain, options.freezeMarker, () => {
      takenAtMs = options.clock.nowMs();
      return begin();
    });
    notices.push(...quiesced.notices);
    isFrozen = quiesced.isFrozen;
    job = quiesced.result;
  } else job = await begin();
  const source = new LiveSource(prepared, job, { takenAtMs, isFrozen });
  try {
    await source.connect();
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
  return source;
}

/** A job that a dead process of this appliance left (its socket lies in our directory, whose lock we hold) is ended. */
async function endOrphan({ options, checkpoints, baseName, notices, plans }: PreparedMachine): Promise<void> {
  let xml: string;
  try {
    xml = await options.domain.backupXml();
  } catch (error) {
    if (hasCode(error, 'NO_BACKUP_JOB', 'DOMAIN_WRONG_STATE')) {
      notices.push(...(await checkpoints.deleteAllBut(baseName)));
      await removeLeftoverScratch(plans);
      return;
    }
    throw error;
  }
  const socketPath = /<server [^>]*socket=['"]([^'"]+)['"]/.exec(xml)?.[1];
  if (socketPath === undefined || dirname(dirname(socketPath)) !== options.runtimeDirectory) {
    throw new ApplianceError('DOMAIN_BUSY', `another backup job runs on ${options.domain.name}`, {
      hint: 'Wait until the other backup tool has finished, or end its job with `virsh domjobabort`.',
    });
  }
  await options.domain.endBackup(socketPath);
  notices.push('a backup job that an interrupted run had left was ended');
  notices.push(...(await checkpoints.deleteAllBut(baseName)));
  await removeLeftoverScratch(plans);
}

async function beginWithFallback(prepared: PreparedMachine): Promise<Job> {
  try {
    return await beginJob(prepared, prepared.plans);
  } catch (error) {
    const isBaseUnusable = hasCode(error, 'CHECKPOINT_INCONSISTENT', 'CHECKPOINT_NOT_FOUND');
    if (!isBaseUnusable || !prepared.plans.some(({ kind }) => kind === 'incremental')) throw error;
    const reason = `libvirt cannot use the checkpoint: ${error.message}`;
    const scans = prepared.plans.map((plan) =>
      plan.kind === 'incremental' ? { ...plan, kind: 'full-scan' as const, reason } : plan,
    );
    return beginJob(prepared, scans);
  }
}

async function beginJob(prepared: PreparedMachine, plans: readonly DiskPlan[]): Promise<Job> {
  const { options, machine, checkpoints, baseName } = prepared;
  const name = checkpoints.newName();
  const directory = join(options.runtimeDirectory, name.slice(-12));
  await mkdir(directory, { mode: 0o700 });
  const owner = await qemuOwner(options.connection);
  if (owner !== undefined && process.getuid?.() === 0) await chown(directory, owner.uid, owner.gid);
  const socketPath = join(directory, 's');
  const tracked = plans.filter(({ disk }) => disk.protection.kind === 'incremental').map(({ disk }) => disk.target);
  const untracked = machine.disks.map(({ target }) => target).filter((target) => !tracked.includes(target));
  const planned = plans.map(({ disk }) => disk.target);
  const scratchPaths = plans.map((plan) => scratchPath(plan, options.scratchDirectory, name));
  const disks = plans.map((plan, i) => ({
    target: plan.disk.target,
    exportName: plan.disk.target,
    mode:
      plan.kind === 'incremental' && baseName !== undefined
        ? { kind: 'incremental' as const, checkpoint: baseName }
        : { kind: 'full' as const },
    ...(plan.kind === 'incremental' ? { exportBitmap: bitmapName(plan) } : {}),
    scratchPath: scratchPaths[i] ?? '',
  }));
  const job: Job = { directory, socketPath, checkpoint: tracked.length === 0 ? undefined : name, scratchPaths, plans };
  try {
    await options.domain.backupBegin({
      backup: backupXml({
        socketPath,
        disks,
        excludedTargets: machine.disks.map(({ target }) => target).filter((target) => !planned.includes(target)),
      }),
      ...(tracked.length === 0
        ? {}
        : { checkpoint: checkpointXml({ name, targets: tracked, excludedTargets: untracked }) }),
    });
  } catch (error) {
    await removeTraces(job);
    throw error;
  }
  return job;
}

function bitmapName(plan: DiskPlan): string {
  return `backup-${plan.disk.target}`;
}

/** Beside the image, where QEMU may write; else in the appliance's own directory. */
function scratchPath(plan: DiskPlan, directory: string, name: string): string {
  const image = plan.disk.source?.kind === 'file' ? plan.disk.source.path : undefined;
  if (image === undefined) return join(directory, `${name}-${plan.disk.target}`);
  return scratchPathBeside(image, name);
}

async function removeTraces(job: Job): Promise<void> {
  for (const path of job.scratchPaths) await rm(path, { force: true });
  await rm(job.directory, { recursive: true, force: true });
}

class LiveSource implements BackupSource {
  readonly machine: BackupSource['machine'];
  readonly takenAtMs: number;
  readonly consistency: BackupSource['consistency'];
  readonly skipped: BackupSource['skipped'];
  readonly attachments: BackupSource['attachments'];
  readonly tracker: BackupSource['tracker'];
  readonly notices: string[];
  readonly disks: SourceDisk[] = [];
  readonly #prepared: PreparedMachine;
  readonly #job: Job;
  readonly #devices: NbdDevice[] = [];
  readonly #space: SpaceWatch;
  #isJobEnded = false;
  #isCommitted = false;
  #isDisposed = false;

  constructor(prepared: PreparedMachine, job: Job, moment: { readonly takenAtMs: number; readonly isFrozen: boolean }) {
    this.#prepared = prepared;
    this.#job = job;
    this.machine = { id: prepared.machineId, name: prepared.machine.name };
    this.takenAtMs = moment.takenAtMs;
    this.consistency = moment.isFrozen ? 'file-system-consistent' : 'crash-consistent';
    this.skipped = prepared.skipped;
    this.attachments = prepared.attachments;
    this.notices = prepared.notices;
    this.tracker =
      job.checkpoint === undefined
        ? { kind: 'none', domain: prepared.machine.id }
        : { kind: 'libvirt-checkpoint', checkpoint: job.checkpoint, domain: prepared.machine.id };
    this.#space = new SpaceWatch(job.scratchPaths.map(dirname), () => this.#endJob());
  }

  async connect(): Promise<void> {
    for (const plan of this.#job.plans) {
      const context = `qemu:dirty-bitmap:${bitmapName(plan)}`;
      const isIncremental = plan.kind === 'incremental';
      const uri = `nbd+unix:///${plan.disk.target}?socket=${encodeURIComponent(this.#job.socketPath)}`;
      const metaContexts = isIncremental ? [BASE_ALLOCATION, context] : [BASE_ALLOCATION];
      const { signal } = this.#prepared.options;
      const device = await connectWhenReady(() => connectNbd(uri, { metaContexts, reconnect: false, signal }), signal);
      this.#devices.push(device);
      const sizeBytes = plan.disk.sizeBytes;
      if (sizeBytes !== null && device.sizeBytes !== sizeBytes) {
        throw new ApplianceError(
          'SOURCE_CHANGED',
          `${plan.disk.target} has ${device.sizeBytes} bytes, a moment ago ${sizeBytes}`,
        );
      }
      this.disks.push({
        name: plan.disk.target,
        device,
        kind: plan.kind,
        reason: plan.reason,
        identity: plan.identity,
        changes: (onUnchangedZero): AsyncIterable<Extent> =>
          isIncremental
            ? changedExtents(device, context, onUnchangedZero)
            : walkExtents(device, { offset: 0, length: device.sizeBytes }),
      });
    }
  }

  async assertAlive(): Promise<void> {
    this.#space.throwIfLow();
    const { domain } = this.#prepared.options;
    const { state } = await domain.state();
    // A guest that has shut itself down stays `shutting-down` until libvirt has let go of the job, which may take 30 s.
    if (state === 'shut-off' || state === 'crashed' || state === 'shutting-down') {
      throw new ApplianceError('DOMAIN_GONE', `${domain.name} was stopped during the backup`);
    }
    try {
      await domain.backupXml();
    } catch (cause) {
      if (!hasCode(cause, 'NO_BACKUP_JOB')) throw cause;
      throw new ApplianceError('DOMAIN_GONE', `the backup job of ${domain.name} was ended by somebody`, { cause });
    }
    for (const plan of this.#job.plans) {
      const { capacityBytes } = await domain.blockInfo(plan.disk.target);
      if (plan.disk.sizeBytes !== null && capacityBytes !== plan.disk.sizeBytes) {
        throw new ApplianceError('SOURCE_CHANGED', `${plan.disk.target} was resized during the backup`);
      }
    }
  }

  async commit(): Promise<void> {
    this.#isCommitted = true;
    await this.#endJob();
    await this.#deleteAllBut(this.#job.checkpoint, 'an old checkpoint is left for the next run');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    await this.#endJob();
    if (this.#isCommitted) return;
    await this.#deleteAllBut(this.#prepared.baseName, 'the checkpoint of the failed run is left for the next one');
  }

  /** Nothing depends on what is left: no newest point names it, and the next run deletes it. */
  async #deleteAllBut(name: string | undefined, otherwise: string): Promise<void> {
    try {
      this.notices.push(...(await this.#prepared.checkpoints.deleteAllBut(name)));
    } catch (error) {
      this.notices.push(`${otherwise}: ${toError(error).message}`);
    }
  }

  async #endJob(): Promise<void> {
    if (this.#isJobEnded) return;
    this.#isJobEnded = true;
    this.#space.stop();
    await Promise.allSettled(this.#devices.map((device) => device.close()));
    try {
      await this.#prepared.options.domain.endBackup(this.#job.socketPath);
    } catch (error) {
      if (!hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) {
        this.notices.push(`the backup job could not be ended: ${toError(error).message}`);
      }
    }
    await removeTraces(this.#job);
  }
}
