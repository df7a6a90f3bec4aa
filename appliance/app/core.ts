// SPDX-License-Identifier: Apache-2.0
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Catalog } from '../catalog/catalog.ts';
import { refuseUnfinishedRebuild } from '../catalog/rebuild.ts';
import { type ReconcileReport, reconcile } from '../catalog/reconcile.ts';
import type { Configuration } from '../config/configuration.ts';
import type { Clock } from '../core/clock.ts';
import type { ApplianceError } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { MachineId } from '../core/ids.ts';
import { ConnectionCache } from '../hypervisor/libvirt/connection-cache.ts';
import { NbdServer } from '../nbd/server/nbd-server.ts';
import { ContinuousService } from '../protect/continuous/continuous-service.ts';
import { DEFAULT_SESSION_SETTINGS } from '../protect/continuous/session-settings.ts';
import type { StateChange } from '../protect/continuous/session-state.ts';
import { ProtectService } from '../protect/protect-service.ts';
import { RecoverService } from '../recover/recover-service.ts';
import type { StandbyService } from '../recover/standby/standby-service.ts';
import type { RepositoryConfig } from '../repository/config.ts';
import type { DirectoryStore } from '../repository/directory-store.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import { Repository } from '../repository/repository.ts';
import type { Journal } from '../volume/journal.ts';
import { adoptRestoredRecords } from './appliance-state.ts';
import type { Hypervisors } from './hypervisors.ts';
import { keepTime } from './lived-time.ts';
import { PASS_THROUGH_MODE } from './runtime-directory.ts';
import { RuntimeLease } from './runtime-lease.ts';
import { SpareFollower, standbyPorts } from './standby-ports.ts';
import type { StateDirectory } from './state-directory.ts';

/** Connections to one libvirt that the sessions of its machines share; the first is for everything else, too. */
const SESSION_LANES = 3;

/** What stays the same while the appliance is open, whatever becomes of the catalog. */
export interface Foundation {
  readonly state: StateDirectory;
  readonly store: DirectoryStore;
  readonly config: RepositoryConfig;
  readonly masterKey: Buffer;
  readonly clock: Clock;
  /** What the operator decided; needs neither catalog nor repository. */
  readonly configuration: Configuration;
  readonly hypervisors: Hypervisors;
  /** Called when the process cannot work any more and has to be started anew; see `RepositoryParts.onFailure`. */
  readonly onFailure?: ((error: ApplianceError) => void) | undefined;
  /** Told of each recovery point that continuous protection makes by itself. */
  readonly onPoint?: ((point: RecoveryPoint) => void) | undefined;
  /** Told of each state that continuous protection of a machine goes into. */
  readonly onState?: ((machineId: MachineId, change: StateChange) => void) | undefined;
}

/** An open catalog and repository that agree. */
export interface Storage {
  readonly catalog: Catalog;
  readonly repository: Repository;
}

/** The services of an open appliance, in one lifetime: a rebuilt catalog means a new core. */
export interface Core extends Storage, AsyncDisposable {
  readonly protect: ProtectService;
  readonly continuous: ContinuousService;
  readonly recover: RecoverService;
  readonly standbys: StandbyService;
  readonly connections: ConnectionCache;
  /** The NBD server that exports share. */
  readonly nbd: NbdServer;
  /** The journal of a machine, or undefined when it has none. Errors as `Journal.open`. */
  readonly journalOf: (machineId: MachineId) => Promise<Journal | undefined>;
  readonly reconciled: ReconcileReport | undefined;
}

/** Opens catalog and repository and makes them agree. @throws ApplianceError CATALOG_DAMAGED, LOCKED, … */
export async function openStorage(foundation: Foundation): Promise<Storage & { readonly reconciled: ReconcileReport }> {
  await using scope = new AsyncDisposableStack();
  await refuseUnfinishedRebuild(foundation.state.catalogPath);
  const catalog = scope.use(await Catalog.open(foundation.state.catalogPath));
  const repository = scope.use(openRepository(foundation, catalog));
  const reconciled = await reconcile(repository, catalog);
  scope.move();
  return { catalog, repository, reconciled };
}

