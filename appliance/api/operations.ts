// SPDX-License-Identifier: Apache-2.0
import type { MigrateReport } from '../recover/migrations.ts';
import type { Consistency, PointKind, RecoveryPoint } from '../repository/manifest.ts';
import type {
  BookmarkParams,
  BookmarkReport,
  MomentDetails,
  MomentReport,
  RewindReport,
  TimelineParams,
  TimelineReport,
  WritesParams,
  WritesReport,
} from './journal-operations.ts';
import type {
  CheckParams,
  CheckReport,
  GcParams,
  GcReport,
  RebuildReport,
  StatusReport,
} from './maintenance-operations.ts';
import type {
  GuardReport,
  HoldParams,
  LockParams,
  PointGuardsReport,
  RetentionApplyParams,
  RetentionApplyReport,
  RetentionParams,
  RetentionReport,
} from './retention-operations.ts';
import type { BackupParams, BackupReport } from './schemas/backups.ts';
import type { ConnectParams, MachineDetails, MachineShowParams, MachineSummary } from './schemas/machines.ts';
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
} from './standby-operations.ts';

export type { BackupDiskReport, BackupParams, BackupReport } from './schemas/backups.ts';
export type { ConnectParams, MachineDetails, MachineDisk, MachineSummary } from './schemas/machines.ts';
export type { MigrateReport };

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
  /** Once aborted, no further write starts; the operation settles with ABORTED when nothing of it runs any more. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  /** Things the operator should know although the operation goes on. */
  readonly onNotice: (sentence: string) => void;
}

export interface ProtectParams extends ConnectParams {
  /** A machine's name or UUID. */
  readonly target: string;
  /** A state each so often (`5s`, `1m`, at least `1s`); every write when left out. */
  readonly interval?: string;
  /** `write`: each write of the guest waits until it is on stable storage. Default: `group`, within a second. */
  readonly durability?: 'group' | 'write';
  /** How long moments are kept (`24h`, `7d`), and how large the journal may get (`50GiB`). Left out: as before; at first 24 h. */
  readonly window?: string;
  readonly windowSize?: string;
}

export interface PauseParams {
  readonly name: string;
  /** Taken up again after so long (`30m`, `2h`); left out: when asked for. */
  readonly for?: string;
}

/** A machine under continuous protection. */
export interface ProtectionReport {
  readonly machine: string;
  readonly machineId: string;
  readonly connect: string;
  readonly protectedSince: string;
  /** `stage`: it runs from the appliance, which therefore keeps every write of it. */
  readonly mode: 'writes' | 'interval' | 'stage';
  /** Null: every write. */
  readonly intervalMs: number | null;
  /** How long moments are kept, and how large the journal may get meanwhile; null: no limit. */
  readonly windowMs: number;
  readonly windowBytes: number | null;
  /** `guest`: what the guest flushes is flushed, when it does. */
  readonly durability: 'group' | 'write' | 'guest';
  /** `seeding`, `protected`, `behind`, `resyncing`, `paused`; `stopped` while no service runs. */
  readonly state: 'seeding' | 'protected' | 'behind' | 'resyncing' | 'paused' | 'stopped';
  readonly reason: string;
  readonly stateSince: string | null;
  /** How much would be lost if the machine were lost now, as time; null when nothing can be recovered yet. */
  readonly rpoMs: number | null;
  readonly journalBytes: number;
  /** Bytes that the guest wrote, over the last minute. */
  readonly bytesPerSecond: number;
  /** The span in which moments can be recovered; null when there is none. */
  readonly window: { readonly from: string; readonly to: string } | null;
  /** Spans within it in which none can. */
  readonly gaps: readonly { readonly from: string; readonly to: string | null; readonly reason: string }[];
  /** When the journal was last folded into a recovery point, and why the last attempt failed. */
  readonly lastFold: string | null;
  readonly foldProblem: string | null;
  /** What is wrong besides, in sentences without a full stop. */
  readonly problems: readonly string[];
  /** How the machine was taken up after the last interruption of `writes`; null when there was none. */
  readonly resync: ResyncReport | null;
  /** The states that it went through, oldest first. */
  readonly history: readonly {
    readonly at: string;
    readonly state: string;
    readonly mode: string;
    readonly reason: string;
  }[];
}

export interface ResyncReport {
  /** `bitmap`: caught up from the hypervisor's dirty bitmap, then copied and compared; `comparison`: only that. */
  readonly kind: 'bitmap' | 'comparison';
  readonly at: string;
  /** Why the bitmap was not used; null where it was. */
  readonly reason: string | null;
  /** Bytes that were read to catch up. */
  readonly changedBytes: number;
  /** Bytes that the copy sent, and what of them differed; null until it is complete. */
  readonly comparedBytes: number | null;
  readonly differingBytes: number | null;
}

