// SPDX-License-Identifier: Apache-2.0
import type { FileSystem, OpenFile, OpenMode } from '../../appliance/core/file-system.ts';

/** What a planned fault does: fail one operation, or end the process as far as the file system can tell. */
export type Fault =
  | { readonly kind: 'error'; readonly at: number; readonly code: 'ENOSPC' | 'EIO' }
  /** The operation `at` and all after it throw; `partial` lets a write of it happen by half first. */
  | { readonly kind: 'crash'; readonly at: number; readonly partial?: boolean };

/**
 * Counts the operations of a faulty file system that change something (writes, truncates, syncs, renames, links,
 * unlinks, creations) and fails the planned one. The every-step loop: `at` = 1, 2, 3 … until `wasHit` stays false.
 */
export class FaultPlan {
  readonly fault: Fault | undefined;
  operations = 0;
  wasHit = false;
  /** Name of the operation that was hit, for messages. */
  hit = '';

  constructor(fault?: Fault) {
    this.fault = fault;
  }

  /** Called before each operation; settles with whether to do half of it, or throws the planned error. */
  step(operation: string, path: string): 'whole' | 'half' {
    this.operations += 1;
    const fault = this.fault;
    if (fault === undefined || this.operations < fault.at) return 'whole';
    if (fault.kind === 'error') {
      if (this.operations > fault.at) return 'whole';
      this.markHit(operation, path);
      throw systemError(fault.code, operation, path);
    }
    const isFirst = this.operations === fault.at;
    if (isFirst) this.markHit(operation, path);
    if (isFirst && fault.partial === true && operation === 'write') return 'half';
    throw new CrashedError(operation, path);
  }

  private markHit(operation: string, path: string): void {
    this.wasHit = true;
    this.hit = `${operation} ${path}`;
  }
}

/** What every operation throws after a planned crash. */
export class CrashedError extends Error {
  override readonly name = 'CrashedError';
  readonly code = 'EIO';

  constructor(operation: string, path: string) {
    super(`the file system crashed before ${operation} ${path}`);
  }
}

/** True after a `crash` fault for errors whose chain of causes ends in it. */
export function isCrash(error: unknown): boolean {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (current instanceof CrashedError) return true;
  }
  return false;
}

/** A file system whose changing operations follow a `FaultPlan`. Reads fail only after a crash. */
export class FaultyFileSystem implements FileSystem {
  private readonly inner: FileSystem;
  readonly plan: FaultPlan;
  /** Also count and fail reads, listings and opens for reading. */
  readonly countsReads: boolean;

  constructor(inner: FileSystem, plan: FaultPlan, options: { readonly countsReads?: boolean } = {}) {
    this.inner = inner;
    this.plan = plan;
    this.countsReads = options.countsReads ?? false;
  }

  async open(path: string, mode: OpenMode, permissions?: number): Promise<OpenFile> {
    if (mode === 'create' || mode === 'update-or-create') this.step('open', path);
    else this.look('open', path);
    return new FaultyFile(await this.inner.open(path, mode, permissions), path, this);
  }

  async rename(from: string, to: string): Promise<void> {
    this.step('rename', from);
    await this.inner.rename(from, to);
  }

  async link(from: string, to: string): Promise<void> {
    this.step('link', to);
    await this.inner.link(from, to);
  }

  async unlink(path: string): Promise<void> {
    this.step('unlink', path);
    await this.inner.unlink(path);
  }

  async stat(path: string): ReturnType<FileSystem['stat']> {
    this.look('stat', path);
    return await this.inner.stat(path);
  }

  async readDirectory(path: string): ReturnType<FileSystem['readDirectory']> {
    this.look('readDirectory', path);
    return await this.inner.readDirectory(path);
  }

  async makeDirectory(path: string, permissions?: number): Promise<void> {
    this.step('makeDirectory', path);
    await this.inner.makeDirectory(path, permissions);
  }

  async removeDirectory(path: string): Promise<void> {
    this.step('removeDirectory', path);
    await this.inner.removeDirectory(path);
  }

  async syncDirectory(path: string): Promise<void> {
    this.step('syncDirectory', path);
    await this.inner.syncDirectory(path);
  }

  step(operation: string, path: string): 'whole' | 'half' {
    return this.plan.step(operation, path);
  }

  look(operation: string, path: string): void {
    if (this.countsReads) this.plan.step(operation, path);
    else if (this.plan.fault?.kind === 'crash' && this.plan.wasHit) throw new CrashedError(operation, path);
  }
}

class FaultyFile implements OpenFile {
  private readonly inner: OpenFile;
  private readonly path: string;
  private readonly owner: FaultyFileSystem;

  constructor(inner: OpenFile, path: string, owner: FaultyFileSystem) {
    this.inner = inner;
    this.path = path;
    this.owner = owner;
  }

  get fd(): number {
    return this.inner.fd;
  }

  async read(into: Buffer, position: number): Promise<number> {
    this.owner.look('read', this.path);
    return await this.inner.read(into, position);
  }

  async write(parts: Buffer | readonly Buffer[], position: number): Promise<void> {
    if (this.owner.step('write', this.path) === 'half') {
      const all = Buffer.isBuffer(parts) ? parts : Buffer.concat(parts);
      await this.inner.write(all.subarray(0, all.length >> 1), position);
      throw new CrashedError('write', this.path);
    }
    await this.inner.write(parts, position);
  }

  writeNow(data: Buffer, position: number): boolean {
    if (this.inner.writeNow === undefined) return false;
    if (this.owner.step('write', this.path) === 'whole') return this.inner.writeNow(data, position);
    this.inner.writeNow(data.subarray(0, data.length >> 1), position);
    throw new CrashedError('write', this.path);
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.owner.step('truncate', this.path);
    await this.inner.truncate(sizeBytes);
  }

  async syncData(): Promise<void> {
    this.owner.step('syncData', this.path);
    await this.inner.syncData();
  }

  async sizeBytes(): Promise<number> {
    this.owner.look('sizeBytes', this.path);
    return await this.inner.sizeBytes();
  }

  /** Never fails, so that a crashed test leaks no descriptor. */
  async close(): Promise<void> {
    await this.inner.close();
  }
}

/** An error as the operating system gives it. */
export function systemError(code: string, operation: string, path: string): Error {
  return Object.assign(new Error(`${code}: planned fault, ${operation} '${path}'`), { code, syscall: operation, path });
}

/**
 * Runs `attempt` with a fault at operation 1, 2, 3 … until a run is not hit by its fault any more; that last run must
 * succeed. `attempt` gets a fresh plan each time, does the work over a `FaultyFileSystem`, and checks what is left.
 * Settles with the number of steps that were failed.
 */
export async function everyStep(
  fault: (at: number) => Fault,
  attempt: (plan: FaultPlan) => Promise<void>,
  limit: number = 10_000,
): Promise<number> {
  for (let at = 1; at <= limit; at++) {
    const plan = new FaultPlan(fault(at));
    try {
      await attempt(plan);
    } catch (error) {
      throw new Error(`step ${at} (${plan.hit || 'not hit'}): ${String(error)}`, { cause: error });
    }
    if (!plan.wasHit) return at - 1;
  }
  throw new Error(`the work takes more than ${limit} steps`);
}
