// SPDX-License-Identifier: Apache-2.0
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectoryDurably, syncDirectory, writeDurably } from '../../core/durable-file.ts';
import { systemErrorCode } from '../../core/errors.ts';
import { storageError } from '../../core/file-system.ts';
import type { MachineId } from '../../core/ids.ts';
import type { ProtectionRecord } from './protection-record.ts';

const FILE_NAME = 'protection.json';

/**
 * A copy of each protected machine's record beside its journal: a catalog that is lost must not end protection without a
 * word. The catalog's records count; copies stand in for those that it lacks.
 */
export class RecordCopies {
  readonly #directory: string;

  /** `journals/` of the state directory. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Durable when settled. @throws ApplianceError NO_SPACE, IO_FAILED */
  async put(record: ProtectionRecord): Promise<void> {
    await makeDirectoryDurably(this.#directory);
    await makeDirectoryDurably(join(this.#directory, record.machineId));
    await writeDurably(this.#pathOf(record.machineId), Buffer.from(`${JSON.stringify(record, null, 2)}\n`, 'utf8'));
  }

  /** @throws ApplianceError IO_FAILED */
  async remove(machineId: MachineId): Promise<void> {
    const path = this.#pathOf(machineId);
    try {
      await rm(path);
      await syncDirectory(join(this.#directory, machineId));
    } catch (error) {
      if (systemErrorCode(error) !== 'ENOENT') throw storageError(error, 'remove', path);
    }
  }

  /** Those that can be read; one that is damaged is none. @throws ApplianceError IO_FAILED */
  async load(): Promise<ProtectionRecord[]> {
    const records: ProtectionRecord[] = [];
    for (const name of await this.#names()) {
      const record = await this.#read(name);
      if (record !== undefined) records.push(record);
    }
    return records;
  }

  async #names(): Promise<string[]> {
    try {
      return await readdir(this.#directory);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return [];
      throw storageError(error, 'list', this.#directory);
    }
  }

  async #read(name: string): Promise<ProtectionRecord | undefined> {
    const path = join(this.#directory, name, FILE_NAME);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes(systemErrorCode(error) ?? '')) return undefined;
      throw storageError(error, 'read', path);
    }
    const value = parsed(text);
    return isRecord(value) && value.machineId === name ? value : undefined;
  }

  #pathOf(machineId: MachineId): string {
    return join(this.#directory, machineId, FILE_NAME);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What is damaged is no record; the machine is told as one that is not protected.
    return undefined;
  }
}

function isRecord(value: unknown): value is ProtectionRecord {
  if (typeof value !== 'object' || value === null) return false;
  const { machineId, name, connect, intervalMs, durability, since } = value as Record<string, unknown>;
  const areTexts = [machineId, name, connect, since].every((text) => typeof text === 'string');
  return areTexts && Number.isSafeInteger(intervalMs) && (durability === 'group' || durability === 'write');
}
