// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { walkExtents } from '../block/extent-walk.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import { letQemuReach } from '../hypervisor/libvirt/qemu-access.ts';
import { qemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import { BASE_ALLOCATION } from '../nbd/protocol.ts';
import { type BackupChannel, openChannel } from './backup-channel.ts';
import {
  type BackupJob,
  beginWithFallback,
  bitmapNameOf,
  endOrphan,
  exportNameOf,
  removeTraces,
} from './backup-job.ts';
import { changedExtents } from './changes.ts';
import type { PreparedMachine } from './libvirt-source.ts';
import { JOB_WAIT, SAID_AFTER_MS } from './own-backup.ts';
import { withFrozenGuest } from './quiesce.ts';
import type { BackupSource, SourceDisk } from './source.ts';
import { SpaceWatch } from './space-watch.ts';

/**
 * Begins a pull backup over every protectable disk in one atomic step, together with the checkpoint that the next run
 * continues from.
 */
export async function openLiveSource(prepared: PreparedMachine): Promise<BackupSource> {
  await endOrphan(prepared);
  await using undo = new AsyncDisposableStack();
  const directory = join(prepared.options.runtimeDirectory, randomBytes(6).toString('hex'));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  await mkdir(directory, { mode: 0o700 });
  const { endpoint, options } = prepared;
  const owner = endpoint.kind === 'local' ? await qemuOwner(options.connection) : undefined;
  const needsOwnScratch = prepared.plans.some(({ disk }) => disk.source?.kind !== 'file');
  await letQemuReach({
    owner,
    ownDirectories: [options.runtimeDirectory, dirname(options.scratchDirectory)],
    paths: [directory, ...(needsOwnScratch ? [join(options.scratchDirectory, 'any')] : [])],
  });
  const channel = undo.use(await openChannel({ endpoint, owner, directory, signal: options.signal }));
  const moment = await beginAtOneMoment(prepared, () => beginWithFallback(prepared, channel));
  const source = new LiveSource(prepared, { ...moment, channel, resources: undo.move() });
  try {
    checkQuiesced(prepared, moment);
    await source.connect();
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
  return source;
}

interface Moment {
  readonly job: BackupJob;
  readonly takenAtMs: number;
  readonly isFrozen: boolean;
}

async function beginAtOneMoment(
  { machine, notices, options }: PreparedMachine,
  begin: () => Promise<BackupJob>,
): Promise<Moment> {
  let takenAtMs = options.clock.nowMs();
  if (!machine.hasAgentChannel || machine.state !== 'running' || options.quiesce === 'never') {
    return { job: await begin(), takenAtMs, isFrozen: false };
  }
  const quiesced = await withFrozenGuest(options.domain, options.freezeMarker, () => {
    takenAtMs = options.clock.nowMs();
    return begin();
  });
  notices.push(...quiesced.notices);
  return { job: quiesced.result, takenAtMs, isFrozen: quiesced.isFrozen };
}

/** @throws ApplianceError NOT_QUIESCED */
function checkQuiesced({ machine, notices, options }: PreparedMachine, { isFrozen }: Moment): void {
  if (options.quiesce !== 'always' || isFrozen) return;
  const why = machine.hasAgentChannel ? notices.at(-1) : 'it has no channel of the guest agent';
  throw new ApplianceError('NOT_QUIESCED', `${machine.name} was not frozen: ${why ?? `it is ${machine.state}`}`);
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
  readonly #job: BackupJob;
  readonly #channel: BackupChannel;
  /** What the run has on this host. */
  readonly #resources: AsyncDisposableStack;
  readonly #devices: NbdDevice[] = [];
  readonly #space: SpaceWatch | undefined;
  #isJobEnded = false;
  #isCommitted = false;
  #isDisposed = false;

  constructor(
    prepared: PreparedMachine,
    moment: Moment & { readonly channel: BackupChannel; readonly resources: AsyncDisposableStack },
  ) {
    const { job } = moment;
    this.#prepared = prepared;
    this.#job = job;
    this.#channel = moment.channel;
    this.#resources = moment.resources;
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
    if (prepared.endpoint.kind === 'local') {
      this.#space = new SpaceWatch(job.scratchPaths.map(dirname), () => this.#endJob());
    }
  }

  async connect(): Promise<void> {
    for (const plan of this.#job.plans) {
      const context = `qemu:dirty-bitmap:${bitmapNameOf(plan)}`;
      const isIncremental = plan.kind === 'incremental';
      const metaContexts = isIncremental ? [BASE_ALLOCATION, context] : [BASE_ALLOCATION];
      const device = await this.#channel.connect(exportNameOf(this.#job, plan), metaContexts);
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
    this.#space?.throwIfLow();
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
    this.#space?.stop();
    await Promise.allSettled(this.#devices.map((device) => device.close()));
    const waiting = setTimeout(() => this.#prepared.options.onWait?.(JOB_WAIT), SAID_AFTER_MS);
    try {
      await this.#prepared.options.domain.endBackup(this.#job.mark);
    } catch (error) {
      if (!hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) {
        this.notices.push(`the backup job could not be ended: ${toError(error).message}`);
      }
    } finally {
      clearTimeout(waiting);
    }
    await removeTraces(this.#prepared, this.#job);
    await this.#resources.disposeAsync();
  }
}
