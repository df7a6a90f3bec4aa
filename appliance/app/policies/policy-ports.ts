// SPDX-License-Identifier: Apache-2.0
import type { Principal } from '../../access/principal.ts';
import type { Appliance } from '../../api/operations.ts';
import type { RunService } from '../../api/runs/run-service.ts';
import type { RetentionParams } from '../../api/schemas/retention.ts';
import type { Configuration } from '../../config/configuration.ts';
import { parseBytes, parseDuration } from '../../core/amounts.ts';
import type { Clock } from '../../core/clock.ts';
import type { HostUptime } from '../../core/uptime.ts';
import { type LabelledMachine, readLabelledMachines } from '../../hypervisor/libvirt/machine-labels.ts';
import type { ProtectionRecord } from '../../protect/continuous/protection-record.ts';
import { byAge } from '../../protect/point-selector.ts';
import type { MachineRecord } from '../../protect/policy/machine-state.ts';
import type { Policy, PolicyKeep } from '../../protect/policy/policy.ts';
import type { EnginePorts, ProtectionFacts } from '../../protect/policy/policy-engine.ts';
import type { SelectableMachine } from '../../protect/policy/selection.ts';
import type { RecoveryPoint } from '../../repository/manifest.ts';
import type { Core } from '../core.ts';
import type { Hypervisors } from '../hypervisors.ts';
import { ClockDoubt } from './clock-doubt.ts';
import type { PolicyBook } from './policy-book.ts';
import { performRun, policyPrincipal } from './policy-runs.ts';

const PREFIX = 'policy-machine-';
const ANY = { least: 0, most: Number.MAX_SAFE_INTEGER, what: 'amount', hint: '' };

export interface PolicyPortsParts {
  readonly core: Core;
  readonly book: PolicyBook;
  readonly configuration: Configuration;
  readonly clock: Clock;
  readonly uptime: () => HostUptime;
  readonly hypervisors: Hypervisors;
  /** What a policy does is done as the same operations that people use, and what takes its time as runs. */
  readonly operations: Pick<Appliance, 'retentionPreview'>;
  readonly runs: RunService;
  readonly onNotice: (sentence: string) => void;
  readonly onChange: () => void;
}

/** The engine's world: hypervisors, repository and catalog of an open appliance. */
export function policyPorts(parts: PolicyPortsParts): EnginePorts & { readonly doubt: ClockDoubt } {
  const { core, book, configuration, hypervisors, clock, uptime, runs, onNotice, onChange } = parts;
  const doubt = new ClockDoubt(core, clock, uptime);
  return {
    doubt,
    moment: () => ({ wallMs: clock.nowMs(), ...uptime() }),
    hosts: () => hypervisors.all().map(({ uri }) => uri),
    machines: async (host) =>
      selectable(
        { uri: host, name: hypervisors.labelOf(host) },
        await readLabelledMachines(await core.connections.get(host)),
      ),
    policies: () => book.all,
    limits: () => ({
      perHost: configuration.settings.value('policy.runs-per-hypervisor'),
      perRepository: configuration.settings.value('policy.runs'),
    }),
    newestPoints: async () => newestPoints(await core.catalog.points()),
    protection: () => Promise.resolve(protectionFacts(core.continuous.records)),
    backup: async ({ id, host }, policy, watch) => {
      const { bandwidthBytes, document } = policy;
      const bandwidth = bandwidthBytes === undefined ? {} : { bandwidth: bandwidthBytes };
      const params = { target: id, connect: host, quiesce: document.quiesce, ...bandwidth };
      const { createdAt } = await performRun(runs, { operation: 'backup', params, ...by(policy, id), ...watch });
      return Date.parse(createdAt);
    },
    protect: async ({ id, host }, policy, watch) => {
      const params = { target: id, connect: host, ...sessionWishes(policy) };
      await performRun(runs, { operation: 'protect', params, ...by(policy, id), ...watch });
    },
    unprotect: async ({ id }, owner, signal) => {
      const principal: Principal = {
        kind: 'policy',
        id: owner,
        name: `policy ${owner}`,
        role: 'admin',
        machines: null,
      };
      await performRun(runs, { operation: 'unprotect', params: { name: id }, principal, machineId: id, signal });
    },
    retain: (machine, policy, signal) => retain(parts, { machine, policy }, signal),
    retentionProblem: () => doubt.problem(),
    records: {
      load: async () =>
        [...(await core.catalog.records<MachineRecord>('session/'))].flatMap(([name, record]) =>
          name.startsWith(PREFIX) ? [record] : [],
        ),
      put: (record) => core.catalog.putRecord('session/', PREFIX + record.machineId, record),
      remove: (machineId) => core.catalog.deleteRecord('session/', PREFIX + machineId),
    },
    onNotice,
    onChange,
  };
}

