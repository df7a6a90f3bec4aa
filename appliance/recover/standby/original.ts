// SPDX-License-Identifier: Apache-2.0
import { localPath } from '../../cbt/plan-disks.ts';
import type { Clock } from '../../core/clock.ts';
import type { ErrorCode } from '../../core/error-codes.ts';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import type { LibvirtConnection } from '../../hypervisor/libvirt/connection.ts';
import type { Domain } from '../../hypervisor/libvirt/domain.ts';
import { machineFromXml } from '../../hypervisor/libvirt/inventory.ts';
import { imageInfo } from '../../hypervisor/qemu-img.ts';
import type { RecoverParts } from '../context.ts';
import { DomainNews } from './domain-news.ts';
import type { Standby } from './standby-record.ts';

/** What says that a hypervisor is not to be reached, rather than that it refused something. */
const UNREACHABLE: readonly ErrorCode[] = [
  'LIBVIRT_CONNECT_FAILED',
  'LIBVIRT_CONNECTION_LOST',
  'LIBVIRT_UNAVAILABLE',
  'SSH_FAILED',
  'TIMED_OUT',
];
/** Where no event comes. */
const POLL_MS = 250;
const SHUTDOWN_TIMEOUT_MS = 180_000;
/** Guests drop requests that come while they boot. */
const ASK_AGAIN_MS = 10_000;

/** A machine, and where it is. */
export interface Original {
  readonly connection: LibvirtConnection;
  readonly domain: Domain;
}

/** The machine that a spare stands in for, or why it cannot be reached. Other errors are libvirt's. */
export async function findOriginal(
  parts: RecoverParts,
  { machine, originalConnect }: Standby,
): Promise<Original | { readonly problem: ApplianceError }> {
  try {
    const connection = await parts.connectLibvirt(originalConnect);
    return { connection, domain: await connection.domainByUuid(machine.id) };
  } catch (error) {
    if (error instanceof ApplianceError && hasCode(error, ...UNREACHABLE, 'DOMAIN_NOT_FOUND'))
      return { problem: error };
    throw error;
  }
}

/** The same where it must be reached. @throws ApplianceError, also when it is not there */
export async function requireOriginal(parts: RecoverParts, standby: Standby): Promise<Original> {
  const found = await findOriginal(parts, standby);
  if ('problem' in found) throw found.problem;
  return found;
}

/** The spare, as long as it is defined. Errors are libvirt's. */
export async function bootedSpare(parts: RecoverParts, { connect, spareId }: Standby): Promise<Original | undefined> {
  const connection = await parts.connectLibvirt(connect);
  const domain = (await connection.domains()).find((listed) => listed.domain.uuid === spareId)?.domain;
  return domain === undefined ? undefined : { connection, domain };
}

/**
 * The images of a saved definition that something on this host has open for writing: QEMU's locks show that a machine still
 * runs whose libvirt does not answer. What cannot be looked at is not in the answer.
 */
export async function imagesInUse(definition: string): Promise<string[]> {
  const inUse: string[] = [];
  for (const { source, format, protection } of machineFromXml(definition, { state: 'shut-off' }).disks) {
    const location = protection.kind === 'none' ? undefined : localPath(source);
    if (location === undefined || (await canOpen({ location, format }, false))) continue;
    // Not for itself, but beside somebody else: it is locked.
    if (await canOpen({ location, format }, true)) inUse.push(location);
  }
  return inUse;
}

async function canOpen(image: { location: string; format: string }, isShared: boolean): Promise<boolean> {
  try {
    await imageInfo(image, { isShared });
    return true;
  } catch (error) {
    if (hasCode(error, 'TOOL_FAILED', 'TOOL_MISSING', 'TIMED_OUT')) return false;
    throw error;
  }
}

export async function isOff(domain: Domain): Promise<boolean> {
  const { state } = await domain.state();
  return state === 'shut-off' || state === 'crashed';
}

/**
 * Switches a machine off: asks the guest, or, when forced, pulls the plug. Nothing happens when it is off.
 * @throws ApplianceError TIMED_OUT when the guest does not shut down; ABORTED; those of libvirt
 */
export async function switchOff(
  machine: Original,
  how: { readonly isForced: boolean; readonly clock: Clock; readonly signal: AbortSignal },
): Promise<void> {
  const { domain } = machine;
  if (await isOff(domain)) return;
  if (how.isForced) {
    await ignoringItsEnd(() => domain.destroy());
    return;
  }
  using news = new DomainNews(machine);
  const startedMs = how.clock.elapsedMs();
  let askedMs = Number.NEGATIVE_INFINITY;
  while (!(await isOff(domain))) {
    if (how.signal.aborted) throw new ApplianceError('ABORTED', `the shutdown of ${domain.name} was not waited for`);
    const nowMs = how.clock.elapsedMs();
    if (nowMs - startedMs > SHUTDOWN_TIMEOUT_MS) {
      throw new ApplianceError('TIMED_OUT', `${domain.name} does not shut down`, {
        hint: 'Shut its guest down by hand, or pull the plug with --force.',
      });
    }
    if (nowMs - askedMs > ASK_AGAIN_MS) {
      askedMs = nowMs;
      await ignoringItsEnd(() => domain.shutdown());
    }
    await news.next(POLL_MS);
  }
}

async function ignoringItsEnd(action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!hasCode(error, 'DOMAIN_WRONG_STATE')) throw error;
  }
}
