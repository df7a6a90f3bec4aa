// SPDX-License-Identifier: Apache-2.0
import type { AccessOperations } from '../api/access-operations.ts';
import { type ApplianceHost, serviceParts } from '../api/appliance-host.ts';
import type { EventHub } from '../api/events/event-hub.ts';
import type { Figures } from '../api/metrics/figures.ts';
import type {
  Appliance,
  BackupParams,
  BackupReport,
  BootParams,
  BootReport,
  ConnectParams,
  ExportParams,
  ExportReport,
  MachineDetails,
  MachineSummary,
  MigrateParams,
  MigrateReport,
  OperationContext,
  PointDetails,
  PointParams,
  ProtectionReport,
  ProtectParams,
  RestoreParams,
  RestoreReport,
  StopParams,
  StopReport,
  UnprotectReport,
} from '../api/operations.ts';
import type { RunService } from '../api/runs/run-service.ts';
import type { RewindReport } from '../api/schemas/booted.ts';
import type { BookmarkParams, BookmarkReport } from '../api/schemas/journal.ts';
import type { RebuildReport, StatusReport } from '../api/schemas/repository.ts';
import type { Catalog } from '../catalog/catalog.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import { hostUptime } from '../core/uptime.ts';
import type { StateChange } from '../protect/continuous/session-state.ts';
import { parseSelector } from '../protect/selector.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { RecoverableState } from '../volume/recoverable-state.ts';
import type { AuditOperations } from './audit-operations.ts';
import type { ConfigurationOperations } from './configuration-operations.ts';
import { type Core, type Foundation, openStorage, startCore } from './core.ts';
import { figuresOf } from './figures.ts';
import { holdPoint, lockPoint, releasePoint } from './guarded-points.ts';
import { Upkeep } from './housekeeping/upkeep.ts';
import {
  bookmarkMachine,
  type JournalQuestions,
  timelineReport,
  withTime,
  writesReport,
} from './journal-operations.ts';
import { listMachines, showMachine } from './machine-list.ts';
import { repositoryStatus } from './maintenance.ts';
import { migrateRequest } from './migrate-request.ts';
import { listPoints, pointDetails } from './point-list.ts';
import { deletePoint, findState, undeletePoint } from './point-removal.ts';
import { PolicyOperations } from './policies/policy-operations.ts';
import {
  foldNow,
  pauseMachine,
  protectionReportOf,
  protectionReports,
  protectMachine,
  unprotectMachine,
} from './protection.ts';
import { rebuildStorage, refuseInUse } from './rebuild-storage.ts';
import { backupReport } from './reports.ts';
import { isRepository } from './repository-store.ts';
import { retentionApply, retentionPreview } from './retention.ts';
import { rewindMachine } from './rewind-machine.ts';
import { runRecords } from './run-records.ts';
import { settleIn } from './settle-in.ts';
import { SpaceReserve } from './space-reserve.ts';
import { type StandbyOperations, standbyOperations } from './standby-operations.ts';

export interface LocalOptions {
  /** All of the appliance, of which this is a part: what runs go through. */
  readonly whole: () => Appliance;
  /** True for the process that keeps machines running: it serves the disks of booted machines from the start. */
  readonly isService: boolean;
  readonly onNotice: (sentence: string) => void;
}

/** All but what `ConfigurationOperations`, `AuditOperations` and `AccessAppliance` do. */
export type LocalOperations = Omit<
  ApplianceHost,
  keyof ConfigurationOperations | keyof AuditOperations | keyof AccessOperations | 'access' | 'guard'
>;

/**
 * The appliance in this process. Catalog, repository and services are opened with the first operation that needs them,
 * so that `catalog rebuild` works on a catalog that cannot be opened.
 */
