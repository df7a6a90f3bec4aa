// SPDX-License-Identifier: Apache-2.0
import type { MachineDetails, MachineSummary, OperationContext } from '../api/operations.ts';
import { describeStaleBitmaps, findStaleBitmaps } from '../cbt/stale-bitmaps.ts';
import { toError } from '../core/errors.ts';
import { readMachine, readMachines } from '../hypervisor/libvirt/read-machine.ts';
import { findDomain } from '../protect/protect-service.ts';
import type { Core } from './core.ts';
import type { KnownHypervisor } from './hypervisors.ts';
import type { PolicyOperations } from './policies/policy-operations.ts';
import { machineDetails, machineSummary } from './reports.ts';

/**
 * The machines of these hypervisors. With several, one that cannot be reached is a notice; the others are still listed.
 * @throws ApplianceError of the hypervisor when there is one only, or when none can be reached
 */
export async function listMachines(
  core: Core & { readonly policies: PolicyOperations },
  hypervisors: readonly KnownHypervisor[],
  { onNotice }: Pick<OperationContext, 'onNotice'>,
): Promise<readonly MachineSummary[]> {
  const points = await core.catalog.points();
  const listed = await Promise.allSettled(
    hypervisors.map(async ({ name, uri }) => {
      const machines = await readMachines(await core.connections.get(uri));
      const cover = await core.policies.cover(core, { uri, name: name ?? uri });
      return machines.map((machine) =>
        machineSummary(machine, points, { hypervisor: name ?? uri, ...cover(machine.id) }),
      );
    }),
  );
  const failures = listed.flatMap((result, index) =>
    result.status === 'rejected' ? [{ error: toError(result.reason), name: hypervisors[index]?.name ?? '' }] : [],
  );
  const [first] = failures;
  if (first !== undefined && failures.length === hypervisors.length) throw first.error;
  for (const { error, name } of failures) onNotice(`the machines of ${name} are not listed: ${error.message}`);
  return listed.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
}

/** A machine by name or UUID. @throws ApplianceError DOMAIN_NOT_FOUND, and of the hypervisor */
export async function showMachine(
  core: Core & { readonly policies: PolicyOperations },
  nameOrId: string,
  hypervisor: { readonly uri: string; readonly name: string },
): Promise<MachineDetails> {
  const connection = await core.connections.get(hypervisor.uri);
  const machine = await readMachine(connection, await findDomain(connection, nameOrId));
  const { id: repositoryId } = core.repository.config;
  const stale = await findStaleBitmaps({ connection, machine, repositoryId });
  const cover = await core.policies.cover(core, hypervisor);
  const place = { hypervisor: hypervisor.name, ...cover(machine.id) };
  const details = machineDetails(machine, await core.catalog.points(), place);
  return { ...details, notes: [...details.notes, ...describeStaleBitmaps(stale)] };
}
