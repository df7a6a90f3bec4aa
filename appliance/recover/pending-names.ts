// SPDX-License-Identifier: Apache-2.0
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isTemporaryName, makeDirectoryDurably, writeDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { isSystemError, storageError } from '../core/file-system.ts';
import type { LibvirtConnection } from '../hypervisor/libvirt/connection.ts';

/** A machine of which libvirt takes another name only when it is shut off. */
export interface PendingName {
  readonly machineId: string;
  readonly connect: string;
  /** What it is called until then; under another name it is left alone. */
  readonly name: string;
  readonly to: string;
}

const UUID = /^[0-9a-f-]{36}$/;

/**
 * Names that machines get once they are shut off, one file each in `names/` of the state directory. Until then nothing of
 * the machine depends on them.
 */
export class PendingNames {
  readonly #directory: string;
  readonly #connect: (uri: string) => Promise<LibvirtConnection>;
  #known: Map<string, PendingName> | undefined;

  constructor(stateDirectory: string, connect: (uri: string) => Promise<LibvirtConnection>) {
    this.#directory = join(stateDirectory, 'names');
    this.#connect = connect;
  }

  /** Durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED */
  async add(pending: PendingName): Promise<void> {
    const known = await this.#load();
    await makeDirectoryDurably(this.#directory);
    await writeDurably(this.#pathOf(pending), `${JSON.stringify(pending, null, 2)}\n`);
    known.set(pending.machineId, pending);
  }

  /** Renames what is shut off now, and forgets what is gone or was renamed by somebody else. Errors are libvirt's. */
  async look(): Promise<void> {
    const known = await this.#load();
    for (const pending of known.values()) {
      if (!(await this.#tryRename(pending))) continue;
      await this.#remove(pending);
      known.delete(pending.machineId);
    }
  }

  /** Whether it is settled. */
  async #tryRename(pending: PendingName): Promise<boolean> {
    const connection = await this.#connect(pending.connect);
    try {
      const domain = await connection.domainByUuid(pending.machineId);
      if (domain.name !== pending.name) return true;
      const { state } = await domain.state();
      if (state !== 'shut-off' && state !== 'crashed') return false;
      await domain.rename(pending.to);
      return true;
    } catch (error) {
      if (hasCode(error, 'DOMAIN_NOT_FOUND')) return true;
      // Started again, or the name is taken: the next look will tell.
      if (error instanceof ApplianceError) return false;
      throw error;
    }
  }

  async #load(): Promise<Map<string, PendingName>> {
    if (this.#known !== undefined) return this.#known;
    const known = new Map<string, PendingName>();
    for (const file of await this.#files()) {
      const path = join(this.#directory, file);
      try {
        const pending = JSON.parse(await readFile(path, 'utf8')) as PendingName;
        if (UUID.test(pending.machineId)) known.set(pending.machineId, pending);
      } catch (error) {
        throw storageError(error, 'read', path);
      }
    }
    this.#known = known;
    return known;
  }

  async #files(): Promise<string[]> {
    try {
      return (await readdir(this.#directory)).filter((name) => !isTemporaryName(name));
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return [];
      throw storageError(error, 'list', this.#directory);
    }
  }

  async #remove(pending: PendingName): Promise<void> {
    const path = this.#pathOf(pending);
    try {
      await rm(path, { force: true });
    } catch (error) {
      throw storageError(error, 'remove', path);
    }
  }

  #pathOf({ machineId }: PendingName): string {
    return join(this.#directory, `${machineId}.json`);
  }
}
