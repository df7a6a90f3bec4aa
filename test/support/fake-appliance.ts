// SPDX-License-Identifier: Apache-2.0
import { type ApplianceHost, serviceParts } from '../../appliance/api/appliance-host.ts';
import { NamedMachines } from '../../appliance/api/guard/named-machines.ts';
import { type ApprovalGate, OperationGuard } from '../../appliance/api/guard/operation-guard.ts';
import type { Appliance, OperationContext, OperationName } from '../../appliance/api/operations.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { fakeAccess } from './fake-access.ts';
import { fakeConfiguration } from './fake-configuration.ts';
import { fakePolicyResults } from './fake-policies.ts';
import { fakeResults } from './fake-results.ts';
import { fakeRetentionResults } from './fake-retention.ts';
import { fakeStandbyResults } from './fake-standby.ts';
import { fakeUpkeep } from './fake-upkeep.ts';
import { memoryRunRecords } from './memory-run-records.ts';

/** A call that a fake appliance got. */
export interface FakeCall {
  readonly name: OperationName;
  readonly params: unknown;
  readonly context: OperationContext;
}

const NO_APPROVALS: ApprovalGate = {
  isRequired: false,
  request: () => Promise.reject(new Error('nothing needs approval here')),
};

export type FakeBehaviour = Partial<Omit<Appliance, typeof Symbol.asyncDispose>>;

/** An appliance that answers with `fakeResults`, records its calls, and does what a test tells it to instead. */
export class FakeAppliance implements AsyncDisposable {
  readonly calls: FakeCall[] = [];
  /** Exports that live. */
  readonly exports: Set<string> = new Set();
  readonly defects: Error[] = [];
  /** Why it is not ready. */
  problems: readonly string[] = [];
  isDisposed = false;
  /** The behaviour can be changed while it is in use. */
  behaviour: FakeBehaviour;
  private readonly onDispose: () => Promise<void> | void;

  constructor(behaviour: FakeBehaviour = {}, onDispose: () => Promise<void> | void = () => undefined) {
    this.behaviour = behaviour;
    this.onDispose = onDispose;
  }

