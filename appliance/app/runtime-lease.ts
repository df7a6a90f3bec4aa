// SPDX-License-Identifier: Apache-2.0
import { lstat, readdir, readFile, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isListening } from '../api/control-socket.ts';
import { removeStaleTemporaries, writeDurably } from '../core/durable-file.ts';
import { hasCode, systemErrorCode } from '../core/errors.ts';
import { FileLock } from '../core/file-lock.ts';
import { storageError } from '../core/file-system.ts';
import { prepareRuntimeDirectory } from './runtime-directory.ts';
import { StateDirectory } from './state-directory.ts';

/** Held by the process whose sockets lie in the directory. */
const LOCK_NAME = 'lock';
/** Names the state directory that the runtime directory belongs to. */
const STATE_NAME = 'state';
/** Runtime directories that lie beside those of other state directories; see `StateDirectory.runtimePath`. */
const SHARED_PLACE = /^understudy-(?:\d+-)?[0-9a-f]{12}$/;

/**
 * The runtime directory of a state directory, for as long as this process uses it. What it holds of its own is gone with
 * the release, and the directory too unless something else is left in it.
 */
export class RuntimeLease implements AsyncDisposable {
  readonly path: string;
  readonly #lock: FileLock | undefined;

  private constructor(path: string, lock: FileLock | undefined) {
    this.path = path;
    this.#lock = lock;
  }

  /** @throws ApplianceError LOCKED (somebody tidies up; shortly), IO_FAILED, NO_SPACE */
  static async take(state: StateDirectory): Promise<RuntimeLease> {
    const path = await prepareRuntimeDirectory(state.runtimePath);
    // One in the state directory goes with that, and may lie on a full disk.
    if (!SHARED_PLACE.test(basename(path))) return new RuntimeLease(path, undefined);
    const lock = await FileLock.acquire(join(path, LOCK_NAME));
    const lease = new RuntimeLease(path, lock);
    try {
      await removeStaleTemporaries(path);
      await writeDurably(join(path, STATE_NAME), state.path);
      return lease;
    } catch (error) {
      await lease[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#lock !== undefined) {
        await rm(join(this.path, STATE_NAME), { force: true });
        await rm(this.#lock.path, { force: true });
      }
      await rmdir(this.path);
    } catch (error) {
      // A backup that was killed may have left something to be ended.
      const code = systemErrorCode(error);
      if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw storageError(error, 'remove the directory', this.path);
    } finally {
      await this.#lock?.release();
    }
  }
}

/**
 * Removes runtime directories beside `path` whose state directory is gone, which nobody would come back to: those of this
 * user, that no process holds and in which nothing listens. Settles with their paths; what is in doubt stays.
 * @throws ApplianceError IO_FAILED
 */
export async function removeAbandonedRuntimes(path: string): Promise<string[]> {
  const removed: string[] = [];
  if (!SHARED_PLACE.test(basename(path))) return removed;
  for (const name of await namesIn(dirname(path))) {
    const candidate = join(dirname(path), name);
    if (SHARED_PLACE.test(name) && candidate !== path && (await isAbandoned(candidate))) {
      if (await removeUnlessHeld(candidate)) removed.push(candidate);
    }
  }
  return removed;
}

async function isAbandoned(candidate: string): Promise<boolean> {
  try {
    const found = await lstat(candidate);
    if (!found.isDirectory() || found.uid !== process.getuid?.() || (found.mode & 0o022) !== 0) return false;
    const state = new StateDirectory(await readFile(join(candidate, STATE_NAME), 'utf8'));
    // The name of the directory is made from the path: a note that does not belong to it proves nothing.
    return state.runtimePath === candidate && !(await exists(state.path));
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(systemErrorCode(error) ?? '')) return false;
    throw storageError(error, 'look into', candidate);
  }
}

async function removeUnlessHeld(candidate: string): Promise<boolean> {
  let lock: FileLock;
  try {
    lock = await FileLock.acquire(join(candidate, LOCK_NAME));
  } catch (error) {
    if (hasCode(error, 'LOCKED')) return false;
    throw error;
  }
  try {
    if (await isAnythingListening(candidate)) return false;
    await rm(candidate, { recursive: true, force: true });
    return true;
  } catch (error) {
    throw storageError(error, 'remove the directory', candidate);
  } finally {
    await lock.release();
  }
}

async function isAnythingListening(directory: string): Promise<boolean> {
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true })) {
    if (entry.isSocket() && (await isListening(join(entry.parentPath, entry.name)))) return true;
  }
  return false;
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    throw storageError(error, 'list', directory);
  }
}
