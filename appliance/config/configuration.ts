// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { makeDirectoryDurably, removeStaleTemporaries } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import { type FileSystem, realFileSystem } from '../core/file-system.ts';
import { ApplianceKeys } from './appliance-key.ts';
import { Collection, type CollectionDefinition } from './collection.ts';
import { HYPERVISORS, type HypervisorRecord } from './hypervisor-record.ts';
import { mapSecrets } from './map-secrets.ts';
import { type SealedSecret, SecretBox, type SecretPlace } from './secret-box.ts';
import { Settings } from './settings.ts';

/** Below the state directory. */
export const CONFIG_DIRECTORY = 'config';

/**
 * What the operator decided, of one appliance: its collections, each opened once, its settings, and the box of its secrets. For
 * the process that holds the lock of the state directory. It needs neither catalog nor repository.
 */
export class Configuration {
  readonly keys: ApplianceKeys;
  readonly secrets: SecretBox;
  readonly settings: Settings;
  readonly hypervisors: Collection<HypervisorRecord>;
  readonly #directory: string;
  readonly #fileSystem: FileSystem;
  readonly #open: Map<string, Promise<Collection<unknown>>>;
  readonly #listeners = new Set<(name: string) => void>();

  private constructor(
    keys: ApplianceKeys,
    own: { readonly settings: Settings; readonly hypervisors: Collection<HypervisorRecord> },
    place: { readonly directory: string; readonly fileSystem: FileSystem },
  ) {
    this.keys = keys;
    this.secrets = new SecretBox(keys);
    this.settings = own.settings;
    this.hypervisors = own.hypervisors;
    this.#directory = place.directory;
    this.#fileSystem = place.fileSystem;
    this.#open = new Map();
    for (const collection of [own.settings.collection, own.hypervisors]) this.#adopt(collection as Collection<unknown>);
  }

  /** @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT, NO_SPACE, IO_FAILED */
  static async open(stateDirectory: string, fileSystem: FileSystem = realFileSystem): Promise<Configuration> {
    const directory = join(stateDirectory, CONFIG_DIRECTORY);
    await makeDirectoryDurably(directory, fileSystem);
    await removeStaleTemporaries(directory, fileSystem);
    const keys = await ApplianceKeys.open(stateDirectory, fileSystem);
    const hypervisors = await Collection.open({ ...HYPERVISORS, directory, fileSystem });
    const settings = await Settings.open({ directory, fileSystem, secrets: new SecretBox(keys) });
    return new Configuration(keys, { settings, hypervisors }, { directory, fileSystem });
  }

  /** The collection of that name, opened at the first call. Errors as `Collection.open`. */
  async collection<T>(definition: CollectionDefinition<T>): Promise<Collection<T>> {
    const known = this.#open.get(definition.name);
    if (known !== undefined) return (await known) as Collection<T>;
    const place = { directory: this.#directory, fileSystem: this.#fileSystem };
    const opening = Collection.open({ ...definition, ...place });
    this.#open.set(definition.name, opening as Promise<Collection<unknown>>);
    try {
      const collection = await opening;
      this.#adopt(collection as Collection<unknown>);
      return collection;
    } catch (error) {
      this.#open.delete(definition.name);
      throw error;
    }
  }

  /** Called with a collection's name after each durable change of it. */
  onChange(listener: (name: string) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The collections that are open. */
  async collections(): Promise<readonly Collection<unknown>[]> {
    return Promise.all(this.#open.values());
  }

  /**
   * Puts a new key under all secrets. Interrupted anywhere, each of them opens; called again, it goes on.
   * @throws ApplianceError SECRET_UNREADABLE, CONFLICT when there is a collection that nobody has opened; nothing is lost
   */
  async rotateKey(): Promise<void> {
    for (const { name } of await this.#fileSystem.readDirectory(this.#directory)) {
      if (name.endsWith('.json') && !this.#open.has(name.slice(0, -'.json'.length))) {
        throw new ApplianceError('CONFLICT', `${name} belongs to nobody here: its secrets would be lost`);
      }
    }
    if (this.keys.all.length === 1) await this.keys.rotate();
    for (const collection of await this.collections()) {
      for (const { id } of collection.list()) {
        await collection.update(id, (value) => mapSecrets(value, { collection: collection.name, id }, this.#reseal));
      }
    }
    await this.keys.retire();
  }

  readonly #reseal = (place: SecretPlace, secret: SealedSecret): SealedSecret => this.secrets.reseal(place, secret);

  #adopt(collection: Collection<unknown>): void {
    if (!this.#open.has(collection.name)) this.#open.set(collection.name, Promise.resolve(collection));
    collection.onChange(() => {
      for (const listener of this.#listeners) listener(collection.name);
    });
  }
}
