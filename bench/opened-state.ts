// SPDX-License-Identifier: Apache-2.0
import { cp, link, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { StateDirectory } from '../appliance/app/state-directory.ts';
import { Catalog } from '../appliance/catalog/catalog.ts';
import { reconcile } from '../appliance/catalog/reconcile.ts';
import { checkMasterKey, loadConfig } from '../appliance/repository/config.ts';
import { DirectoryStore } from '../appliance/repository/directory-store.ts';
import type { RecoveryPoint } from '../appliance/repository/manifest.ts';
import { Repository } from '../appliance/repository/repository.ts';

/** Catalog and repository of a state directory, opened and made to agree as the appliance does it. */
export interface OpenedState extends AsyncDisposable {
  readonly repository: Repository;
  readonly catalog: Catalog;
}

export async function openState(stateDirectory: string): Promise<OpenedState> {
  const state = new StateDirectory(stateDirectory);
  await using scope = new AsyncDisposableStack();
  scope.use(await state.lock());
  const { repository: location } = await state.load();
  const store = await DirectoryStore.openExisting(location);
  const config = await loadConfig(store, location);
  const masterKey = await state.loadKey();
  checkMasterKey(config, masterKey);
  const catalog = scope.use(await Catalog.open(state.catalogPath));
  const repository = scope.use(new Repository({ store, config, masterKey, index: catalog }));
  await reconcile(repository, catalog);
  const resources = scope.move();
  return { repository, catalog, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** The newest point of all; benchmarks keep one machine in a repository. */
export async function newestPoint(catalog: Catalog): Promise<RecoveryPoint | undefined> {
  return (await catalog.points()).sort((a, b) => b.sequence - a.sequence)[0];
}

/**
 * A second state directory with the same points. Packs never change, so they are hard links; everything else is copied.
 * No process may have the first one open.
 */
export async function cloneState(from: string, to: string): Promise<void> {
  const source = new StateDirectory(from);
  const target = new StateDirectory(to);
  const state = await source.load();
  const packs = join(state.repository, 'packs');
  const repository = join(to, 'repository');
  await cp(from, to, {
    recursive: true,
    filter: (path) => !path.startsWith(`${packs}/`) && !path.startsWith(join(from, 'run')),
  });
  for (const folder of await readdir(packs)) {
    await mkdir(join(repository, 'packs', folder), { recursive: true, mode: 0o700 });
    for (const pack of await readdir(join(packs, folder))) {
      await link(join(packs, folder, pack), join(repository, 'packs', folder, pack));
    }
  }
  await target.storeState({ ...state, repository });
}
