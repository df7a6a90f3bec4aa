// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import type { MarkedDevice } from '../block/marked-device.ts';
import { throwIfAborted } from '../block/pipeline.ts';
import { systemClock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import type { BlockJobInfo } from '../hypervisor/libvirt/protocol.ts';
import { attributeOf, childrenOf, element, find, formatXml, parseXml } from '../hypervisor/libvirt/xml.ts';
import type { RecoverContext } from './context.ts';
import type { MadeTarget, MigrationTarget } from './migration-record.ts';

/** A disk that is being moved: its new storage, and the device that the machine has it from until then. */
export interface MovingDisk {
  readonly target: MadeTarget;
  readonly device: MarkedDevice;
}

export interface CopyOptions {
  readonly domain: Domain;
  readonly disks: readonly MovingDisk[];
  readonly bandwidthBytes: number | undefined;
  /** Guest writes go to both places at once, so that the copy catches up with any guest. */
  readonly isSynchronous: boolean;
  /** Room at the target, to tell why a copy failed. */
  readonly freeBytes: () => Promise<number>;
  readonly context: RecoverContext;
}

/** What libvirt says of a disk. */
export interface DiskPlace {
  readonly isMoved: boolean;
  /** A copy to our target is running, whatever its state. */
  readonly isCopying: boolean;
  /** … and QEMU has found it equal; from then on it is kept so. */
  readonly isReady: boolean;
}

const POLL_MS = 250;
/**
 * Marks of writes reach back at least this far from the moment when a copy becomes ready. A write is marked when QEMU sends it
 * to us, and QEMU writes it to the copy afterwards: what was on its way there during the last flush may lie in QEMU's caches
 * of the copy's metadata until the copy is closed, where nobody else sees it.
 */
const MARKED_MS = 20_000;
/** QEMU tries to connect again after 1, 2, 4, 8 and 16 s (nbd/client-connection.c); until then a copy ends as soon as it begins. */
const RECONNECT_LIMIT_MS = 40_000;
const RESTART_PAUSE_MS = 1_000;
/** A file system with less than this is what a copy failed for: QEMU writes up to 1 MiB at a time. */
const FULL_BYTES: number = 2 * 1024 * 1024;

/** Copies of guest writes to both places: libvirt 8.0, QEMU 3.0. */
export async function canCopySynchronously(connection: LibvirtConnection): Promise<boolean> {
  const { library, hypervisor, client } = await connection.versions();
  return library[0] >= 8 && client[0] >= 8 && hypervisor[0] >= 3;
}

/** Where the disks are, by the XML of the running machine or, of one that is off, its definition. */
export function readPlaces(xml: string, targets: readonly MigrationTarget[]): Map<string, DiskPlace> {
  const places = new Map<string, DiskPlace>();
  for (const disk of childrenOf(find(parseXml(xml), 'devices'), 'disk')) {
    const name = attributeOf(find(disk, 'target'), 'dev');
    const target = targets.find((candidate) => candidate.disk === name);
    if (target?.path === undefined) continue;
    const isCopying = attributeOf(find(disk, 'mirror/source'), 'file') === target.path;
    places.set(target.disk, {
      isMoved: attributeOf(find(disk, 'source'), 'file') === target.path,
      isCopying,
      isReady: isCopying && attributeOf(find(disk, 'mirror'), 'ready') === 'yes',
    });
  }
  return places;
}

/**
 * Copies all disks at once, while the machine runs, and settles when every copy is equal and kept so. The jobs run on
 * after an error, too: whoever called ends them.
 * @throws ApplianceError ABORTED, NO_SPACE, DOMAIN_GONE, DOMAIN_BUSY, MIGRATION_FAILED, those of libvirt
 */
export async function copyDisks(options: CopyOptions): Promise<void> {
  const { disks, context } = options;
  for (const disk of disks) await startCopy(options, disk);
  const ready = new Set<MovingDisk>();
  let failingSinceMs: number | undefined;
  let renewedMs = systemClock.elapsedMs();
  for (;;) {
    const isRenewing = systemClock.elapsedMs() - renewedMs > MARKED_MS;
    if (isRenewing) renewedMs = systemClock.elapsedMs();
    const lost = await look(options, { ready, isRenewing });
    if (lost !== undefined) {
      // QEMU finds out that the appliance was restarted with the first request that fails; the next one connects again.
      const failure = await copyFailure(options, lost);
      const nowMs = systemClock.elapsedMs();
      failingSinceMs ??= nowMs;
      if (failure.code !== 'MIGRATION_FAILED' || nowMs - failingSinceMs > RECONNECT_LIMIT_MS) throw failure;
      await delay(RESTART_PAUSE_MS, undefined, { signal: context.signal }).catch(() => undefined);
      await startCopy(options, lost);
    } else if (ready.size === disks.length) return;
    throwIfAborted(context.signal);
    await delay(POLL_MS, undefined, { signal: context.signal }).catch(() => undefined);
    throwIfAborted(context.signal);
  }
}

async function startCopy(options: CopyOptions, { target }: MovingDisk): Promise<void> {
  const { domain, bandwidthBytes, context } = options;
  throwIfAborted(context.signal);
  await domain.blockCopy({
    disk: target.disk,
    destinationXml: destinationXml(target),
    params: bandwidthBytes === undefined ? {} : { bandwidthBytes },
    reusesDestination: true,
    isTransient: true,
    isSynchronous: options.isSynchronous,
  });
}

/** Looks once more whether all copies are kept equal. @throws ApplianceError as `copyDisks` when one has ended */
export async function checkCopies(options: CopyOptions): Promise<void> {
  for (const disk of options.disks) {
    if ((await readJob(options, disk))?.kind !== 'copy') throw await copyFailure(options, disk);
  }
}

/** Ends the copies of disks that have not moved, and waits until they are gone. Errors are libvirt's. */
export async function endCopies(domain: Domain, targets: readonly MigrationTarget[]): Promise<void> {
  const { state } = await domain.state();
  if (state === 'shut-off' || state === 'crashed') return;
  const places = readPlaces(await domain.xml(), targets);
  for (const { disk } of targets) {
    if (places.get(disk)?.isCopying !== true) continue;
    try {
      await domain.abortBlockJob(disk);
    } catch (error) {
      // It ended by itself, or the machine did.
      if (!hasCode(error, 'NO_BLOCK_JOB', 'DOMAIN_WRONG_STATE')) throw error;
    }
  }
}

/**
 * One look at all copies: tells how far they are, and adds those that are ready, which they stay. Settles with a disk
 * whose copy has ended.
 */
async function look(
  options: CopyOptions,
  { ready, isRenewing }: { readonly ready: Set<MovingDisk>; readonly isRenewing: boolean },
): Promise<MovingDisk | undefined> {
  const { disks, context } = options;
  let [done, total] = [0, 0];
  for (const disk of disks) {
    const job = await readJob(options, disk);
    if (job?.kind !== 'copy') {
      ready.delete(disk);
      return disk;
    }
    if (isReady(job)) ready.add(disk);
    // Up to here the copy may lag behind, or sit in caches of QEMU; when it is ready it has been flushed.
    else if (isRenewing && options.isSynchronous && !ready.has(disk)) disk.device.marks?.renew();
    done += job.currentBytes;
    total += job.endBytes > 1 ? job.endBytes : disk.target.sizeBytes;
  }
  const phase = disks.length === 1 ? `copying ${disks[0]?.target.disk ?? ''}` : `copying ${disks.length} disks`;
  context.onProgress({ phase, done, total, unit: 'bytes' });
  return undefined;
}

async function readJob({ domain }: CopyOptions, { target }: MovingDisk): Promise<BlockJobInfo | null> {
  try {
    return await domain.blockJobInfo(target.disk);
  } catch (error) {
    if (hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) return null;
    throw error;
  }
}

/** libvirt reports both numbers equal only when QEMU says that the copy is ready. */
function isReady(job: BlockJobInfo): boolean {
  return job.endBytes > 0 && job.currentBytes === job.endBytes;
}

async function copyFailure(options: CopyOptions, { target }: MovingDisk): Promise<ApplianceError> {
  const { domain } = options;
  const { disk, path } = target;
  if (!(await isRunning(domain))) {
    return new ApplianceError('DOMAIN_GONE', `${domain.name} stopped while its disks were being copied`, {
      hint: 'What it had written is kept in the appliance. Start it again, and then the migration.',
    });
  }
  if ((await options.freeBytes()) < FULL_BYTES) {
    return new ApplianceError('NO_SPACE', `there was no room left for ${path}`, {
      details: { disk, path },
      hint: 'Free space there, or choose another place. The machine goes on running from the appliance.',
    });
  }
  return new ApplianceError('MIGRATION_FAILED', `QEMU ended the copy of ${disk} to ${path}`, {
    details: { disk, path },
    hint: "The machine goes on running from the appliance. QEMU's log (/var/log/libvirt/qemu) may say why.",
  });
}

async function isRunning(domain: Domain): Promise<boolean> {
  try {
    const { state } = await domain.state();
    return state !== 'shut-off' && state !== 'crashed';
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return false;
    throw error;
  }
}

function destinationXml({ format, path }: MovingDisk['target']): string {
  return formatXml(
    element('disk', { type: 'file', device: 'disk' }, [
      element('driver', { name: 'qemu', type: format, cache: 'none', discard: 'unmap' }),
      element('source', { file: path }),
    ]),
  );
}