  /** As the operations see it. */
  asAppliance(): ApplianceHost {
    const answer =
      <Name extends OperationName>(name: Name, result: (params: never) => unknown) =>
      async (params: never, context: OperationContext): Promise<never> => {
        this.calls.push({ name, params, context });
        const own = this.behaviour[name] as ((params: never, context: OperationContext) => Promise<never>) | undefined;
        if (own !== undefined) return own(params, context);
        if (context.signal.aborted) throw new ApplianceError('ABORTED', 'interrupted');
        return result(params) as never;
      };
    const parts = serviceParts(() => host, {
      records: memoryRunRecords(),
      onNotice: () => undefined,
      onDefect: (violation) => this.defects.push(violation),
    });
    const { runService } = parts;
    const host: ApplianceHost = {
      ...parts,
      problems: async () => this.problems,
      status: answer('status', () => fakeResults.status),
      capacity: answer('capacity', () => fakeUpkeep.capacity),
      machineList: answer('machineList', () => [fakeResults.machineSummary]),
      machineShow: answer('machineShow', () => fakeResults.machine),
      backup: answer('backup', () => fakeResults.backup),
      protect: answer('protect', () => fakeResults.protection),
      unprotect: answer('unprotect', () => fakeResults.unprotect),
      protection: answer('protection', () => [fakeResults.protection]),
      protectionPause: answer('protectionPause', () => fakeResults.protection),
      protectionResume: answer('protectionResume', () => fakeResults.protection),
      points: answer('points', () => fakeResults.points),
      timeline: answer('timeline', () => fakeResults.timeline),
      bookmark: answer('bookmark', () => fakeResults.bookmark),
      writes: answer('writes', () => fakeResults.writes),
      pointShow: answer('pointShow', () => fakeResults.pointShow),
      boot: answer('boot', () => fakeResults.boot),
      booted: answer('booted', () => [fakeResults.booted]),
      rewind: answer('rewind', () => fakeStandbyResults.rewind),
      stop: answer('stop', () => fakeResults.stop),
      migrate: answer('migrate', () => fakeResults.migrate),
      standbyCreate: answer('standbyCreate', () => fakeStandbyResults.standby),
      standbyList: answer('standbyList', () => [fakeStandbyResults.standby]),
      standbyRemove: answer('standbyRemove', () => fakeStandbyResults.standby),
      standbyTest: answer('standbyTest', () => fakeStandbyResults.standbyTest),
      failover: answer('failover', () => fakeStandbyResults.failover),
      failoverUndo: answer('failoverUndo', () => fakeStandbyResults.standby),
      failback: answer('failback', () => fakeStandbyResults.failback),
      export: answer('export', () => {
        this.exports.add(fakeResults.export.id);
        return fakeResults.export;
      }),
      unexport: answer('unexport', ({ id }: { readonly id: string }) => {
        if (!this.exports.delete(id)) throw new ApplianceError('NBD_EXPORT_UNKNOWN', `there is no export ${id}`);
        return {};
      }),
      restore: answer('restore', () => fakeResults.restore),
      check: answer('check', () => fakeResults.check),
      catalogRebuild: answer('catalogRebuild', () => fakeResults.rebuild),
      delete: answer('delete', () => fakeResults.delete),
      undelete: answer('undelete', () => fakeResults.delete),
      hold: answer('hold', () => fakeRetentionResults.guards),
      release: answer('release', () => fakeRetentionResults.guards),
      lock: answer('lock', () => fakeRetentionResults.guards),
      retentionPreview: answer('retentionPreview', () => fakeRetentionResults.preview),
      retentionApply: answer('retentionApply', () => fakeRetentionResults.apply),
      exports: answer('exports', () => (this.exports.size === 0 ? [] : [fakeResults.export])),
      runs: ({ last }) => runService.list(last),
      runShow: ({ id }) => runService.show(id),
      runCancel: ({ id }, { principal }) => runService.cancel(id, principal),
      policyList: answer('policyList', () => [fakePolicyResults.policy]),
      policyShow: answer('policyShow', () => fakePolicyResults.policy),
      policyCreate: answer('policyCreate', () => fakePolicyResults.policy),
      policySet: answer('policySet', () => fakePolicyResults.policy),
      policyEnable: answer('policyEnable', () => fakePolicyResults.policy),
      policyDisable: answer('policyDisable', () => fakePolicyResults.policy),
      policyDelete: answer('policyDelete', () => fakePolicyResults.policy),
      policyPreview: answer('policyPreview', () => fakePolicyResults.preview),
      schedule: answer('schedule', () => fakePolicyResults.schedule),
      gc: answer('gc', () => fakeResults.gc),
      hypervisors: answer('hypervisors', () => [fakeConfiguration.hypervisor]),
      hypervisorShow: answer('hypervisorShow', () => fakeConfiguration.hypervisor),
      hypervisorAdd: answer('hypervisorAdd', () => fakeConfiguration.hypervisor),
      hypervisorUpdate: answer('hypervisorUpdate', () => fakeConfiguration.hypervisor),
      hypervisorRemove: answer('hypervisorRemove', () => fakeConfiguration.hypervisor),
      hypervisorTest: answer('hypervisorTest', () => fakeConfiguration.hypervisorTest),
      configExport: answer('configExport', () => fakeConfiguration.configExport),
      configImport: answer('configImport', () => fakeConfiguration.configImport),
      settings: answer('settings', () => [fakeConfiguration.setting]),
      settingSet: answer('settingSet', () => fakeConfiguration.setting),
      settingReset: answer('settingReset', () => fakeConfiguration.setting),
      audit: answer('audit', () => [fakeConfiguration.act]),
      auditVerify: answer('auditVerify', () => fakeConfiguration.verdict),
      ...fakeAccess(answer),
      access: null,
      guard: new OperationGuard({ machines: new NamedMachines(() => host), approvals: NO_APPROVALS }),
      [Symbol.asyncDispose]: async () => {
        await this.onDispose();
        this.isDisposed = true;
      },
    };
    return host;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.onDispose();
    this.isDisposed = true;
  }
}