export class LocalAppliance implements LocalOperations {
  readonly runService: RunService;
  readonly eventHub: EventHub;
  readonly #foundation: Foundation;
  readonly #options: LocalOptions;
  readonly #onClose: () => Promise<void>;
  readonly #reserve: SpaceReserve;
  readonly #upkeep: Upkeep;
  readonly #policies: PolicyOperations;
  #core: Promise<Core> | undefined;
  #isRebuilding = false;
  #closing: Promise<void> | undefined;

  constructor(foundation: Foundation, options: LocalOptions, onClose: () => Promise<void>) {
    const onPoint = (point: RecoveryPoint): void =>
      this.eventHub.publish('points', { point: point.id }, point.machine.id);
    const onState = (machineId: MachineId, { state, mode, reason }: StateChange): void =>
      this.eventHub.publish('protection', { state, mode, reason }, machineId);
    this.#foundation = { ...foundation, onPoint, onState };
    this.#options = options;
    this.#onClose = onClose;
    this.#reserve = new SpaceReserve(foundation.state.path);
    const onUpkeep = (notice: string): void => {
      options.onNotice(notice);
      this.eventHub.publish('repository', { notice });
    };
    this.#upkeep = new Upkeep(foundation, onUpkeep, () => this.runService);
    const parts = serviceParts(options.whole, {
      records: runRecords(async () => (await this.#open()).catalog),
      onNotice: options.onNotice,
      onDefect: (violation) =>
        foundation.onFailure?.(new ApplianceError('INTERNAL', violation.message, { cause: violation })),
      clock: foundation.clock,
    });
    this.runService = parts.runService;
    this.#policies = new PolicyOperations({
      ...foundation,
      ...options,
      uptime: hostUptime,
      runs: this.runService,
      operations: this,
      open: () => this.#open(),
    });
    this.eventHub = parts.eventHub;
  }

  /** Opens everything now and, as the service, brings back what an earlier process served. */
  async start(): Promise<void> {
    await this.#open();
    await this.runService.load();
  }

