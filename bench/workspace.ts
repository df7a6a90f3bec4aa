// SPDX-License-Identifier: Apache-2.0
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StateDirectory } from '../appliance/app/state-directory.ts';
import { FileLock } from '../appliance/core/file-lock.ts';

/** The project's folder. */
export const ROOT: string = join(import.meta.dirname, '..');

/** Where a run works: the input is kept, everything else is removed at its end (and at the start of the next). */
export class Workspace implements AsyncDisposable {
  /** Inputs, by their parameters. */
  readonly inputDirectory: string;
  /** Repositories and outputs, on the same file system as the input. */
  readonly runDirectory: string;
  /** Where `probe.ts` leaves its reports. */
  readonly probeDirectory: string;
  /** Short enough for sockets. */
  readonly socketDirectory: string;
  readonly #lock: FileLock;
  readonly #runtimePaths: string[] = [];
  #names = 0;

  private constructor(base: string, socketDirectory: string, lock: FileLock) {
    this.#lock = lock;
    this.inputDirectory = join(base, 'input');
    this.runDirectory = join(base, 'run');
    this.probeDirectory = join(base, 'run', 'probe');
    this.socketDirectory = socketDirectory;
  }

  /** @throws ApplianceError LOCKED when another benchmark runs */
  static async open(base: string = join(ROOT, '.cache', 'bench')): Promise<Workspace> {
    await mkdir(join(base, 'input'), { recursive: true });
    const lock = await FileLock.acquire(join(base, 'lock'));
    const workspace = new Workspace(base, await mkdtemp(join(tmpdir(), 'us-bench-')), lock);
    await rm(workspace.runDirectory, { recursive: true, force: true });
    await mkdir(workspace.probeDirectory, { recursive: true });
    return workspace;
  }

  /** A path for a state directory; the directory of its sockets, which lies elsewhere, is removed in the end. */
  statePath(name: string): string {
    const path = this.path(name);
    this.#runtimePaths.push(new StateDirectory(path).runtimePath);
    return path;
  }

  /** A path in the run's directory that nothing had before. */
  path(name: string): string {
    this.#names += 1;
    return join(this.runDirectory, `${this.#names}-${name}`);
  }

  socketPath(name: string): string {
    this.#names += 1;
    return join(this.socketDirectory, `${this.#names}-${name}`);
  }

  async remove(path: string): Promise<void> {
    await rm(path, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.runDirectory, { recursive: true, force: true });
    await rm(this.socketDirectory, { recursive: true, force: true });
    for (const path of this.#runtimePaths) await rm(path, { recursive: true, force: true });
    await this.#lock[Symbol.asyncDispose]();
  }
}