export function openRepository(
  { store, config, masterKey, clock, onFailure }: Foundation,
  catalog: Catalog,
): Repository {
  return new Repository({ store, config, masterKey, clock, index: catalog, onFailure });
}

/** Starts the services over an open storage, which belongs to the core from here on. */
export async function startCore(
  foundation: Foundation,
  storage: Storage & { readonly reconciled?: ReconcileReport },
  onNotice: (sentence: string) => void,
): Promise<Core> {
  const [{ catalog, repository }, { state, clock }] = [storage, foundation];
  await using scope = new AsyncDisposableStack();
  for (const part of [catalog, repository]) scope.use(part);
  await adoptRestoredRecords(state.path, catalog);
  scope.use(await keepTime(repository, onNotice));
  const connections = scope.use(new ConnectionCache((uri) => foundation.hypervisors.open(uri)));
  const { path: runtimeDirectory } = scope.use(await RuntimeLease.take(state));
  const scratchDirectory = await prepareDirectory(join(state.path, 'scratch'), PASS_THROUGH_MODE);
  const nbd = scope.use(await NbdServer.listen({ listen: { kind: 'unix', path: join(runtimeDirectory, 'nbd.sock') } }));
  const protect = new ProtectService({
    repository,
    catalog,
    clock,
    runtimeDirectory,
    scratchDirectory,
    connect: (uri) => connections.get(uri),
  });
  const spares = scope.use(new SpareFollower(onNotice));
  const continuous = scope.use(
    await ContinuousService.open({
      repository,
      catalog,
      protect,
      clock,
      runtimeDirectory,
      stateDirectory: state.path,
      scratchDirectory,
      connect: (uri, machineId) => connections.get(uri, machineId === undefined ? 0 : laneOf(machineId)),
      settings: DEFAULT_SESSION_SETTINGS,
      onNotice,
      ...listeners(foundation, spares),
    }),
  );
  const recover = scope.use(
    await RecoverService.open({
      repository,
      catalog,
      journals: continuous,
      nbd,
      clock,
      runtimeDirectory,
      stateDirectory: state.path,
      connectLibvirt: (uri) => foundation.hypervisors.open(uri),
      freezeMarker: (guest) => protect.freezeMarker(guest),
      onNotice,
    }),
  );
  const journalOf = journalsOf(recover, continuous);
  const standbys = recover.standbys(standbyPorts({ catalog, protect, journalOf }));
  spares.standbys = standbys;
  const resources = scope.move();
  return {
    catalog,
    repository,
    protect,
    continuous,
    recover,
    standbys,
    connections,
    nbd,
    journalOf,
    reconciled: storage.reconciled,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

function journalsOf(recover: RecoverService, continuous: ContinuousService): Core['journalOf'] {
  return async (id) => (await recover.histories.journalOf(id)) ?? (await continuous.journalOf(id));
}

/** Whoever listens learns of points and states, and the spare of a machine takes its points. */
function listeners(
  { onPoint, onState }: Foundation,
  spares: SpareFollower,
): {
  readonly onPoint: (point: RecoveryPoint) => void;
  readonly onState: (machineId: MachineId, change: StateChange) => void;
} {
  return {
    onPoint: (point) => {
      onPoint?.(point);
      spares.follow(point);
    },
    onState: (machineId, change) => onState?.(machineId, change),
  };
}

async function prepareDirectory(path: string, mode: number): Promise<string> {
  try {
    await mkdir(path, { recursive: true, mode });
    return path;
  } catch (error) {
    throw storageError(error, 'create the directory', path);
  }
}

/** The same for a machine at all times: its calls keep their order. */
function laneOf(machineId: MachineId): number {
  return Number.parseInt(machineId.slice(-4), 16) % SESSION_LANES;
}