  /** The catalog while it is open. */
  async catalog(): Promise<Catalog | undefined> {
    const [core] = await Promise.allSettled([this.#core]);
    return core.status === 'fulfilled' ? core.value?.catalog : undefined;
  }

  async problems(): Promise<readonly string[]> {
    try {
      const { state } = this.#foundation;
      await this.#open();
      const { repository } = await state.load();
      return (await isRepository(repository)) ? [] : [`the repository ${repository} is not there`];
    } catch (error) {
      if (error instanceof ApplianceError) return [error.message];
      throw error;
    }
  }

  /** Settles when every thread has answered; see `CliDependencies`. @throws ApplianceError INTERNAL */
  async isWorking(): Promise<void> {
    const core = await this.#core;
    await core?.repository.pool.ping();
  }

  async figures(): Promise<Figures> {
    return figuresOf(await this.#open(), this.#upkeep, this.#foundation.clock);
  }

  areMetricsPublic(): boolean {
    return this.#foundation.configuration.settings.value('metrics.public');
  }

  async status(): Promise<StatusReport> {
    const core = await this.#open();
    const pid = this.#options.isService ? process.pid : null;
    return repositoryStatus(this.#foundation, core, { pid, upkeep: await this.#upkeep.status(core) });
  }

  readonly capacity: Appliance['capacity'] = async () => this.#upkeep.capacity(await this.#open());

  async machineList(params: ConnectParams, context: OperationContext): Promise<readonly MachineSummary[]> {
    const core = await this.#open();
    const known = this.#foundation.hypervisors.meant(params.connect);
    return listMachines({ ...core, policies: this.#policies }, known, context);
  }

  async machineShow(params: ConnectParams & { readonly name: string }): Promise<MachineDetails> {
    const core = await this.#open();
    const uri = await this.#uriWith(core, params.name, params);
    return showMachine({ ...core, policies: this.#policies }, params.name, {
      uri,
      name: this.#foundation.hypervisors.labelOf(uri),
    });
  }

  async backup(params: BackupParams, context: OperationContext): Promise<BackupReport> {
    const core = await this.#open();
    if (!(await this.#reserve.hold())) {
      throw new ApplianceError('NO_SPACE', `there is too little room in ${this.#foundation.state.path} for a backup`);
    }
    await core.standbys.checkBackup(params.target);
    const connectUri = await this.#uriWith(core, params.target, params);
    const folded = this.#options.isService ? await foldNow(core, params.target, connectUri) : undefined;
    if (folded !== undefined) return backupReport(folded, []);
    const { point, notices } = await core.protect.backup(
      {
        target: params.target,
        name: params.name,
        connectUri,
        isFullScanRequested: params.fullScan ?? false,
        quiesce: params.quiesce,
        bandwidthBytes: params.bandwidth,
      },
      {
        signal: context.signal,
        onProgress: (phase, done, total) => context.onProgress({ phase, done, total, unit: 'bytes' }),
        onNotice: context.onNotice,
      },
    );
    const problem = await core.standbys.follow(point.machine.id, point.id);
    if (problem !== undefined) context.onNotice(problem);
    return backupReport(point, notices);
  }

  async protect(params: ProtectParams, { principal }: OperationContext): Promise<ProtectionReport> {
    const core = await this.#open();
    this.#checkIsService();
    const owner = principal.kind === 'policy' ? { policy: principal.id } : {};
    return protectMachine(core, this.#foundation.clock, {
      ...params,
      ...owner,
      connect: await this.#uriWith(core, params.target, params),
    });
  }

  async unprotect({ name }: { readonly name: string }): Promise<UnprotectReport> {
    const core = await this.#open();
    this.#checkIsService();
    return unprotectMachine(core, name);
  }

  readonly protection: Appliance['protection'] = async () =>
    protectionReports(await this.#open(), this.#foundation.clock);

  readonly protectionPause: Appliance['protectionPause'] = async (params) =>
    pauseMachine(await this.#open(), this.#foundation.clock, params);

  async protectionResume({ name }: { readonly name: string }): Promise<ProtectionReport> {
    const { continuous } = await this.#open();
    const { machineId } = await continuous.resume(name);
    return protectionReportOf(continuous, this.#foundation.clock, machineId);
  }

  readonly points: Appliance['points'] = async (params) => listPoints(await this.#open(), params);

  readonly timeline: Appliance['timeline'] = async (params) => timelineReport(await this.#questions(), params);

  async bookmark(params: BookmarkParams): Promise<BookmarkReport> {
    this.#checkIsService();
    return bookmarkMachine(await this.#open(), params);
  }

  readonly writes: Appliance['writes'] = async (params) => writesReport(await this.#questions(), params);

  async pointShow(params: PointParams): Promise<PointDetails> {
    const core = await this.#open();
    return pointDetails(core, this.#foundation.clock, params);
  }

  async boot(params: BootParams, context: OperationContext): Promise<BootReport> {
    const core = await this.#open();
    const { point: _, connect, ...wishes } = params;
    const state = await this.#state(core, params);
    return withTime(await core.recover.boot({ ...wishes, ...state, connect: this.#uri({ connect }) }, context));
  }

  readonly booted: Appliance['booted'] = async () =>
    (await (await this.#open()).recover.booted()).map((machine) => withTime(machine));

  async stop(params: StopParams): Promise<StopReport> {
    const core = await this.#open();
    if (params.discard === true) await core.standbys.checkDiscard(params.name);
    return core.recover.stop(params.name, params.discard ?? false);
  }

  async rewind(params: PointParams, context: OperationContext): Promise<RewindReport> {
    this.#checkIsService();
    const core = await this.#open();
    const nowMs = this.#foundation.clock.nowMs();
    return withTime(await rewindMachine(core, parseSelector(params.point, nowMs), nowMs, context));
  }

  readonly #standby: StandbyOperations = standbyOperations(
    () => this.#open(),
    () => this.#foundation.hypervisors,
  );
  readonly standbyCreate: Appliance['standbyCreate'] = this.#standby.standbyCreate;
  readonly standbyList: Appliance['standbyList'] = this.#standby.standbyList;
  readonly standbyRemove: Appliance['standbyRemove'] = this.#standby.standbyRemove;
  readonly standbyTest: Appliance['standbyTest'] = this.#standby.standbyTest;
  readonly failover: Appliance['failover'] = this.#standby.failover;
  readonly failoverUndo: Appliance['failoverUndo'] = this.#standby.failoverUndo;
  readonly failback: Appliance['failback'] = this.#standby.failback;

  async migrate(params: MigrateParams, context: OperationContext): Promise<MigrateReport> {
    const request = migrateRequest(params);
    const core = await this.#open();
    await core.standbys.checkDiscard(params.name);
    return core.recover.migrate(request, context);
  }

  async export(params: ExportParams): Promise<ExportReport> {
    const core = await this.#open();
    return withTime(await core.recover.export({ ...params, ...(await this.#state(core, params)) }));
  }

  async unexport(params: { readonly id: string }): Promise<Record<string, never>> {
    await (await this.#open()).recover.unexport(params.id);
    return {};
  }

  readonly exports: Appliance['exports'] = async () =>
    (await this.#open()).recover.exports().map((report) => withTime(report));

  async restore(params: RestoreParams, context: OperationContext): Promise<RestoreReport> {
    const core = await this.#open();
    const { point: _, connect, ...wishes } = params;
    const state = await this.#state(core, params);
    return withTime(await core.recover.restore({ ...wishes, ...state, connect: this.#uri({ connect }) }, context));
  }

  readonly check: Appliance['check'] = async (params, context) =>
    this.#upkeep.check(await this.#open(), params, context);

  async catalogRebuild(_params: Record<string, never>, context: OperationContext): Promise<RebuildReport> {
    if (this.#isRebuilding) throw new ApplianceError('LOCKED', 'the catalog is being rebuilt already');
    this.#isRebuilding = true;
    try {
      return await this.#rebuild(context);
    } finally {
      this.#isRebuilding = false;
    }
  }

  readonly delete: Appliance['delete'] = async (params, { onNotice }) =>
    deletePoint(await this.#openToFree(), this.#foundation.clock, params, onNotice);
  readonly undelete: Appliance['undelete'] = async (params) => undeletePoint(await this.#open(), params);
  readonly hold: Appliance['hold'] = async (params) => holdPoint(await this.#open(), this.#foundation.clock, params);
  readonly release: Appliance['release'] = async (params) =>
    releasePoint(await this.#open(), this.#foundation.clock, params);
  readonly lock: Appliance['lock'] = async (params) => lockPoint(await this.#open(), this.#foundation.clock, params);
  readonly retentionPreview: Appliance['retentionPreview'] = async (params, context) =>
    retentionPreview(await this.#open(), this.#foundation.clock, params, context);
  readonly retentionApply: Appliance['retentionApply'] = async (params, context) =>
    retentionApply(await this.#openToFree(), this.#foundation.clock, params, context);
  readonly gc: Appliance['gc'] = async (params, context) => this.#upkeep.gc(await this.#openToFree(), params, context);

  readonly policyList: Appliance['policyList'] = () => this.#policies.list();
  readonly policyShow: Appliance['policyShow'] = (params) => this.#policies.show(params);
  readonly policyCreate: Appliance['policyCreate'] = (params) => this.#policies.create(params);
  readonly policySet: Appliance['policySet'] = (params) => this.#policies.set(params);
  readonly policyEnable: Appliance['policyEnable'] = (params) => this.#policies.enable(params);
  readonly policyDisable: Appliance['policyDisable'] = (params) => this.#policies.disable(params);
  readonly policyDelete: Appliance['policyDelete'] = (params) => this.#policies.delete(params);
  readonly policyPreview: Appliance['policyPreview'] = (params) => this.#policies.preview(params);
  readonly schedule: Appliance['schedule'] = () => this.#policies.schedule();

  readonly runs: Appliance['runs'] = ({ last }) => this.runService.list(last);
  readonly runShow: Appliance['runShow'] = ({ id }) => this.runService.show(id);
  readonly runCancel: Appliance['runCancel'] = ({ id }, { principal }) => this.runService.cancel(id, principal);

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const [core] = await Promise.allSettled([this.#core]);
    await this.#policies.stop();
    await this.#upkeep.end();
    if (core?.status === 'fulfilled') await core.value?.[Symbol.asyncDispose]();
    await this.#onClose();
  }

  #open(): Promise<Core> {
    if (this.#isRebuilding) return Promise.reject(new ApplianceError('LOCKED', 'the catalog is being rebuilt'));
    if (this.#closing !== undefined)
      return Promise.reject(new ApplianceError('CLOSED', 'the appliance is being closed'));
    return this.#core ?? this.#use(this.#start());
  }

  /** The core from here on, unless it cannot be opened: then the next operation tries again, what was wrong may be repaired. */
  #use(opening: Promise<Core>): Promise<Core> {
    this.#core = opening;
    opening.catch(() => {
      if (this.#core === opening) this.#core = undefined;
    });
    return opening;
  }

  async #start(): Promise<Core> {
    await this.#foundation.store.removeStaged();
    const core = await startCore(this.#foundation, await this.#openStorage(), this.#options.onNotice);
    await this.#settleIn(core, this.#options.onNotice);
    return core;
  }

  /** With the room that was set aside, when there is no other: to list and restore, a catalog must be opened too. */
  async #openStorage(): ReturnType<typeof openStorage> {
    try {
      const storage = await openStorage(this.#foundation);
      await this.#reserve.hold();
      return storage;
    } catch (error) {
      if (!hasCode(error, 'NO_SPACE') || !(await this.#reserve.release())) throw error;
      return openStorage(this.#foundation);
    }
  }

  /** For what frees space, and needs a little of it to do so. */
  async #openToFree(): Promise<Core> {
    await this.#reserve.releaseIfShort();
    return this.#open();
  }

  async #settleIn(core: Core, onNotice: (sentence: string) => void): Promise<void> {
    await settleIn(this.#foundation, core, { isService: this.#options.isService, onNotice });
    if (!this.#options.isService) return;
    this.#upkeep.begin(core);
    await this.#policies.start(core);
  }

  async #rebuild(context: OperationContext): Promise<RebuildReport> {
    const [core] = await Promise.allSettled([this.#core]);
    if (core?.status === 'fulfilled' && core.value !== undefined) {
      refuseInUse(core.value);
      await this.#policies.stop();
      this.#core = undefined;
      await this.#upkeep.end();
      await core.value[Symbol.asyncDispose]();
    }
    return rebuildStorage(this.#foundation, context, async (storage) => {
      const fresh = await this.#use(startCore(this.#foundation, storage, this.#options.onNotice));
      await this.#settleIn(fresh, context.onNotice);
    });
  }

  #state(core: Core, params: PointParams): Promise<RecoverableState> {
    const nowMs = this.#foundation.clock.nowMs();
    return findState(core, parseSelector(params.point, nowMs), nowMs);
  }

  async #questions(): Promise<JournalQuestions> {
    const { catalog, journalOf } = await this.#open();
    const points = await catalog.points();
    return { points, journalOf, nowMs: this.#foundation.clock.nowMs() };
  }

  #checkIsService(): void {
    if (this.#options.isService) return;
    throw new ApplianceError(
      'SERVICE_UNREACHABLE',
      'continuous protection is the work of the service, which does not run',
    );
  }

  #uri(params: { readonly connect?: string | undefined }): string {
    return this.#foundation.hypervisors.uri(params.connect);
  }

  /** Of the hypervisor that has the machine. */
  #uriWith(core: Core, machine: string, { connect }: ConnectParams): Promise<string> {
    return this.#foundation.hypervisors.uriWith(machine, connect, (uri) => core.connections.get(uri));
  }
}
