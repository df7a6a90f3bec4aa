// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ApplianceError, hasCode } from '../../core/errors.ts';
import type { LibvirtConnection } from '../../hypervisor/libvirt/connection.ts';
import type { Domain } from '../../hypervisor/libvirt/domain.ts';
import { type DomainMarker, readMarker } from '../../hypervisor/libvirt/domain-marker.ts';
import { rewriteDomain } from '../../hypervisor/libvirt/domain-rewrite.ts';
import { readHostFacts } from '../../hypervisor/libvirt/host-facts.ts';
import type { DiskReplacement } from '../../hypervisor/libvirt/rewrite-plan.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { RecoverParts } from '../context.ts';
import { DOMAIN_ATTACHMENT, findAttachment } from '../point-content.ts';
import { adaptDefinition } from './spare-definition.ts';
import type { Standby } from './standby-record.ts';

/** Without effect: nothing listens there, so that a spare that is started by hand ends at once instead of running empty. */
const RECONNECT_SECONDS = 0;

/**
 * Defines the spare, or defines it anew when what it stands in for has changed. Settles with the standby as it is then, and
 * what is different from the original's definition.
 * @throws ApplianceError NOT_SUPPORTED (a point without definition), DOMAIN_EXISTS, DOMAIN_XML_INVALID, those of libvirt
 */
export async function defineSpare(
  parts: RecoverParts,
  standby: Standby,
  point: RecoveryPoint,
): Promise<{ readonly standby: Standby; readonly changes: readonly string[] }> {
  const definition = await findAttachment(parts.repository, point, DOMAIN_ATTACHMENT);
  if (definition === undefined) {
    throw new ApplianceError('NOT_SUPPORTED', `the point ${point.id} has no machine definition for a spare`);
  }
  const connection = await parts.connectLibvirt(standby.connect);
  const adapted = adaptDefinition(definition.toString('utf8'), standby);
  const rewritten = rewriteDomain(
    adapted.xml,
    {
      name: standby.name,
      uuid: standby.spareId,
      keepsMacAddresses: true,
      keepsNetwork: true,
      disks: Object.fromEntries(point.disks.map(({ name }) => [name, nowhere(parts, name)])),
      marker: markerOf(parts, standby, point.id),
    },
    await readHostFacts(connection),
  );
  const changes = [...adapted.changes, ...rewritten.changes];
  const hash = createHash('sha256').update(withoutPoint(rewritten.xml, point.id)).digest('hex');
  const existing = await findSpare(parts, connection, standby);
  const defined = { ...standby, definition: { point: point.id, hash } };
  if (existing !== undefined && standby.definition?.hash === hash) {
    if (await existing.autostart()) await existing.setAutostart(false);
    return { standby: defined, changes };
  }
  if (existing === undefined) await checkNameIsFree(connection, standby);
  const domain = await connection.define(rewritten.xml);
  await domain.setAutostart(false);
  return { standby: defined, changes };
}

/** Undefines the spare, if it is there and ours. @throws ApplianceError those of libvirt */
export async function undefineSpare(parts: RecoverParts, standby: Standby): Promise<void> {
  const connection = await parts.connectLibvirt(standby.connect);
  const domain = await findSpare(parts, connection, standby);
  if (domain === undefined) return;
  const { state } = await domain.state();
  if (state !== 'shut-off' && state !== 'crashed') {
    throw new ApplianceError('DOMAIN_WRONG_STATE', `the spare ${domain.name} is ${state}`, {
      hint: 'Somebody started it by hand; end it first.',
    });
  }
  await domain.undefine({ managedSave: true, keepNvram: true, checkpointsMetadata: true, snapshotsMetadata: true });
}

/** The defined spare: the domain of its UUID with our mark. @throws ApplianceError DOMAIN_EXISTS when it is somebody else's */
async function findSpare(
  parts: RecoverParts,
  connection: LibvirtConnection,
  standby: Standby,
): Promise<Domain | undefined> {
  try {
    const domain = await connection.domainByUuid(standby.spareId);
    const marker = readMarker(await domain.xml({ isInactive: true }));
    const { owner } = markerOf(parts, standby, '');
    if (marker?.purpose === 'standby' && marker.owner === owner && marker.machine === standby.machine.id) return domain;
    throw new ApplianceError('DOMAIN_EXISTS', `${domain.name} has the UUID of the spare, but not its mark`, {
      hint: 'Remove the standby and create it again, or undefine that machine.',
    });
  } catch (error) {
    if (hasCode(error, 'DOMAIN_NOT_FOUND')) return undefined;
    throw error;
  }
}

async function checkNameIsFree(connection: LibvirtConnection, standby: Standby): Promise<void> {
  const domains = await connection.domains();
  if (!domains.some(({ domain }) => domain.name === standby.name)) return;
  throw new ApplianceError('DOMAIN_EXISTS', `there is a machine ${standby.name} on ${standby.connect} already`);
}

function markerOf(parts: RecoverParts, { machine }: Standby, point: string): DomainMarker {
  return { purpose: 'standby', point, machine: machine.id, owner: parts.repository.config.id };
}

function nowhere(parts: RecoverParts, exportName: string): DiskReplacement {
  const socketPath = join(parts.runtimeDirectory, 'standby.sock');
  return { kind: 'nbd', socketPath, exportName, reconnectSeconds: RECONNECT_SECONDS };
}

/** A new point with the same definition is no reason to define it anew. */
function withoutPoint(xml: string, point: string): string {
  return xml.replaceAll(point, '');
}
