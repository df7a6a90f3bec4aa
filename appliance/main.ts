// SPDX-License-Identifier: Apache-2.0
import type { Logger } from 'pino';
import { Access } from './access/access.ts';
import type { ApplianceHost } from './api/appliance-host.ts';
import { auditedAppliance } from './api/audited-appliance.ts';
import { withAccess } from './app/access/with-access.ts';
import { ApplianceAudit } from './app/appliance-audit.ts';
import { AuditOperations } from './app/audit-operations.ts';
import { compose } from './app/compose.ts';
import { ConfigurationOperations } from './app/configuration-operations.ts';
import type { Foundation } from './app/core.ts';
import { Hypervisors } from './app/hypervisors.ts';
import { type Initialized, initialize as initializeWith } from './app/initialize.ts';
import { LocalAppliance } from './app/local-appliance.ts';
import { POLICIES } from './app/policies/policy-book.ts';
import { openRepositoryStore } from './app/repository-store.ts';
import { SelfBackup, type SelfBackupOptions } from './app/self-backup.ts';
import { StateDirectory } from './app/state-directory.ts';
import type { CollectionDefinition } from './config/collection.ts';
import { Configuration } from './config/configuration.ts';
import { systemClock } from './core/clock.ts';
import { ApplianceError } from './core/errors.ts';
import { FileLock } from './core/file-lock.ts';
import { ApplianceStates } from './repository/appliance-state.ts';
import { checkMasterKey, loadConfig } from './repository/config.ts';
import { deriveKeys } from './repository/keys.ts';

/** The wiring: which implementation stands behind each port. */

export interface OpenOptions {
  readonly stateDirectory: string;
  /** The libvirt URI to use where an operation names none. */
  readonly connect?: string;
  readonly logger?: Logger;
  /** The process that serves booted machines; others leave them to it. */
  readonly isService?: boolean;
  /** Told what was found or done when the state was opened (with the first operation), in sentences; else the log is. */
  readonly onNotice?: (sentence: string) => void;
  /** Called when the process cannot work any more and has to be started anew. */
  readonly onFailure?: (error: ApplianceError) => void;
}

export interface InitOptions {
  readonly stateDirectory: string;
  readonly repository?: string;
  readonly encryption: boolean;
  /** Work with the repository in this directory instead of creating one. */
  readonly from?: string;
  readonly recoveryKey?: string;
}

/** Makes a state directory and its repository. Errors as `app/initialize.ts`. */
export function initialize(options: InitOptions): Promise<Initialized> {
  return initializeWith({ ...options, clock: systemClock });
}

/**
 * Takes a state directory and its repository for this process. The catalog is opened with the first operation, or now
 * for the service.
 * @throws ApplianceError LOCKED, REPOSITORY_NOT_FOUND, REPOSITORY_KEY, REPOSITORY_FORMAT, CATALOG_DAMAGED
 */
export async function openAppliance(options: OpenOptions): Promise<ApplianceHost> {
  const state = new StateDirectory(options.stateDirectory);
  await using scope = new AsyncDisposableStack();
  scope.use(await state.lock());
  const { repository, repositoryId } = await state.load();
  const store = await openRepositoryStore(repository);
  scope.use(await FileLock.acquire(`${repository}/lock`));
  const config = await loadConfig(store, repository);
  if (config.id !== repositoryId) {
    throw new ApplianceError(
      'REPOSITORY_FORMAT',
      `${repository} holds another repository than ${state.path} was made for`,
    );
  }
  const masterKey = await state.loadKey();
  checkMasterKey(config, masterKey);
  const configuration = await Configuration.open(state.path);
  const clock = systemClock;
  const onNotice = options.onNotice ?? ((sentence: string): void => options.logger?.warn(sentence));
  const audit = scope.use(new ApplianceAudit({ stateDirectory: state.path, configuration, clock, onNotice }));
  const defaultUri = options.connect ?? defaultConnection();
  const hypervisors = new Hypervisors({ configuration, defaultUri, runtimePath: state.runtimePath });
  const { onFailure } = options;
  const foundation = { state, store, config, masterKey, configuration, hypervisors, clock, onFailure };
  const access = await Access.open({
    collection: (definition) => configuration.collection(definition),
    box: configuration.secrets,
    clock,
  });
  const resources = scope.move();
  const local = new LocalAppliance(
    foundation,
    { whole: () => appliance, isService: options.isService ?? false, onNotice },
    () => resources.disposeAsync(),
  );
  const { selfBackup, ending } = keepItself(foundation, local, { audit, onNotice });
  const more = compose(
    new ConfigurationOperations({
      configuration,
      hypervisors,
      clock,
      more: [POLICIES as CollectionDefinition<unknown>],
    }),
    new AuditOperations(audit, clock, () => selfBackup.anchors()),
  );
  const appliance: ApplianceHost = auditedAppliance(
    withAccess(compose(compose(local, more), ending), access, { whole: () => appliance, recorder: audit }),
    audit,
  );
  if (options.isService === true) {
    try {
      await access.approvals.settleInterrupted();
      await local.start();
      selfBackup.start();
    } catch (error) {
      await appliance[Symbol.asyncDispose]();
      throw error;
    }
  }
  return appliance;
}

/** The self-backup of an appliance, and an end of it that keeps what was not kept yet. */
function keepItself(
  { state, store, config, masterKey, configuration, clock }: Foundation,
  local: LocalAppliance,
  parts: Pick<SelfBackupOptions, 'audit' | 'onNotice'>,
): { readonly selfBackup: SelfBackup; readonly ending: AsyncDisposable } {
  const isEncrypted = config.encryption !== 'none';
  const selfBackup = new SelfBackup({
    ...parts,
    stateDirectory: state.path,
    configuration,
    isEncrypted,
    clock,
    states: new ApplianceStates(store, deriveKeys(masterKey, config.id, isEncrypted)),
    catalog: () => local.catalog(),
  });
  const ending = {
    [Symbol.asyncDispose]: async (): Promise<void> => {
      await selfBackup.stop();
      await local[Symbol.asyncDispose]();
    },
  };
  return { selfBackup, ending };
}

function defaultConnection(): string {
  return process.getuid?.() === 0 ? 'qemu:///system' : 'qemu:///session';
}