export interface UnprotectReport {
  readonly machine: string;
  /** The recovery point that holds the last state; null when there was none to save. */
  readonly point: string | null;
  readonly outcome: string;
}

export interface PointsParams {
  /** A machine's name or id. */
  readonly machine?: string;
}

export interface PointSummary {
  readonly id: string;
  readonly machine: string;
  readonly machineId: string;
  readonly createdAt: string;
  readonly kind: PointKind;
  readonly reason: string;
  readonly consistency: Consistency;
  readonly disks: number;
  readonly sizeBytes: number;
  readonly dataBytes: number;
  readonly newChunkBytes: number;
  readonly storedBytes: number;
  readonly durationMs: number;
  /** Its manifest disappeared from the repository: it cannot be restored, and what it holds is kept until it is deleted. */
  readonly lost: boolean;
  /** What forbids that it is deleted, by any means; null for nothing. */
  readonly hold: GuardReport | null;
  readonly lock: GuardReport | null;
}

export interface PointParams {
  /** A recovery point or a moment of a journal; `docs/cli.md`, "How a state is named". */
  readonly point: string;
}

export interface PointDetails {
  readonly point: RecoveryPoint;
  /** The moment above the point that was named; null for a recovery point itself. */
  readonly moment: MomentDetails | null;
  /** What keeps it from being deleted now (exports, booted machines). */
  readonly usedBy: readonly string[];
  /** As in `PointSummary`; `point` is then what the catalog knows of it. */
  readonly lost: boolean;
  readonly hold: GuardReport | null;
  readonly lock: GuardReport | null;
}

export interface BootParams extends PointParams, ConnectParams {
  readonly as?: string;
  readonly keepNetwork?: boolean;
  readonly keepIdentity?: boolean;
}

export interface BootReport {
  readonly name: string;
  readonly machineId: string;
  readonly point: string;
  /** The moment above the point; null for the recovery point itself. */
  readonly moment: MomentReport | null;
  readonly connect: string;
  /** From the call to the running domain. */
  readonly durationMs: number;
  readonly exports: readonly { readonly disk: string; readonly uri: string }[];
  /** Sentences: what of the saved definition had to be changed to start it here. */
  readonly changes: readonly string[];
}

export interface BootedMachine {
  readonly name: string;
  readonly machineId: string;
  readonly point: string;
  /** The moment above the point; null for the recovery point itself. */
  readonly moment: MomentReport | null;
  readonly connect: string;
  readonly state: string;
  readonly startedAt: string;
  /** Bytes that the machine has written since. */
  readonly writtenBytes: number;
  /** What the operator should do something about, in a sentence; null for nothing. */
  readonly problem: string | null;
}

export interface StopParams {
  readonly name: string;
  /** Give up what the machine has written; otherwise it is kept and the same machine can be started again. */
  readonly discard?: boolean;
}

export interface StopReport {
  readonly name: string;
  readonly discarded: boolean;
  readonly writtenBytes: number;
  /** The machine's state after the call, in a sentence. */
  readonly outcome: string;
}

export interface MigrateParams {
  /** Of a booted machine. */
  readonly name: string;
  /** Where its disks go: a directory of the service's host, or … */
  readonly directory?: string;
  /** … a storage pool of its libvirt. Neither is needed to finish an interrupted migration. */
  readonly pool?: string;
  /** Default: qcow2. */
  readonly format?: 'qcow2' | 'raw';
  /** Bytes per second that the copy may take. */
  readonly bandwidth?: number;
  /** The name that the machine gets when it is shut off the next time. */
  readonly as?: string;
  /** Whether it starts with its host; otherwise that stays as it is. */
  readonly autostart?: boolean;
  /** Compare the copies with the disks before the machine goes over to them; default true. */
  readonly verify?: boolean;
}

export interface ExportParams extends PointParams {
  readonly disk?: string;
  readonly socket?: string;
  /** HOST:PORT; IPv6 hosts in brackets; port 0 for any free one. */
  readonly listen?: string;
  /** Take writes into a log of their own; they are gone when the export ends. */
  readonly writable?: boolean;
}

export interface ExportReport {
  readonly id: string;
  readonly uri: string;
  readonly point: string;
  /** The moment above the point; null for the recovery point itself. */
  readonly moment: MomentReport | null;
  readonly disk: string;
  readonly sizeBytes: number;
  readonly writable: boolean;
}

export interface RestoreParams extends PointParams, ConnectParams {
  readonly disk?: string;
  /** A file, a block device, or an NBD URI. */
  readonly to?: string;
  readonly format?: 'raw' | 'qcow2' | 'vmdk';
  /** Define a new machine of this name, its disks beside the originals or in `directory`. */
  readonly as?: string;
  readonly directory?: string;
  /** Put the point's content into the original machine's disks. */
  readonly inPlace?: boolean;
}

