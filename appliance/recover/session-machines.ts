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

  /** @throws ApplianceError DOMAIN_NOT_FOUND, those of libvirt */
  async checkDefined(session: Session): Promise<void> {
    await this.#defined(session);
  }

  /** Pulls the plug; the definition stays. @throws ApplianceError DOMAIN_NOT_FOUND, those of libvirt */
  async powerOff(session: Session): Promise<void> {
    await destroy(await this.#defined(session));
  }

  /** Starts it unless it runs. @throws ApplianceError DOMAIN_NOT_FOUND, those of libvirt */
  async powerOn(session: Session): Promise<void> {
    const domain = await this.#defined(session);
    if ((await powerOf(domain)).isOff) await domain.start();
  }

  /** Whether its machine runs, and whether QEMU has paused its guest because a disk failed. Errors are libvirt's. */
  async powerOf(session: Session): Promise<MachinePower> {
    const connection = await this.#connect(session.connect);
    return powerOf(new Domain(connection, { uuid: session.machineId, name: session.name }));
  }

  /** Lets a guest go on that QEMU has paused because a disk failed. */
  async resume(session: Session): Promise<void> {
    const domain = await this.find(session);
    await domain?.resume();
  }

  async #defined(session: Session): Promise<Domain> {
    const domain = await this.find(session);
    if (domain !== undefined) return domain;
    throw new ApplianceError('DOMAIN_NOT_FOUND', `the machine ${session.name} is not defined any more`, {
      hint: `\`understudy stop ${session.name}\` keeps what it has written, and \`understudy boot\` defines it again.`,
    });
  }
}

/** How a machine is. */
export interface MachinePower {
  readonly isOff: boolean;
  readonly isPausedByError: boolean;
}

const OFF: readonly string[] = ['shut-off', 'crashed'];

/** Whether QEMU has paused it because a disk failed. */
export async function isPausedByError(domain: Domain): Promise<boolean> {
  return (await powerOf(domain)).isPausedByError;
}

async function powerOf(domain: Domain): Promise<MachinePower> {
  try {
    const { state, reason } = await domain.state();
    return { isOff: OFF.includes(state), isPausedByError: state === 'paused' && reason === PAUSED_IO_ERROR };
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return { isOff: true, isPausedByError: false };
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
