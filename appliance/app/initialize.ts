// SPDX-License-Identifier: Apache-2.0
import { join, resolve } from 'node:path';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { APPLIANCE_FOLDER, ApplianceStates } from '../repository/appliance-state.ts';
import {
  CONFIG_KEY,
  checkMasterKey,
  loadConfig,
  newRepositoryConfig,
  storeNewConfig,
  unlockWithRecoveryKey,
} from '../repository/config.ts';
import { DirectoryStore } from '../repository/directory-store.ts';
import { deriveKeys } from '../repository/keys.ts';
import { newRecoveryKey } from '../repository/recovery-key.ts';
import { type RestoredState, restoreApplianceState } from './appliance-state.ts';
import { isRepository, openRepositoryStore } from './repository-store.ts';
import { newestState } from './self-backup.ts';
import { StateDirectory } from './state-directory.ts';

export interface InitializeOptions {
  readonly stateDirectory: string;
  /** Directory of the repository; default: `repository` in the state directory. */
  readonly repository?: string;
  readonly encryption: boolean;
  /** An existing repository to work with, instead of a new one. */
  readonly from?: string;
  readonly recoveryKey?: string;
  /** A power of two from 64 KiB to 4 MiB; for measurements. */
  readonly chunkBytes?: number;
  readonly clock: Clock;
}

export interface Initialized {
  readonly repository: string;
  readonly repositoryId: string;
  /** Shown once and kept nowhere; null without encryption or for an existing repository. */
  readonly recoveryKey: string | null;
  /** The state of the appliance that the repository kept; null when there is none. */
  readonly restored: RestoredState | null;
}

/**
 * Makes a state directory, with a new repository or for an existing one (`from`). Steps, each durable before the next:
 * working key, the repository's configuration or what it kept of the appliance's own, `state.json`. Interrupted before the last one it can be run again.
 * @throws ApplianceError REPOSITORY_EXISTS, REPOSITORY_NOT_FOUND, REPOSITORY_KEY, NO_SPACE, IO_FAILED
 */
export async function initialize(options: InitializeOptions): Promise<Initialized> {
  const state = new StateDirectory(options.stateDirectory);
  if (await state.isInitialized()) {
    throw new ApplianceError('REPOSITORY_EXISTS', `${state.path} is initialized already`, {
      hint: 'Use it as it is, or give another directory with --state.',
    });
  }
  await state.create();
  return options.from === undefined ? createNew(state, options) : attach(state, options, resolve(options.from));
}

async function createNew(state: StateDirectory, options: InitializeOptions): Promise<Initialized> {
  const repository = resolve(options.repository ?? join(state.path, 'repository'));
  const recoveryKey = options.encryption ? newRecoveryKey() : undefined;
  const { config, masterKey } = newRepositoryConfig({
    recoveryKey,
    createdAt: new Date(options.clock.nowMs()).toISOString(),
    ...(options.chunkBytes === undefined ? {} : { chunkBytes: options.chunkBytes }),
  });
  const store = await DirectoryStore.open(repository);
  await removeUnfinished(state, store);
  if (await isRepository(repository)) throw repositoryExists(repository);
  await state.storeKey(masterKey);
  try {
    await storeNewConfig(store, config);
  } catch (cause) {
    if (!hasCode(cause, 'OBJECT_EXISTS')) throw cause;
    throw repositoryExists(repository, cause);
  }
  await state.storeState({ version: 1, repositoryId: config.id, repository });
  return { repository, repositoryId: config.id, recoveryKey: recoveryKey ?? null, restored: null };
}

/**
 * What an `initialize` left that was interrupted between configuration and `state.json`: a repository that nothing was
 * ever stored in, whose recovery key nobody has seen. The key here opens it; anything else is somebody's.
 */
async function removeUnfinished(state: StateDirectory, store: DirectoryStore): Promise<void> {
  if (!(await isRepository(store.root))) return;
  try {
    checkMasterKey(await loadConfig(store, store.root), await state.loadKey());
  } catch (error) {
    if (hasCode(error, 'REPOSITORY_KEY', 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) return;
    throw error;
  }
  for (const folder of ['packs/', 'points/', 'deleted/', 'holds/', 'locks/', 'journals/', APPLIANCE_FOLDER]) {
    if ((await store.list(folder)).length > 0) return;
  }
  await store.delete(CONFIG_KEY);
  await state.removeKey();
}

function repositoryExists(repository: string, cause?: unknown): ApplianceError {
  return new ApplianceError('REPOSITORY_EXISTS', `there is a repository in ${repository} already`, {
    cause,
    hint: 'Use another directory, or take it over with `understudy init --from` and its recovery key.',
  });
}

async function attach(state: StateDirectory, options: InitializeOptions, repository: string): Promise<Initialized> {
  const store = await openRepositoryStore(repository);
  const config = await loadConfig(store, repository);
  const masterKey = unlockWithRecoveryKey(config, options.recoveryKey);
  checkMasterKey(config, masterKey);
  await state.storeKey(masterKey);
  const keys = deriveKeys(masterKey, config.id, config.encryption !== 'none');
  const kept = await newestState(new ApplianceStates(store, keys));
  const restored = kept === undefined ? null : await restoreApplianceState(state.path, kept);
  await state.storeState({ version: 1, repositoryId: config.id, repository });
  return { repository, repositoryId: config.id, recoveryKey: null, restored };
}
