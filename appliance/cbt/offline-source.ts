// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { walkExtents } from '../block/extent-walk.ts';
import { ApplianceError } from '../core/errors.ts';
import type { Extent } from '../core/extents.ts';
import { imageInfo } from '../hypervisor/qemu-img.ts';
import { QemuNbd } from '../hypervisor/qemu-nbd.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import { BASE_ALLOCATION } from '../nbd/protocol.ts';
import { changedExtents } from './changes.ts';
import { imageMarks } from './image-marks.ts';
import { removeLeftoverScratch } from './leftovers.ts';
import type { PreparedMachine } from './libvirt-source.ts';
import { type DiskPlan, localPath } from './plan-disks.ts';
import type { BackupSource, SourceDisk } from './source.ts';
import { removeStaleBitmaps } from './stale-bitmaps.ts';

/**
 * A shut-off machine from its images, which stay locked against a start meanwhile. Its persistent bitmaps go on from the
 * checkpoint of the last point; the position is not moved, so the next run sees these changes once more and stores none
 * of them twice.
 */
export async function openOfflineSource(prepared: PreparedMachine): Promise<BackupSource> {
  const source = new OfflineSource(prepared);
  try {
    await source.open();
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
  return source;
}

/** virDomainShutoffReason 1: the guest shut down by itself, so that its file systems were closed. */
const SHUT_DOWN = 1;

class OfflineSource implements BackupSource {
  readonly machine: BackupSource['machine'];
  readonly takenAtMs: number;
  /** Of a machine that was destroyed, crashed or saved, or of which libvirt has forgotten it, nobody closed the file systems. */
  consistency: BackupSource['consistency'] = 'crash-consistent';
  readonly skipped: BackupSource['skipped'];
  readonly attachments: BackupSource['attachments'];
  readonly notices: string[];
  readonly disks: SourceDisk[] = [];
  readonly #prepared: PreparedMachine;
  readonly #directory: string;
  readonly #servers: QemuNbd[] = [];
  readonly #devices: NbdDevice[] = [];
  #images = '';

  constructor(prepared: PreparedMachine) {
    this.#prepared = prepared;
    this.#directory = join(prepared.options.runtimeDirectory, randomBytes(6).toString('hex'));
    this.machine = { id: prepared.machineId, name: prepared.machine.name };
    this.takenAtMs = prepared.options.clock.nowMs();
    this.skipped = prepared.skipped;
    this.attachments = prepared.attachments;
    this.notices = prepared.notices;
  }

  get tracker(): Readonly<Record<string, string>> {
    const { baseName, machine } = this.#prepared;
    const isContinued = baseName !== undefined && this.disks.every(({ kind }) => kind !== 'full');
    return isContinued
      ? { kind: 'offline-image', checkpoint: baseName, domain: machine.id, images: this.#images }
      : { kind: 'none', domain: machine.id };
  }

  async open(): Promise<void> {
    await removeLeftoverScratch(this.#prepared.plans);
    const { state, reason } = await this.#prepared.options.domain.state();
    if (state === 'shut-off' && reason === SHUT_DOWN) this.consistency = 'file-system-consistent';
    if (state === 'shut-off') {
      const { connection, repositoryId } = this.#prepared.options;
      // Changes the image's time: before the marks are taken, and after those of the last point were compared.
      this.notices.push(...(await removeStaleBitmaps({ connection, machine: this.#prepared.machine, repositoryId })));
    }
    await mkdir(this.#directory, { mode: 0o700 });
    const opening = this.#prepared.plans.map((plan, i) => this.#openDisk(plan, join(this.#directory, String(i))));
    // All of them, before anything is closed after an error.
    await Promise.allSettled(opening);
    this.disks.push(...(await Promise.all(opening)));
    // The images are locked now: this is what they look like for as long as the backup lasts.
    this.#images = await imageMarks(this.#prepared.machine);
  }

  async assertAlive(): Promise<void> {
    const { domain } = this.#prepared.options;
    const { state } = await domain.state();
    if (state !== 'shut-off' && state !== 'crashed') {
      throw new ApplianceError('SOURCE_CHANGED', `${domain.name} was started during the backup`);
    }
  }

  async commit(): Promise<void> {
    // The position stays where it was.
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#devices.map((device) => device.close()));
    await Promise.allSettled(this.#servers.map((server) => server.close()));
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #openDisk(plan: DiskPlan, socketPath: string): Promise<SourceDisk> {
    const { disk } = plan;
    const path = localPath(disk.source);
    if (path === undefined) {
      throw new ApplianceError(
        'NOT_SUPPORTED',
        `${disk.target} of the shut-off ${this.machine.name} does not lie on this host`,
        {
          hint: 'Start the machine: QEMU then reads the disk for the backup.',
        },
      );
    }
    const { kind, reason, bitmap } = await this.#trackingOf(plan, path);
    const server = await QemuNbd.start({
      path,
      format: disk.format,
      socketPath,
      exportName: disk.target,
      ...(bitmap === undefined ? {} : { bitmap }),
    });
    this.#servers.push(server);
    const context = `qemu:dirty-bitmap:${bitmap}`;
    const metaContexts = bitmap === undefined ? [BASE_ALLOCATION] : [BASE_ALLOCATION, context];
    const uri = `nbd+unix:///${disk.target}?socket=${encodeURIComponent(socketPath)}`;
    const device = await connectNbd(uri, { metaContexts, reconnect: false, signal: this.#prepared.options.signal });
    this.#devices.push(device);
    return {
      name: disk.target,
      device,
      kind,
      reason,
      identity: plan.identity,
      changes: (onUnchangedZero): AsyncIterable<Extent> =>
        bitmap === undefined
          ? walkExtents(device, { offset: 0, length: device.sizeBytes })
          : changedExtents(device, context, onUnchangedZero),
    };
  }

  /** A bitmap is a base only when it is in the image, was closed cleanly, and records. */
  async #trackingOf(
    plan: DiskPlan,
    path: string,
  ): Promise<{ kind: SourceDisk['kind']; reason: string; bitmap: string | undefined }> {
    const { baseName } = this.#prepared;
    if (plan.kind !== 'incremental' || baseName === undefined)
      return { kind: plan.kind, reason: plan.reason, bitmap: undefined };
    const info = await imageInfo({ location: path, format: plan.disk.format });
    const bitmap = info.bitmaps.find(({ name }) => name === baseName);
    const doubt =
      bitmap === undefined
        ? `the bitmap ${baseName} is not in the image`
        : bitmap.flags.includes('in-use')
          ? `the bitmap ${baseName} is inconsistent: the image was not closed cleanly`
          : bitmap.flags.includes('auto')
            ? undefined
            : `the bitmap ${baseName} does not record`;
    if (doubt !== undefined) return { kind: 'full-scan', reason: doubt, bitmap: undefined };
    return { kind: 'incremental', reason: plan.reason, bitmap: baseName };
  }
}
