// SPDX-License-Identifier: Apache-2.0

import type { Principal } from '../access/principal.ts';
import type { AccessOperations } from './access-operations.ts';
import type { AuditActReport, AuditParams, AuditVerdictReport } from './schemas/audit.ts';
import type { BackupParams, BackupReport } from './schemas/backups.ts';
import type {
  BootedMachine,
  BootParams,
  BootReport,
  MigrateParams,
  MigrateReport,
  RewindReport,
  StopParams,
  StopReport,
} from './schemas/booted.ts';
import type {
  ConfigExportParams,
  ConfigExportReport,
  ConfigImportParams,
  ConfigImportReport,
} from './schemas/configuration.ts';
import type { ExportParams, ExportReport, RestoreParams, RestoreReport, UnexportParams } from './schemas/exports.ts';
import type {
  HypervisorAddParams,
  HypervisorParams,
  HypervisorRemoveParams,
  HypervisorReport,
  HypervisorTestReport,
  HypervisorUpdateParams,
} from './schemas/hypervisors.ts';
import type {
  BookmarkParams,
  BookmarkReport,
  TimelineParams,
  TimelineReport,
  WritesParams,
  WritesReport,
} from './schemas/journal.ts';
import type { ConnectParams, MachineDetails, MachineShowParams, MachineSummary } from './schemas/machines.ts';
import type {
  DeleteParams,
  DeleteReport,
  PointDetails,
  PointParams,
  PointSummary,
  PointsParams,
} from './schemas/points.ts';
import type {
  PolicyCreateParams,
  PolicyEnableParams,
  PolicyParams,
  PolicyPreviewReport,
  PolicyReport,
  PolicySetParams,
  ScheduleReport,
} from './schemas/policies.ts';
import type {
  PauseParams,
  ProtectionReport,
  ProtectParams,
  ResumeParams,
  UnprotectParams,
  UnprotectReport,
} from './schemas/protection.ts';
import type {
  CheckParams,
  CheckReport,
  GcParams,
  GcReport,
  RebuildReport,
  StatusReport,
} from './schemas/repository.ts';
import type {
  HoldParams,
  LockParams,
  PointGuardsReport,
  RetentionApplyParams,
  RetentionApplyReport,
  RetentionParams,
  RetentionReport,
} from './schemas/retention.ts';
import type { RunParams, RunReport, RunSummary, RunsParams } from './schemas/runs.ts';
import type { SettingParams, SettingReport, SettingSetParams } from './schemas/settings.ts';
import type {
  FailbackParams,
  FailbackReport,
  FailoverParams,
  FailoverReport,
  StandbyCreateParams,
  StandbyParams,
  StandbySummary,
  StandbyTestParams,
  StandbyTestReport,
} from './schemas/standbys.ts';
import type { CapacityReport } from './schemas/upkeep.ts';

export type { BackupDiskReport, BackupParams, BackupReport } from './schemas/backups.ts';
export type {
  BootedMachine,
  BootParams,
  BootReport,
  MigrateParams,
  MigrateReport,
  StopParams,
  StopReport,
} from './schemas/booted.ts';
export type { ExportParams, ExportReport, RestoreParams, RestoreReport, UnexportParams } from './schemas/exports.ts';
export type {
  ConnectParams,
  MachineDetails,
  MachineDisk,
  MachineShowParams,
  MachineSummary,
} from './schemas/machines.ts';
export type {
  DeleteParams,
  DeleteReport,
  PointDetails,
  PointParams,
  PointSummary,
  PointsParams,
} from './schemas/points.ts';
export type {
  PauseParams,
  ProtectionReport,
  ProtectParams,
  ResumeParams,
  ResyncReport,
  UnprotectParams,
  UnprotectReport,
} from './schemas/protection.ts';

/**
 * What the appliance can be asked to do: parameters and results are plain JSON, the same for a command in this process,
 * a command through the running service, and `--json`. Sizes in bytes, times as ISO 8601 in UTC, durations in ms.
 */

