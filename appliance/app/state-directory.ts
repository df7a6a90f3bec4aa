// SPDX-License-Identifier: Apache-2.0
import { createHash, randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Ajv } from 'ajv';
import { makeDirectoryDurably, renameDurably, writeDurably } from '../core/durable-file.ts';
import { ApplianceError } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { realFileSystem } from '../core/file-system.ts';
import { readSmallFile } from '../core/small-file.ts';

/** `state.json`: which repository a state directory works for. */
export interface StateFile {
  readonly version: 1;
  readonly repositoryId: string;
  /** Directory of the repository; absolute. */
  readonly repository: string;
}

const isState = new Ajv({ validateSchema: false }).compile<StateFile>({
  type: 'object',
  required: ['version', 'repositoryId', 'repository'],
  properties: { version: { const: 1 }, repositoryId: { type: 'string' }, repository: { type: 'string' } },
});

/** Unix socket paths may have 107 bytes (unix(7)); names in the runtime directory need up to this many. */
const MAX_RUNTIME_DIRECTORY_BYTES = 60;

/** The directory in which one appliance keeps what is not in its repository: key, catalog, sessions, sockets. */
export class StateDirectory {
  readonly path: string;

  constructor(path: string) {
    this.path = resolve(path);
  }

  get catalogPath(): string {
    return join(this.path, 'catalog');
  }

  get lockPath(): string {
    return join(this.path, 'lock');
  }

  get #keyPath(): string {
    return join(this.path, 'repository.key');
  }

  get #statePath(): string {
    return join(this.path, 'state.json');
  }

  /**
   * Where sockets lie: `run` in the state directory, or a short place of the same name at every start when that path is
   * too long for a socket or, as root, could not be reached by QEMU's user.
   */
  get runtimePath(): string {
    const local = join(this.path, 'run');
    const digest = createHash('sha256').update(this.path).digest('hex').slice(0, 12);
    if (process.getuid?.() === 0) return `/run/understudy-${digest}`;
    return Buffer.byteLength(local) <= MAX_RUNTIME_DIRECTORY_BYTES
      ? local
      : `/tmp/understudy-${process.getuid?.() ?? 0}-${digest}`;
  }

  /** Takes the directory for this process. @throws ApplianceError LOCKED, REPOSITORY_NOT_FOUND */
  async lock(): Promise<FileLock> {
    if ((await realFileSystem.stat(this.#statePath)) === undefined) throw this.#notInitialized();
    return FileLock.acquire(this.lockPath);
  }

  /** @throws ApplianceError REPOSITORY_NOT_FOUND, REPOSITORY_FORMAT */
  async load(): Promise<StateFile> {
    const text = await readSmallFile(this.#statePath);
    if (text === undefined) throw this.#notInitialized();
    const value = parseJson(text);
    if (!isState(value)) {
      throw new ApplianceError('REPOSITORY_FORMAT', `${this.#statePath} is damaged`, {
        hint: 'Take the repository over in a new state directory, with `understudy init --from` and its recovery key.',
      });
    }
    return value;
  }

  /** The working key of the repository. @throws ApplianceError REPOSITORY_KEY */
  async loadKey(): Promise<Buffer> {
    const text = await readSmallFile(this.#keyPath);
    if (text === undefined) throw new ApplianceError('REPOSITORY_KEY', `the working key ${this.#keyPath} is missing`);
    return Buffer.from(text.toString('utf8').trim(), 'base64');
  }

  /** True when `initialize` has been completed here. */
  async isInitialized(): Promise<boolean> {
    return (await realFileSystem.stat(this.#statePath)) !== undefined;
  }

  async create(): Promise<void> {
    await makeDirectoryDurably(this.path);
  }

  /**
   * Stores the key, readable by its owner only. It must be durable before the repository can hold anything. Another key
   * that lies there may be the only one that opens some repository: it is put aside, not overwritten.
   */
  async storeKey(masterKey: Buffer): Promise<void> {
    const text = Buffer.from(`${masterKey.toString('base64')}\n`, 'utf8');
    const known = await readSmallFile(this.#keyPath);
    if (known?.equals(text) === true) return;
    if (known !== undefined)
      await renameDurably(this.#keyPath, `${this.#keyPath}.old-${randomBytes(4).toString('hex')}`);
    await writeDurably(this.#keyPath, text, { mode: 0o600 });
  }

  /** For a key that never opened anything: that of an `initialize` which was interrupted. */
  async removeKey(): Promise<void> {
    await rm(this.#keyPath, { force: true });
  }

  /** The last step of `initialize`: from here on the directory is one. */
  async storeState(state: StateFile): Promise<void> {
    await writeDurably(this.#statePath, `${JSON.stringify(state, null, 2)}\n`);
  }

  #notInitialized(): ApplianceError {
    return new ApplianceError('REPOSITORY_NOT_FOUND', `${this.path} is not the state directory of an appliance`, {
      hint: 'Run `understudy init`, or give the right directory with --state or UNDERSTUDY_STATE.',
    });
  }
}

/** Undefined when it is no JSON; nothing of ours is `undefined`. */
function parseJson(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString('utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
