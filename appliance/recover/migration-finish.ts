// SPDX-License-Identifier: Apache-2.0
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';
import type { Domain } from '../hypervisor/libvirt/domain.ts';
import { MARKER_NAMESPACE } from '../hypervisor/libvirt/domain-marker.ts';
import { childrenOf, find, parseXml } from '../hypervisor/libvirt/xml.ts';
import { lastingDefinition } from './migration-definition.ts';
import { moveNvram } from './migration-nvram.ts';
import type { MigrationParts } from './migration-parts.ts';
import type { MadeTarget, MigrationRecord } from './migration-record.ts';
import { DOMAIN_ATTACHMENT, findAttachment } from './point-content.ts';
import { isPausedByError } from './session-machines.ts';
import type { Session } from './session-store.ts';

export interface FinishInput extends MigrationParts {
  readonly connection: LibvirtConnection;
  readonly domain: Domain;
  readonly session: Session & { readonly migration: MigrationRecord };
  readonly targets: readonly MadeTarget[];
  readonly onNotice: (sentence: string) => void;
  /** Called before the first step, and after each. */
  readonly onStep: (done: number, total: number) => void;
}

const STEPS = 4;

/**
 * Makes it last, once all disks have moved: the firmware's variables and the definition leave the appliance, then the
 * session ends with its exports, its log and its use of the point. Every step can be done again after a crash.
 * @throws ApplianceError those of libvirt, NO_SPACE, IO_FAILED
 */
export async function finishMigration(input: FinishInput): Promise<{ changes: readonly string[] }> {
  const { connection, domain, session, targets, store, disks, registry, names } = input;
  const { as, autostart, nvramPath } = session.migration;
  const changes = targets.map(({ disk, path, format }) => `${disk} is ${path} (${format}).`);
  const step = (done: number): void => input.onStep(done, STEPS);
  step(0);
  // It may have been paused because the appliance was away; nobody else will look after it from here on.
  if (await isPausedByError(domain)) await domain.resume();
  if (nvramPath !== undefined) {
    const sentence = await moveNvram(store.nvramPathOf(session), nvramPath, input.onNotice);
    if (sentence !== undefined) changes.push(sentence);
  }
  step(1);
  const present = await domain.xml({ isInactive: true, isSecure: true });
  const saved = await savedDefinition(input);
  await connection.define(lastingDefinition(present, { targets, nvramPath, saved }));
  step(2);
  if (autostart !== undefined) {
    await domain.setAutostart(autostart);
    changes.push(`It ${autostart ? 'starts' : 'does not start'} with its host.`);
  }
  const { state } = await domain.state();
  if (state !== 'shut-off' && state !== 'crashed') await domain.removeMetadata(MARKER_NAMESPACE, ['live']);
  if (hasCableOut(present)) {
    changes.push(`Network cables that are out stay out: \`virsh domif-setlink ${session.name} INTERFACE up\`.`);
  }
  if (as !== undefined) {
    await names.add({ machineId: session.machineId, connect: session.connect, name: session.name, to: as });
    changes.push(`It is called ${as} from the next time on that it is shut off; libvirt renames no running machine.`);
  }
  step(3);
  await disks.remove(session);
  step(4);
  const problem = await disks.forget(session);
  if (problem !== undefined) input.onNotice(problem);
  await registry.forget(session);
  return { changes };
}

/** What the boot may have changed of the disks' drivers; a repository that cannot be read is no reason to stop here. */
async function savedDefinition({ parts, session, onNotice }: FinishInput): Promise<string | undefined> {
  try {
    return (await findAttachment(parts.repository, session.point, DOMAIN_ATTACHMENT))?.toString('utf8');
  } catch (error) {
    onNotice(`The saved definition cannot be read (${String(error)}); error policies of the disks are libvirt's own.`);
    return undefined;
  }
}

function hasCableOut(xml: string): boolean {
  const interfaces = childrenOf(find(parseXml(xml), 'devices'), 'interface');
  return interfaces.some((card) => find(card, 'link')?.attributes['state'] === 'down');
}
