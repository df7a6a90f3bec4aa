// SPDX-License-Identifier: Apache-2.0
import { dirname, join } from 'node:path';
import {
  isTemporaryName,
  makeDirectoryDurably,
  publishDurably,
  removeStaleTemporaries,
  writeDurably,
} from '../core/durable-file.ts';
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import {
  type DirectoryEntry,
  type FileSystem,
  type OpenFile,
  readExactly,
  realFileSystem,
  storageError,
} from '../core/file-system.ts';
import { invariant } from '../core/invariant.ts';
import type { ObjectEntry, ObjectStore } from './object-store.ts';

const KEY = /^[a-z0-9][a-z0-9.-]*(\/[a-z0-9][a-z0-9.-]*)*$/;
const STAGING = 'staging';
/** Names of one folder that are looked at side by side. */
const LIST_BATCH = 64;

/** An object store in a local directory: one file an object, written aside, synced, then linked to its name. */
export class DirectoryStore implements ObjectStore {
  readonly root: string;
  readonly #fileSystem: FileSystem;
  readonly #knownDirectories = new Set<string>();

  private constructor(root: string, fileSystem: FileSystem) {
    this.root = root;
    this.#fileSystem = fileSystem;
  }

  /** Opens the directory, which is created when it is missing. */
  static async open(root: string, fileSystem: FileSystem = realFileSystem): Promise<DirectoryStore> {
    const store = new DirectoryStore(root, fileSystem);
    await makeDirectoryDurably(root, fileSystem);
    await makeDirectoryDurably(join(root, STAGING), fileSystem);
    return store;
  }

  /** Opens the directory of a repository that must be there. @throws ApplianceError REPOSITORY_NOT_FOUND */
  static async openExisting(root: string, fileSystem: FileSystem = realFileSystem): Promise<DirectoryStore> {
    if ((await fileSystem.stat(root))?.kind !== 'directory') {
      throw new ApplianceError('REPOSITORY_NOT_FOUND', `there is no directory ${root}`, {
        hint: 'Is the disk that holds the repository mounted?',
      });
    }
    const store = new DirectoryStore(root, fileSystem);
    await makeDirectoryDurably(join(root, STAGING), fileSystem);
    return store;
  }

  async put(key: string, bytes: Buffer): Promise<void> {
    const path = this.localPath(key);
    await this.#prepareDirectory(path);
    await writeDurably(path, bytes, { ifAbsent: true, fileSystem: this.#fileSystem });
  }

  async replace(key: string, bytes: Buffer): Promise<void> {
    const path = this.localPath(key);
    await this.#prepareDirectory(path);
    await writeDurably(path, bytes, { fileSystem: this.#fileSystem });
  }

  stagingPath(name: string): string {
    return join(this.root, STAGING, name);
  }

  async adopt(stagedPath: string, key: string): Promise<void> {
    const path = this.localPath(key);
    await this.#prepareDirectory(path);
    await publishDurably(stagedPath, path, this.#fileSystem);
  }

  async get(key: string): Promise<Buffer> {
    await using file = await this.#open(key);
    const bytes = Buffer.allocUnsafe(await file.open.sizeBytes());
    await readExactly(file.open, bytes, 0, key);
    return bytes;
  }

  async getRange(key: string, offset: number, length: number): Promise<Buffer> {
    await using file = await this.#open(key);
    if ((await file.open.sizeBytes()) < offset + length) {
      throw new ApplianceError('REPOSITORY_CORRUPT', `${key} is shorter than its index says`, {
        details: { object: key },
      });
    }
    const bytes = Buffer.allocUnsafe(length);
    await readExactly(file.open, bytes, offset, key);
    return bytes;
  }

  async list(prefix: string): Promise<ObjectEntry[]> {
    invariant(prefix.endsWith('/'), 'a listed prefix is a folder');
    const entries: ObjectEntry[] = [];
    await this.#listInto(prefix.slice(0, -1), entries);
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async delete(key: string): Promise<void> {
    const path = this.localPath(key);
    try {
      await this.#fileSystem.unlink(path);
      await this.#fileSystem.syncDirectory(dirname(path));
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return;
      throw storageError(error, 'delete', path);
    }
  }

  localPath(key: string): string {
    invariant(KEY.test(key), 'object keys are plain relative paths');
    return join(this.root, key);
  }

  async removeStaged(): Promise<number> {
    const staging = join(this.root, STAGING);
    let removed = 0;
    try {
      for (const entry of await this.#fileSystem.readDirectory(staging)) {
        await this.#fileSystem.unlink(join(staging, entry.name));
        removed += 1;
      }
    } catch (error) {
      throw storageError(error, 'remove unfinished files in', staging);
    }
    return removed + (await this.#removeTemporaries(this.root));
  }

  /** `put` and `replace` write beside the object's place. */
  async #removeTemporaries(directory: string): Promise<number> {
    let removed = await removeStaleTemporaries(directory, this.#fileSystem);
    try {
      for (const entry of await this.#fileSystem.readDirectory(directory)) {
        if (entry.kind === 'directory') removed += await this.#removeTemporaries(join(directory, entry.name));
      }
    } catch (error) {
      throw storageError(error, 'list', directory);
    }
    return removed;
  }

  async #listInto(folder: string, entries: ObjectEntry[]): Promise<void> {
    const path = join(this.root, folder);
    try {
      const names = (await this.#fileSystem.readDirectory(path)).filter(({ name }) => !isTemporaryName(name));
      for (let at = 0; at < names.length; at += LIST_BATCH) {
        await Promise.all(names.slice(at, at + LIST_BATCH).map((entry) => this.#listEntry(folder, entry, entries)));
      }
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return;
      throw storageError(error, 'list', path);
    }
  }

  async #listEntry(folder: string, entry: DirectoryEntry, entries: ObjectEntry[]): Promise<void> {
    const key = `${folder}/${entry.name}`;
    if (entry.kind === 'directory') {
      await this.#listInto(key, entries);
      return;
    }
    const stat = await this.#fileSystem.stat(join(this.root, key));
    if (stat !== undefined) entries.push({ key, sizeBytes: stat.sizeBytes });
  }

  async #open(key: string): Promise<AsyncDisposable & { readonly open: OpenFile }> {
    const path = this.localPath(key);
    try {
      const open = await this.#fileSystem.open(path, 'read');
      return { open, [Symbol.asyncDispose]: () => open.close() };
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') {
        throw new ApplianceError('OBJECT_NOT_FOUND', `${path} is missing`, { cause: error, details: { object: key } });
      }
      throw storageError(error, 'open', path);
    }
  }

  async #prepareDirectory(path: string): Promise<void> {
    const directory = dirname(path);
    if (this.#knownDirectories.has(directory)) return;
    await makeDirectoryDurably(directory, this.#fileSystem);
    this.#knownDirectories.add(directory);
  }
}
