// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { run } from '../lab/run.ts';
import { BenchRun } from './bench-run.ts';
import { type DiskInput, sparseDisk } from './disk-input.ts';
import { measureProcess } from './measured-process.ts';
import type { BenchOptions } from './options.ts';
import { serveRaw } from './server-process.ts';
import type { Workspace } from './workspace.ts';

/** The huge disk of the rows that need one, and the share of data in it: 1 GiB for an input of 8 GiB. */
export const LARGE_DISK_BYTES: number = 8 * 1024 ** 4;
const SPARSE_DATA_SHARE = 1 / 8;
/** Of the machine's memory, when the rest is filled before a run. */
const LEFT_FREE_BYTES: number = 512 * 1024 ** 2;

/** What the rows of the benchmark share: options, input, and results that one row leaves for another. */
export class BenchContext extends BenchRun {
  readonly options: BenchOptions;
  readonly input: DiskInput;
  /** Wall times of our first backups of the input disk, in seconds. */
  readonly firstBackups: number[] = [];
  #fillers = 0;
  #fullState: Promise<string> | undefined;
  #compressedImage: Promise<string> | undefined;
  #largeDisk: Promise<string> | undefined;
  #largeState: Promise<string> | undefined;

  constructor(options: BenchOptions, workspace: Workspace, input: DiskInput) {
    super(workspace);
    this.options = options;
    this.input = input;
  }

  /**
   * Lets the kernel write what the last run left, so that the next does not pay for it; fills free memory; and reads the
   * files and folders that the next run will read: what others wrote may have pushed them out of the page cache.
   */
  async settle(...sources: readonly string[]): Promise<void> {
    execFileSync('sync');
    await this.#fillFreeMemory();
    for (const path of sources) {
      // tar does not read what goes to /dev/null.
      const [command, args] = statSync(path).isDirectory() ? ['tar', ['-cf', '/dev/zero', path]] : ['cat', [path]];
      await measureProcess(command, args, { discardsOutput: true });
    }
  }

  /**
   * Free memory of a virtual machine may have gone back to its host; whoever writes first then pays for getting it again,
   * which can cost more than what is measured. Reading holes fills it with page cache that may be thrown away any time.
   */
  async #fillFreeMemory(): Promise<void> {
    const freeKib = Number(/^MemFree: +(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1] ?? 0);
    const bytes = freeKib * 1024 - LEFT_FREE_BYTES;
    if (bytes <= 0) return;
    this.#fillers += 1;
    const path = this.workspace.path(`filler-${this.#fillers}`);
    writeFileSync(path, '');
    truncateSync(path, bytes);
    await measureProcess('cat', [path], { discardsOutput: true });
  }

  /** A state directory with one point of the input disk. */
  fullState(): Promise<string> {
    this.#fullState ??= this.#makeFullState();
    return this.#fullState;
  }

  keepFullState(stateDirectory: string): void {
    this.#fullState = Promise.resolve(stateDirectory);
  }

  /** The input disk as a qcow2 image, compressed with zstd by qemu-img. */
  compressedImage(): Promise<string> {
    this.#compressedImage ??= this.#makeCompressedImage();
    return this.#compressedImage;
  }

  keepCompressedImage(path: string): void {
    this.#compressedImage = Promise.resolve(path);
  }

  /** Bytes of data on the sparse disks. */
  get sparseDataBytes(): number {
    return this.input.sizeBytes * SPARSE_DATA_SHARE;
  }

  /** A raw file of 8 TiB with little data in it. */
  largeDisk(): Promise<string> {
    this.#largeDisk ??= this.#makeLargeDisk();
    return this.#largeDisk;
  }

  /** A state directory with one point of the large disk. */
  largeState(): Promise<string> {
    this.#largeState ??= this.#makeLargeState();
    return this.#largeState;
  }

  keepLargeState(stateDirectory: string): void {
    this.#largeState = Promise.resolve(stateDirectory);
  }

  async #makeLargeDisk(): Promise<string> {
    const path = this.workspace.path('large.raw');
    await sparseDisk(this.input, { path, sizeBytes: LARGE_DISK_BYTES, dataBytes: this.sparseDataBytes });
    return path;
  }

  async #makeLargeState(): Promise<string> {
    this.say('preparing: a repository with one point of an 8 TiB disk');
    const state = this.workspace.statePath('state-large');
    await this.understudy.init(state);
    await using source = await serveRaw(await this.largeDisk(), this.workspace.socketPath('source'));
    await this.understudy.backup(state, source.uri());
    return state;
  }

  async #makeFullState(): Promise<string> {
    this.say('preparing: a repository with one point');
    const state = this.workspace.statePath('state-full');
    await this.understudy.init(state);
    await using source = await serveRaw(this.input.path, this.workspace.socketPath('source'));
    const figures = await this.understudy.backup(state, source.uri());
    this.firstBackups.push(figures.wallMs / 1000);
    return state;
  }

  async #makeCompressedImage(): Promise<string> {
    this.say('preparing: a compressed qcow2 image');
    const path = this.workspace.path('disk.qcow2');
    const args = ['convert', '-f', 'raw', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd', this.input.path, path];
    await run('qemu-img', args, { timeoutMs: 30 * 60_000 });
    return path;
  }
}
