// SPDX-License-Identifier: Apache-2.0
import type { OperationName, OperationParams, OperationResult } from '../operations.ts';
import { ACCESS_SCHEMAS } from './access-schemas.ts';
import { auditParams, auditResult, auditVerifyResult } from './audit.ts';
import { backupParams, backupResult } from './backups.ts';
import {
  bootedResult,
  bootParams,
  bootResult,
  migrateParams,
  migrateResult,
  rewindResult,
  stopParams,
  stopResult,
} from './booted.ts';
import { configExportParams, configExportResult, configImportParams, configImportResult } from './configuration.ts';
import { exportParams, exportResult, exportsResult, restoreParams, restoreResult, unexportParams } from './exports.ts';
import {
  hypervisorAddParams,
  hypervisorListResult,
  hypervisorParams,
  hypervisorRemoveParams,
  hypervisorReport,
  hypervisorTestReport,
  hypervisorUpdateParams,
} from './hypervisors.ts';
import {
  bookmarkParams,
  bookmarkResult,
  timelineParams,
  timelineResult,
  writesParams,
  writesResult,
} from './journal.ts';
import { machineDetails, machineListParams, machineListResult, machineShowParams } from './machines.ts';
import { deleteParams, deleteResult, pointParams, pointShowResult, pointsParams, pointsResult } from './points.ts';
import {
  policyCreateParams,
  policyEnableParams,
  policyListResult,
  policyParams,
  policyPreviewResult,
  policyReport,
  policySetParams,
  scheduleResult,
} from './policies.ts';
import {
  protectionPauseParams,
  protectionReport,
  protectionResult,
  protectionResumeParams,
  protectParams,
  unprotectParams,
  unprotectResult,
} from './protection.ts';
import {
  catalogRebuildResult,
  gcParams,
  gcResult,
  repositoryCheckParams,
  repositoryCheckResult,
  statusResult,
} from './repository.ts';
import {
  holdParams,
  lockParams,
  pointGuards,
  retentionApplyParams,
  retentionApplyResult,
  retentionPreviewParams,
  retentionPreviewResult,
} from './retention.ts';
import { runParams, runReport, runsParams, runsResult } from './runs.ts';
import { settingParams, settingReport, settingSetParams, settingsResult } from './settings.ts';
import {
  failbackParams,
  failbackResult,
  failoverParams,
  failoverResult,
  standbyCreateParams,
  standbyListResult,
  standbyParams,
  standbySummary,
  standbyTestParams,
  standbyTestResult,
} from './standbys.ts';
import type { MustBeTrue, Same, Static, TSchema } from './type.ts';
import { capacityResult } from './upkeep.ts';
import { noParams, nothing } from './vocabulary.ts';

/** What an operation takes and gives, as JSON schemas. */
export interface OperationSchemas {
  readonly params: TSchema;
  readonly result: TSchema;
}

export interface ParamsSchema extends TSchema {
  readonly properties: Readonly<Record<string, TSchema>>;
  /** Left out where nothing is. */
  readonly required?: readonly string[];
}

/**
 * The schemas of each operation. The compiler checks that none is missing and that each says what the operation's type says
 * (below). Parameters know no members but those that are named; a result may have more in a later version.
 */