/** How far a long operation is. `done` and `total` are in `unit`; a total of 0 is not known yet. */
export interface Progress {
  /** What is being done, in a few words (`backing up vda`). */
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'items';
}

export interface OperationContext {
  /** On whose behalf it is done. */
  readonly principal: Principal;
  /** As in the service's log. */
  readonly requestId?: string;
  /** Where the request came from; left out for this host. */
  readonly address?: string;
  /** Once aborted, no further write starts; the operation settles with ABORTED when nothing of it runs any more. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  /** Things the operator should know although the operation goes on. */
  readonly onNotice: (sentence: string) => void;
}

/** No parameters, or a result that says nothing. */
export type Nothing = Readonly<Record<string, never>>;

/** The operations, as the CLI and the service's clients call them. Errors are `ApplianceError`s. */
export interface Appliance extends AccessOperations, AsyncDisposable {
  status(params: Nothing, context: OperationContext): Promise<StatusReport>;
  /** How much room there is, for how long, and which machine takes how much. */
  capacity(params: Nothing, context: OperationContext): Promise<CapacityReport>;
  machineList(params: ConnectParams, context: OperationContext): Promise<readonly MachineSummary[]>;
  machineShow(params: MachineShowParams, context: OperationContext): Promise<MachineDetails>;
  backup(params: BackupParams, context: OperationContext): Promise<BackupReport>;
  /** Protects a machine from now on, until `unprotect`; the service does it. */
  protect(params: ProtectParams, context: OperationContext): Promise<ProtectionReport>;
  unprotect(params: UnprotectParams, context: OperationContext): Promise<UnprotectReport>;
  protection(params: Nothing, context: OperationContext): Promise<readonly ProtectionReport[]>;
  /** Lets another tool have a protected machine, and takes it up again. */
  protectionPause(params: PauseParams, context: OperationContext): Promise<ProtectionReport>;
  protectionResume(params: ResumeParams, context: OperationContext): Promise<ProtectionReport>;
  points(params: PointsParams, context: OperationContext): Promise<readonly PointSummary[]>;
  timeline(params: TimelineParams, context: OperationContext): Promise<TimelineReport>;
  /** Names this moment of a machine under continuous protection. */
  bookmark(params: BookmarkParams, context: OperationContext): Promise<BookmarkReport>;
  writes(params: WritesParams, context: OperationContext): Promise<WritesReport>;
  pointShow(params: PointParams, context: OperationContext): Promise<PointDetails>;
  boot(params: BootParams, context: OperationContext): Promise<BootReport>;
  booted(params: Nothing, context: OperationContext): Promise<readonly BootedMachine[]>;
  stop(params: StopParams, context: OperationContext): Promise<StopReport>;
  /** Gives a booted machine back a state of its own history. */
  rewind(params: PointParams, context: OperationContext): Promise<RewindReport>;
  migrate(params: MigrateParams, context: OperationContext): Promise<MigrateReport>;
  /** Serves until `unexport`, or until the client that asked for it goes away. */
  export(params: ExportParams, context: OperationContext): Promise<ExportReport>;
  unexport(params: UnexportParams, context: OperationContext): Promise<Nothing>;
  exports(params: Nothing, context: OperationContext): Promise<readonly ExportReport[]>;
  restore(params: RestoreParams, context: OperationContext): Promise<RestoreReport>;
  standbyCreate(params: StandbyCreateParams, context: OperationContext): Promise<StandbySummary>;
  standbyList(params: Nothing, context: OperationContext): Promise<readonly StandbySummary[]>;
  standbyRemove(params: StandbyParams, context: OperationContext): Promise<StandbySummary>;
  standbyTest(params: StandbyTestParams, context: OperationContext): Promise<StandbyTestReport>;
  failover(params: FailoverParams, context: OperationContext): Promise<FailoverReport>;
  /** Gives a failover up that has not taken over yet. */
  failoverUndo(params: StandbyParams, context: OperationContext): Promise<StandbySummary>;
  failback(params: FailbackParams, context: OperationContext): Promise<FailbackReport>;
  check(params: CheckParams, context: OperationContext): Promise<CheckReport>;
  catalogRebuild(params: Nothing, context: OperationContext): Promise<RebuildReport>;
  delete(params: DeleteParams, context: OperationContext): Promise<DeleteReport>;
  undelete(params: PointParams, context: OperationContext): Promise<DeleteReport>;
  /** Forbids that a point is deleted, until `release` or a date. */
  hold(params: HoldParams, context: OperationContext): Promise<PointGuardsReport>;
  release(params: PointParams, context: OperationContext): Promise<PointGuardsReport>;
  /** The same until a date, and nothing ends it before. */
  lock(params: LockParams, context: OperationContext): Promise<PointGuardsReport>;
  retentionPreview(params: RetentionParams, context: OperationContext): Promise<RetentionReport>;
  retentionApply(params: RetentionApplyParams, context: OperationContext): Promise<RetentionApplyReport>;
  policyList(params: Record<string, never>, context: OperationContext): Promise<readonly PolicyReport[]>;
  policyShow(params: PolicyParams, context: OperationContext): Promise<PolicyReport>;
  policyCreate(params: PolicyCreateParams, context: OperationContext): Promise<PolicyReport>;
  policySet(params: PolicySetParams, context: OperationContext): Promise<PolicyReport>;
  policyEnable(params: PolicyEnableParams, context: OperationContext): Promise<PolicyReport>;
  policyDisable(params: PolicyParams, context: OperationContext): Promise<PolicyReport>;
  policyDelete(params: PolicyParams, context: OperationContext): Promise<PolicyReport>;
  policyPreview(params: PolicyParams, context: OperationContext): Promise<PolicyPreviewReport>;
  /** What the policies do next, and why not now. */
  schedule(params: Record<string, never>, context: OperationContext): Promise<ScheduleReport>;
  gc(params: GcParams, context: OperationContext): Promise<GcReport>;
  /** What ran, and runs: newest first. */
  runs(params: RunsParams, context: OperationContext): Promise<readonly RunSummary[]>;
  runShow(params: RunParams, context: OperationContext): Promise<RunReport>;
  /** Asks a run to stop at a safe place, and waits a while for its end. */
  runCancel(params: RunParams, context: OperationContext): Promise<RunReport>;
  hypervisors(params: Nothing, context: OperationContext): Promise<readonly HypervisorReport[]>;
  hypervisorShow(params: HypervisorParams, context: OperationContext): Promise<HypervisorReport>;
  hypervisorAdd(params: HypervisorAddParams, context: OperationContext): Promise<HypervisorReport>;
  hypervisorUpdate(params: HypervisorUpdateParams, context: OperationContext): Promise<HypervisorReport>;
  hypervisorRemove(params: HypervisorRemoveParams, context: OperationContext): Promise<HypervisorReport>;
  /** Says what is missing for a connection. */
  hypervisorTest(params: HypervisorParams, context: OperationContext): Promise<HypervisorTestReport>;
  /** Policies, hypervisors and settings as a file; users and tokens are not in it. */
  configExport(params: ConfigExportParams, context: OperationContext): Promise<ConfigExportReport>;
  configImport(params: ConfigImportParams, context: OperationContext): Promise<ConfigImportReport>;
  settings(params: Nothing, context: OperationContext): Promise<readonly SettingReport[]>;
  settingSet(params: SettingSetParams, context: OperationContext): Promise<SettingReport>;
  /** The initial value again. */
  settingReset(params: SettingParams, context: OperationContext): Promise<SettingReport>;
  /** Who did what, newest first. */
  audit(params: AuditParams, context: OperationContext): Promise<readonly AuditActReport[]>;
  auditVerify(params: Nothing, context: OperationContext): Promise<AuditVerdictReport>;
}

export type OperationName = Exclude<keyof Appliance, typeof Symbol.asyncDispose>;

/** What an operation takes and gives, by its name. */
export type OperationParams<Name extends OperationName> = Parameters<Appliance[Name]>[0];
export type OperationResult<Name extends OperationName> = Awaited<ReturnType<Appliance[Name]>>;