/** The parameters of `retention` that a policy stands for. */
export function retentionParams(keep: PolicyKeep, timeZone: string): Omit<RetentionParams, 'machine' | 'all'> {
  const parts = {
    keepLast: keep.last,
    keepHourly: keep.hourly,
    keepDaily: keep.daily,
    keepWeekly: keep.weekly,
    keepMonthly: keep.monthly,
    keepYearly: keep.yearly,
    keepWithin: keep.within,
    timeZone,
  };
  return Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== undefined));
}

/** When the newest point of each machine was taken. The newest is the last that was made, whatever the clock said. */
export function newestPoints(points: readonly RecoveryPoint[]): ReadonlyMap<string, number> {
  const newest = new Map<string, RecoveryPoint>();
  for (const point of points) {
    const known = newest.get(point.machine.id);
    if (known === undefined || byAge(point, known) < 0) newest.set(point.machine.id, point);
  }
  return new Map([...newest].map(([id, { createdAt }]) => [id, Date.parse(createdAt)]));
}

/** The machines of a hypervisor as policies see them. */
export function selectable(
  host: { readonly uri: string; readonly name: string },
  machines: readonly LabelledMachine[],
): SelectableMachine[] {
  const place = { host: host.uri, hostName: host.name };
  return machines.map(({ marker, ...machine }) => ({ ...machine, ...place, excluded: exclusionOf(marker?.purpose) }));
}

/** Why no policy takes a machine of ours; null for one that was restored, and lives its own life. */
export function exclusionOf(purpose: 'boot' | 'restore' | 'standby' | undefined): string | null {
  if (purpose === 'boot') return 'it runs from the appliance, which keeps every write of it';
  return purpose === 'standby' ? 'it is a spare' : null;
}

function protectionFacts(records: readonly ProtectionRecord[]): ReadonlyMap<string, ProtectionFacts> {
  return new Map(
    records.map((record) => [
      record.machineId as string,
      { policy: record.policy ?? null, isAsWished: (policy) => isAsWished(record, policy) },
    ]),
  );
}

function isAsWished(record: ProtectionRecord, policy: Policy): boolean {
  const { durability = 'group', journalWindow, journalSize } = policy.document;
  return (
    record.intervalMs === policy.intervalMs &&
    record.durability === durability &&
    (journalWindow === undefined || record.windowMs === parseDuration(journalWindow, ANY)) &&
    (journalSize === undefined || record.windowBytes === parseBytes(journalSize, ANY))
  );
}

function sessionWishes({ document }: Policy): {
  readonly interval?: string;
  readonly durability?: 'group' | 'write';
  readonly window?: string;
  readonly windowSize?: string;
} {
  const { interval, durability, journalWindow: window, journalSize: windowSize } = document;
  const wishes = { interval, durability, window, windowSize };
  return Object.fromEntries(Object.entries(wishes).filter(([, wish]) => wish !== undefined));
}

/**
 * Decides, and deletes exactly what was decided on, as a run: when something changes in between, the next hour decides anew. What
 * goes nowhere is no run.
 */
async function retain(
  { runs, operations, onNotice }: Pick<PolicyPortsParts, 'runs' | 'operations' | 'onNotice'>,
  { machine, policy }: { readonly machine: SelectableMachine; readonly policy: Policy },
  signal: AbortSignal,
): Promise<void> {
  const { keep, timeZone } = policy.document;
  const rule = { machine: machine.id, ...retentionParams(keep, timeZone) };
  const principal = policyPrincipal(policy);
  const context = { principal, signal, onProgress: ignore, onNotice };
  const { going, plan } = await operations.retentionPreview(rule, context);
  if (going === 0) return;
  const params = { ...rule, plan };
  await performRun(runs, { operation: 'retentionApply', params, principal, machineId: machine.id, signal });
}

function by(policy: Policy, machineId: string): { readonly principal: Principal; readonly machineId: string } {
  return { principal: policyPrincipal(policy), machineId };
}

function ignore(): void {
  // The run that follows shows its own.
}