export const OPERATION_SCHEMAS = {
  status: { params: noParams, result: statusResult },
  capacity: { params: noParams, result: capacityResult },
  machineList: { params: machineListParams, result: machineListResult },
  machineShow: { params: machineShowParams, result: machineDetails },
  backup: { params: backupParams, result: backupResult },
  protect: { params: protectParams, result: protectionReport },
  unprotect: { params: unprotectParams, result: unprotectResult },
  protection: { params: noParams, result: protectionResult },
  protectionPause: { params: protectionPauseParams, result: protectionReport },
  protectionResume: { params: protectionResumeParams, result: protectionReport },
  points: { params: pointsParams, result: pointsResult },
  pointShow: { params: pointParams, result: pointShowResult },
  timeline: { params: timelineParams, result: timelineResult },
  writes: { params: writesParams, result: writesResult },
  bookmark: { params: bookmarkParams, result: bookmarkResult },
  boot: { params: bootParams, result: bootResult },
  booted: { params: noParams, result: bootedResult },
  rewind: { params: pointParams, result: rewindResult },
  stop: { params: stopParams, result: stopResult },
  migrate: { params: migrateParams, result: migrateResult },
  export: { params: exportParams, result: exportResult },
  unexport: { params: unexportParams, result: nothing },
  restore: { params: restoreParams, result: restoreResult },
  standbyCreate: { params: standbyCreateParams, result: standbySummary },
  standbyList: { params: noParams, result: standbyListResult },
  standbyRemove: { params: standbyParams, result: standbySummary },
  standbyTest: { params: standbyTestParams, result: standbyTestResult },
  failover: { params: failoverParams, result: failoverResult },
  failoverUndo: { params: standbyParams, result: standbySummary },
  failback: { params: failbackParams, result: failbackResult },
  check: { params: repositoryCheckParams, result: repositoryCheckResult },
  catalogRebuild: { params: noParams, result: catalogRebuildResult },
  delete: { params: deleteParams, result: deleteResult },
  undelete: { params: pointParams, result: deleteResult },
  hold: { params: holdParams, result: pointGuards },
  release: { params: pointParams, result: pointGuards },
  lock: { params: lockParams, result: pointGuards },
  retentionPreview: { params: retentionPreviewParams, result: retentionPreviewResult },
  retentionApply: { params: retentionApplyParams, result: retentionApplyResult },
  policyList: { params: noParams, result: policyListResult },
  policyShow: { params: policyParams, result: policyReport },
  policyCreate: { params: policyCreateParams, result: policyReport },
  policySet: { params: policySetParams, result: policyReport },
  policyEnable: { params: policyEnableParams, result: policyReport },
  policyDisable: { params: policyParams, result: policyReport },
  policyDelete: { params: policyParams, result: policyReport },
  policyPreview: { params: policyParams, result: policyPreviewResult },
  schedule: { params: noParams, result: scheduleResult },
  gc: { params: gcParams, result: gcResult },
  exports: { params: noParams, result: exportsResult },
  runs: { params: runsParams, result: runsResult },
  runShow: { params: runParams, result: runReport },
  runCancel: { params: runParams, result: runReport },
  hypervisors: { params: noParams, result: hypervisorListResult },
  hypervisorShow: { params: hypervisorParams, result: hypervisorReport },
  hypervisorAdd: { params: hypervisorAddParams, result: hypervisorReport },
  hypervisorUpdate: { params: hypervisorUpdateParams, result: hypervisorReport },
  hypervisorRemove: { params: hypervisorRemoveParams, result: hypervisorReport },
  hypervisorTest: { params: hypervisorParams, result: hypervisorTestReport },
  configExport: { params: configExportParams, result: configExportResult },
  configImport: { params: configImportParams, result: configImportResult },
  settings: { params: noParams, result: settingsResult },
  settingSet: { params: settingSetParams, result: settingReport },
  settingReset: { params: settingParams, result: settingReport },
  audit: { params: auditParams, result: auditResult },
  auditVerify: { params: noParams, result: auditVerifyResult },
  ...ACCESS_SCHEMAS,
} as const satisfies { readonly [Name in OperationName]: OperationSchemas };

type Table = typeof OPERATION_SCHEMAS;

/** What an operation takes, member by member. */
export function paramsSchemaOf(name: OperationName): ParamsSchema {
  return OPERATION_SCHEMAS[name].params as TSchema as ParamsSchema;
}

/** The operations of which a part of the schemas and the type of that part differ. */
type Differing = {
  [Name in OperationName]: [
    Same<Static<Table[Name]['params']>, OperationParams<Name>>,
    Same<Static<Table[Name]['result']>, OperationResult<Name>>,
  ] extends [true, true]
    ? never
    : Name;
}[OperationName];

export type OperationProof = MustBeTrue<Same<Differing, never>>;