export interface RestoreReport {
  readonly point: string;
  /** The moment above the point; null for the recovery point itself. */
  readonly moment: MomentReport | null;
  readonly targets: readonly {
    readonly disk: string;
    readonly to: string;
    readonly sizeBytes: number;
    readonly writtenBytes: number;
  }[];
  readonly machine: string | null;
  readonly durationMs: number;
  readonly changes: readonly string[];
}

export interface DeleteReport {
  readonly point: string;
  readonly machine: string;
  /** Until then `undelete` brings it back, and its space is not freed; null when it is gone for good. */
  readonly recoverableUntil: string | null;
  /** It was a lost point, which has been given up. */
  readonly lost: boolean;
}

/** The operations, as the CLI and the service's clients call them. Errors are `ApplianceError`s. */
export interface Appliance extends AsyncDisposable {
  status(params: Record<string, never>, context: OperationContext): Promise<StatusReport>;
  machineList(params: ConnectParams, context: OperationContext): Promise<readonly MachineSummary[]>;
  machineShow(params: MachineShowParams, context: OperationContext): Promise<MachineDetails>;
  backup(params: BackupParams, context: OperationContext): Promise<BackupReport>;
  /** Protects a machine from now on, until `unprotect`; the service does it. */
  protect(params: ProtectParams, context: OperationContext): Promise<ProtectionReport>;
  unprotect(params: { readonly name: string }, context: OperationContext): Promise<UnprotectReport>;
  protection(params: Record<string, never>, context: OperationContext): Promise<readonly ProtectionReport[]>;
  /** Lets another tool have a protected machine, and takes it up again. */
  protectionPause(params: PauseParams, context: OperationContext): Promise<ProtectionReport>;
  protectionResume(params: { readonly name: string }, context: OperationContext): Promise<ProtectionReport>;
  points(params: PointsParams, context: OperationContext): Promise<readonly PointSummary[]>;
  timeline(params: TimelineParams, context: OperationContext): Promise<TimelineReport>;
  /** Names this moment of a machine under continuous protection. */
  bookmark(params: BookmarkParams, context: OperationContext): Promise<BookmarkReport>;
  writes(params: WritesParams, context: OperationContext): Promise<WritesReport>;
  pointShow(params: PointParams, context: OperationContext): Promise<PointDetails>;
  boot(params: BootParams, context: OperationContext): Promise<BootReport>;
  booted(params: Record<string, never>, context: OperationContext): Promise<readonly BootedMachine[]>;
  stop(params: StopParams, context: OperationContext): Promise<StopReport>;
  /** Gives a booted machine back a state of its own history. */
  rewind(params: PointParams, context: OperationContext): Promise<RewindReport>;
  migrate(params: MigrateParams, context: OperationContext): Promise<MigrateReport>;
  /** Serves until `unexport`, or until the client that asked for it goes away. */
  export(params: ExportParams, context: OperationContext): Promise<ExportReport>;
  unexport(params: { readonly id: string }, context: OperationContext): Promise<Record<string, never>>;
  restore(params: RestoreParams, context: OperationContext): Promise<RestoreReport>;
  standbyCreate(params: StandbyCreateParams, context: OperationContext): Promise<StandbySummary>;
  standbyList(params: Record<string, never>, context: OperationContext): Promise<readonly StandbySummary[]>;
  standbyRemove(params: StandbyParams, context: OperationContext): Promise<StandbySummary>;
  standbyTest(params: StandbyTestParams, context: OperationContext): Promise<StandbyTestReport>;
  failover(params: FailoverParams, context: OperationContext): Promise<FailoverReport>;
  /** Gives a failover up that has not taken over yet. */
  failoverUndo(params: StandbyParams, context: OperationContext): Promise<StandbySummary>;
  failback(params: FailbackParams, context: OperationContext): Promise<FailbackReport>;
  check(params: CheckParams, context: OperationContext): Promise<CheckReport>;
  catalogRebuild(params: Record<string, never>, context: OperationContext): Promise<RebuildReport>;
  delete(params: PointParams & { readonly now?: boolean }, context: OperationContext): Promise<DeleteReport>;
  undelete(params: PointParams, context: OperationContext): Promise<DeleteReport>;
  /** Forbids that a point is deleted, until `release` or a date. */
  hold(params: HoldParams, context: OperationContext): Promise<PointGuardsReport>;
  release(params: PointParams, context: OperationContext): Promise<PointGuardsReport>;
  /** The same until a date, and nothing ends it before. */
  lock(params: LockParams, context: OperationContext): Promise<PointGuardsReport>;
  retentionPreview(params: RetentionParams, context: OperationContext): Promise<RetentionReport>;
  retentionApply(params: RetentionApplyParams, context: OperationContext): Promise<RetentionApplyReport>;
  gc(params: GcParams, context: OperationContext): Promise<GcReport>;
}

export type OperationName = Exclude<keyof Appliance, typeof Symbol.asyncDispose>;
