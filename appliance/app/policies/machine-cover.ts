// SPDX-License-Identifier: Apache-2.0
import type { MachineSummary } from '../../api/operations.ts';
import { type LabelledMachine, readLabelledMachines } from '../../hypervisor/libvirt/machine-labels.ts';
import type { Policy } from '../../protect/policy/policy.ts';
import { PolicySelector } from '../../protect/policy/selection.ts';
import type { Core } from '../core.ts';
import { newestPoints, selectable } from './policy-ports.ts';

/** What lists of machines say of policies. */
export type MachineCover = Pick<MachineSummary, 'policy' | 'policyReason' | 'rpoTargetMs' | 'rpoNowMs' | 'isOverdue'>;

const UNKNOWN: MachineCover = {
  policy: null,
  policyReason: 'nobody knows it',
  rpoTargetMs: null,
  rpoNowMs: null,
  isOverdue: false,
};

/** Who protects the machines of a hypervisor, and how well; a machine that nobody protects says why. */
export async function coverOf(
  { core, policies, nowMs }: { readonly core: Core; readonly policies: readonly Policy[]; readonly nowMs: number },
  host: { readonly uri: string; readonly name: string },
  ageMs: (machineId: string) => number | null | undefined,
): Promise<(machineId: string) => MachineCover> {
  const labelled = await readLabelledMachines(await core.connections.get(host.uri));
  const newest = newestPoints(await core.catalog.points());
  const sessions = await sessionAges(core);
  const selector = new PolicySelector(policies);
  const coverOfOne = (machine: LabelledMachine): MachineCover => {
    const [one] = selectable(host, [machine]);
    if (one === undefined) return UNKNOWN;
    const { policy, reason } = selector.assign(one);
    const takenMs = newest.get(machine.id);
    const byClockMs = takenMs === undefined ? null : Math.max(0, nowMs - takenMs);
    const rpoNowMs = sessions.get(machine.id) ?? ageMs(machine.id) ?? byClockMs;
    const rpoTargetMs = policy?.rpoTargetMs ?? null;
    const isOverdue = rpoTargetMs !== null && (rpoNowMs === null || rpoNowMs > rpoTargetMs);
    return { policy: policy?.name ?? null, policyReason: reason, rpoTargetMs, rpoNowMs, isOverdue };
  };
  const covers = new Map(labelled.map((machine) => [machine.id, coverOfOne(machine)]));
  return (machineId) => covers.get(machineId) ?? UNKNOWN;
}

/** Of the machines under continuous protection: how much would be lost now. */
async function sessionAges({ continuous }: Core): Promise<ReadonlyMap<string, number>> {
  const found = (await continuous.protection()).flatMap(({ record, session }): [string, number][] => {
    const rpoMs = session?.rpoMs ?? null;
    return rpoMs === null ? [] : [[record.machineId, Math.round(rpoMs)]];
  });
  return new Map(found);
}
