// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import { PAUSED_IO_ERROR } from '../hypervisor/libvirt/constants.ts';
import { Domain } from '../hypervisor/libvirt/domain.ts';
import { readMarker } from '../hypervisor/libvirt/domain-marker.ts';
import type { Session } from './session-store.ts';

/**
 * The domains of sessions in their hypervisors. Only a domain that carries our mark, for the very point, counts as the
 * session's: one of the same UUID without it (the original of a machine that kept its identity) is never touched.
 */
export class SessionMachines {
  readonly #connect: (uri: string) => Promise<LibvirtConnection>;
  readonly #owner: string;

  /** `owner` is the repository's id. */
  constructor(connect: (uri: string) => Promise<LibvirtConnection>, owner: string) {
    this.#connect = connect;
    this.#owner = owner;
  }

  /** The session's domain, or undefined when it is not there. Errors are libvirt's. */
  async find(session: Session): Promise<Domain | undefined> {
    const connection = await this.#connect(session.connect);
    try {
      const domain = await connection.domainByUuid(session.machineId);
      const marker = readMarker(await domain.xml({ isInactive: true }));
      const isOurs = marker?.purpose === 'boot' && marker.owner === this.#owner && marker.point === session.point.id;
      return isOurs ? domain : undefined;
    } catch (error) {
      if (hasCode(error, 'DOMAIN_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  /** libvirt's word; `kept`, `gone`, or `unknown` when libvirt does not answer. */
  async stateOf(session: Session): Promise<string> {
    if (session.phase === 'kept') return 'kept';
    try {
      const domain = await this.find(session);
      return domain === undefined ? 'gone' : (await domain.state()).state;
    } catch (error) {
      if (error instanceof ApplianceError) return 'unknown';
      throw error;
    }
  }

  /** Ends the domain, if it runs, and removes its definition. Its disks and the variables of its firmware stay. */
  async remove(session: Session): Promise<void> {
    const domain = await this.find(session);
    if (domain === undefined) return;
    await destroy(domain);
    try {
      await domain.undefine({ managedSave: true, keepNvram: true, checkpointsMetadata: true, snapshotsMetadata: true });
    } catch (error) {
      // A domain that somebody made transient went with its end.
      if (!hasCode(error, 'DOMAIN_NOT_FOUND')) throw error;
    }
  }

  /** Whether QEMU has paused its guest because a disk failed. */
  async isPausedByError(session: Session): Promise<boolean> {
    const connection = await this.#connect(session.connect);
    return await isPausedByError(new Domain(connection, { uuid: session.machineId, name: session.name }));
  }

  /** Lets a guest go on that QEMU has paused because a disk failed. True when it was paused so. */
  async resumeAfterError(session: Session): Promise<boolean> {
    if (!(await this.isPausedByError(session))) return false;
    const domain = await this.find(session);
    await domain?.resume();
    return domain !== undefined;
  }
}

/** Whether QEMU has paused it because a disk failed. */
export async function isPausedByError(domain: Domain): Promise<boolean> {
  try {
    const { state, reason } = await domain.state();
    return state === 'paused' && reason === PAUSED_IO_ERROR;
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return false;
    throw error;
  }
}

async function destroy(domain: Domain): Promise<void> {
  try {
    const { state } = await domain.state();
    if (state !== 'shut-off') await domain.destroy();
  } catch (error) {
    // It ended by itself meanwhile.
    if (!hasCode(error, 'DOMAIN_WRONG_STATE', 'DOMAIN_NOT_FOUND')) throw error;
  }
}
