// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { writeDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { type FileSystem, realFileSystem } from '../core/file-system.ts';
import { readSmallFile } from '../core/small-file.ts';

/** A secret of this appliance alone; `id` is the beginning of its SHA-256 under a prefix, and tells nothing about it. */
export interface ApplianceKey {
  /** 8 hexadecimal digits. */
  readonly id: string;
  /** 32 bytes. */
  readonly secret: Buffer;
}

const KEY_FILE = 'appliance.key';
const KEY_BYTES = 32;
/** Keys that are kept at once: the current one, and those of rotations that were interrupted. */
const MAX_KEYS = 8;
const HEADER = 'understudy appliance key 1';
const MAX_FILE_BYTES = 4096;

/**
 * The keys under which an appliance keeps its secrets: `appliance.key` in the state directory, readable by its owner only,
 * one base 64 line for each key, the current one first, after a line that names the format. It is made at first use and has
 * nothing to do with the repository's key: who can open the repository does not know the passwords of hypervisors.
 */
export class ApplianceKeys {
  readonly #path: string;
  readonly #fileSystem: FileSystem;
  #keys: readonly [ApplianceKey, ...ApplianceKey[]];

  private constructor(path: string, fileSystem: FileSystem, keys: readonly [ApplianceKey, ...ApplianceKey[]]) {
    this.#path = path;
    this.#fileSystem = fileSystem;
    this.#keys = keys;
  }

  /** @throws ApplianceError CONFIG_DAMAGED, CONFIG_FORMAT, NO_SPACE, IO_FAILED */
  static async open(stateDirectory: string, fileSystem: FileSystem = realFileSystem): Promise<ApplianceKeys> {
    const path = join(stateDirectory, KEY_FILE);
    const stored = await readSmallFile(path, { maxBytes: MAX_FILE_BYTES, fileSystem });
    if (stored !== undefined) return new ApplianceKeys(path, fileSystem, decode(stored, path));
    const keys: readonly [ApplianceKey] = [newKey()];
    // Two that start at once must not each seal under a key of their own.
    try {
      await writeDurably(path, encode(keys), { ifAbsent: true, fileSystem });
    } catch (error) {
      if (!hasCode(error, 'OBJECT_EXISTS')) throw error;
      return ApplianceKeys.open(stateDirectory, fileSystem);
    }
    return new ApplianceKeys(path, fileSystem, keys);
  }

  /** Seals. */
  get current(): ApplianceKey {
    return this.#keys[0];
  }

  /** All that open, the current one first. */
  get all(): readonly ApplianceKey[] {
    return this.#keys;
  }

  find(id: string): ApplianceKey | undefined {
    return this.#keys.find((key) => key.id === id);
  }

  /** Puts a new key before the others; durable when settled. @throws ApplianceError LIMIT_REACHED, NO_SPACE, IO_FAILED */
  async rotate(): Promise<void> {
    if (this.#keys.length >= MAX_KEYS) {
      throw new ApplianceError('LIMIT_REACHED', `there are ${MAX_KEYS} keys already: finish the last rotation first`);
    }
    await this.#store([newKey(), ...this.#keys]);
  }

  /** Forgets every key but the current one. Call it when nothing is sealed under another any more. */
  async retire(): Promise<void> {
    await this.#store([this.current]);
  }

  async #store(keys: readonly [ApplianceKey, ...ApplianceKey[]]): Promise<void> {
    await writeDurably(this.#path, encode(keys), { fileSystem: this.#fileSystem });
    this.#keys = keys;
  }
}

function newKey(): ApplianceKey {
  return keyOf(randomBytes(KEY_BYTES));
}

function keyOf(secret: Buffer): ApplianceKey {
  const digest = createHash('sha256').update('understudy appliance key id').update(secret).digest('hex');
  return { id: digest.slice(0, 8), secret };
}

function encode(keys: readonly ApplianceKey[]): string {
  return [HEADER, ...keys.map((key) => key.secret.toString('base64')), ''].join('\n');
}

function decode(stored: Buffer, path: string): readonly [ApplianceKey, ...ApplianceKey[]] {
  const [header, ...lines] = stored.toString('utf8').split('\n');
  if (header !== HEADER) {
    const code = header?.startsWith('understudy appliance key ') === true ? 'CONFIG_FORMAT' : 'CONFIG_DAMAGED';
    throw new ApplianceError(code, `${path} is not a key file of this version`, { details: { path } });
  }
  const secrets = lines.slice(0, -1).map((line) => Buffer.from(line, 'base64'));
  const [first, ...rest] = secrets.map(keyOf);
  const isWhole = secrets.every(
    (secret, index) => secret.length === KEY_BYTES && secret.toString('base64') === lines[index],
  );
  if (first === undefined || !isWhole || lines.at(-1) !== '' || rest.length >= MAX_KEYS) {
    throw new ApplianceError('CONFIG_DAMAGED', `${path} is damaged`, { details: { path } });
  }
  return [first, ...rest];
}
