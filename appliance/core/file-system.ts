// SPDX-License-Identifier: Apache-2.0
import fs from 'node:fs';
import { systemClock } from './clock.ts';
import { ApplianceError, hasCode, systemErrorCode } from './errors.ts';

/**
 * How a file is opened: `read` (must exist), `update` (read and write, must exist), `create` (read and write, must not
 * exist: EEXIST), `update-or-create`.
 */
export type OpenMode = 'read' | 'update' | 'create' | 'update-or-create';

/** Kind and size of one name; a symbolic link is followed by `stat` and is `other` in a listing. */
export interface FileStat {
  readonly kind: 'file' | 'directory' | 'other';
  readonly sizeBytes: number;
}

export interface DirectoryEntry {
  readonly name: string;
  readonly kind: FileStat['kind'];
}

/**
 * An open file. Buffers may lie on a SharedArrayBuffer; they belong to the file until the promise settles. Operations
 * may run at the same time; `close` waits for those that run, and is idempotent. Errors are those of the operating
 * system (with `code`): callers turn them into an `ApplianceError` with `storageError`.
 */
export interface OpenFile {
  /** The descriptor, for what this port does not cover (locks, holes); -1 when there is none. */
  readonly fd: number;
  /** Reads up to `into.length` bytes at `position`; fewer only at the end of the file. Settles with the count. */
  read(into: Buffer, position: number): Promise<number>;
  /** Writes all parts one after the other at `position`. After an error any prefix may have been written. */
  write(parts: Buffer | readonly Buffer[], position: number): Promise<void>;
  /**
   * Optional shortcut of `write` for a few bytes that somebody waits for: writes all of them before it returns and says true,
   * or does nothing and says false, and the caller uses `write`. Throws as `write` does.
   */
  writeNow?(data: Buffer, position: number): boolean;
  truncate(sizeBytes: number): Promise<void>;
  /** fdatasync(2): content, and the size that is needed to read it. */
  syncData(): Promise<void>;
  sizeBytes(): Promise<number>;
  close(): Promise<void>;
}

/**
 * The part of a file system that durable state is kept in. It exists so that tests can fail each step, and lose what was
 * not synced (`test/support/faulty-file-system.ts`). Errors are those of the operating system.
 */
export interface FileSystem {
  /** `permissions` apply to a file that is created; default 0o600. */
  open(path: string, mode: OpenMode, permissions?: number): Promise<OpenFile>;
  /** Atomic; replaces an existing file. */
  rename(from: string, to: string): Promise<void>;
  /** Hard link; EEXIST when `to` exists. */
  link(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Undefined when there is nothing of that name. */
  stat(path: string): Promise<FileStat | undefined>;
  /** Sorted by name (byte order of UTF-16). */
  readDirectory(path: string): Promise<DirectoryEntry[]>;
  /** Parents must exist; EEXIST when the name is taken. `permissions` default 0o700. */
  makeDirectory(path: string, permissions?: number): Promise<void>;
  /** Must be empty. */
  removeDirectory(path: string): Promise<void>;
  /** Makes the names in the directory durable. */
  syncDirectory(path: string): Promise<void>;
}

const FLAGS: Readonly<Record<OpenMode, number>> = {
  read: fs.constants.O_RDONLY,
  update: fs.constants.O_RDWR,
  create: fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL,
  'update-or-create': fs.constants.O_RDWR | fs.constants.O_CREAT,
};

/** Most buffers of one pwritev(2): IOV_MAX on Linux. */
const MAX_VECTOR_LENGTH = 1024;
/** Most bytes of one system call; Linux stops at 2^31 - 4096, and Node refuses more than 2^31 - 1. */
/** Into the page cache it takes less time to write them than to ask a thread for it: 4 µs instead of 20 for 4 KiB. */
const MAX_IMMEDIATE_BYTES: number = 128 * 1024;
/** A write that took longer has waited for the device, and the whole process with it; less may be the scheduler. */
const SLOW_WRITE_MS = 25;
const CAUTIOUS_MS = 500;
const MAX_CALL_BYTES = 1024 * 1024 * 1024;

/** The operating system's file system. */
export const realFileSystem: FileSystem = {
  open: async (path, mode, permissions = 0o600) =>
    new NodeFile(await settle<number>((done) => fs.open(path, FLAGS[mode], permissions, done))),
  rename: (from, to) => settle<void>((done) => fs.rename(from, to, done)),
  link: (from, to) => settle<void>((done) => fs.link(from, to, done)),
  unlink: (path) => settle<void>((done) => fs.unlink(path, done)),
  stat: async (path) => {
    try {
      const found = await settle<fs.Stats>((done) => fs.stat(path, done));
      return { kind: kindOf(found), sizeBytes: found.size };
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  },
  readDirectory: async (path) => {
    const entries = await settle<fs.Dirent[]>((done) => fs.readdir(path, { withFileTypes: true }, done));
    return entries.map((entry) => ({ name: entry.name, kind: kindOf(entry) })).sort(byName);
  },
  makeDirectory: (path, permissions = 0o700) =>
    settle<void>((done) => fs.mkdir(path, { mode: permissions }, (error) => done(error))),
  removeDirectory: (path) => settle<void>((done) => fs.rmdir(path, done)),
  syncDirectory: async (path) => {
    const flags = fs.constants.O_RDONLY | fs.constants.O_DIRECTORY;
    const fd = await settle<number>((done) => fs.open(path, flags, done));
    try {
      await settle<void>((done) => fs.fsync(fd, done));
    } finally {
      await settle<void>((done) => fs.close(fd, done));
    }
  },
};

/**
 * An error of the operating system as an ApplianceError: NO_SPACE for a full disk or quota, IO_FAILED for the rest. An
 * ApplianceError is returned as it is.
 */
export function storageError(error: unknown, action: string, path: string): ApplianceError {
  if (error instanceof ApplianceError) return error;
  const code = systemErrorCode(error);
  const details = { path, ...(code === undefined ? {} : { systemCode: code }) };
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new ApplianceError('NO_SPACE', `no space left to ${action} ${path}`, { cause: error, details });
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new ApplianceError('IO_FAILED', `cannot ${action} ${path}: ${reason}`, { cause: error, details });
}

/** True for an error of the operating system with one of these codes, also as the cause of an ApplianceError. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  const cause = hasCode(error, 'IO_FAILED', 'NO_SPACE') ? error.cause : error;
  const code = systemErrorCode(cause);
  return code !== undefined && codes.includes(code);
}

/** Fills `into` from `position`; throws IO_FAILED when the file ends before that. Other errors as `storageError`. */
export async function readExactly(file: OpenFile, into: Buffer, position: number, path: string): Promise<void> {
  let count: number;
  try {
    count = await file.read(into, position);
  } catch (error) {
    throw storageError(error, 'read', path);
  }
  if (count !== into.length) {
    const details = { path, position, wanted: into.length, got: count };
    throw new ApplianceError('IO_FAILED', `${path} ends in the middle of what should be there`, { details });
  }
}

/** A descriptor with a count of running operations, so that it is never closed (and reused) beneath one. */
class NodeFile implements OpenFile {
  readonly fd: number;
  private running = 0;
  /** Elapsed time until which the thread pool writes, because the device was waited for. */
  private cautiousUntilMs = 0;
  private closing: Promise<void> | undefined;
  private whenIdle: (() => void) | undefined;

  constructor(fd: number) {
    this.fd = fd;
  }

  async read(into: Buffer, position: number): Promise<number> {
    this.enter();
    try {
      let done = 0;
      while (done < into.length) {
        const at = done;
        const length = Math.min(into.length - at, MAX_CALL_BYTES);
        const count = await settle<number>((settled) => fs.read(this.fd, into, at, length, position + at, settled));
        if (count === 0) break;
        done += count;
      }
      return done;
    } finally {
      this.leave();
    }
  }

  async write(parts: Buffer | readonly Buffer[], position: number): Promise<void> {
    this.enter();
    try {
      if (Buffer.isBuffer(parts)) await this.writeOne(parts, position);
      else if (parts.length === 1 && parts[0] !== undefined) await this.writeOne(parts[0], position);
      else await this.writeMany(parts, position);
    } finally {
      this.leave();
    }
  }

  writeNow(data: Buffer, position: number): boolean {
    const startedMs = systemClock.elapsedMs();
    if (data.length > MAX_IMMEDIATE_BYTES || startedMs < this.cautiousUntilMs) return false;
    this.enter();
    try {
      let done = 0;
      while (done < data.length) done += fs.writeSync(this.fd, data, done, data.length - done, position + done);
    } finally {
      this.leave();
    }
    const endedMs = systemClock.elapsedMs();
    if (endedMs - startedMs > SLOW_WRITE_MS) this.cautiousUntilMs = endedMs + CAUTIOUS_MS;
    return true;
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.run((done) => fs.ftruncate(this.fd, sizeBytes, done));
  }

  async syncData(): Promise<void> {
    await this.run((done) => fs.fdatasync(this.fd, done));
  }

  async sizeBytes(): Promise<number> {
    const found = await this.run<fs.Stats>((done) => fs.fstat(this.fd, done));
    return found.size;
  }

  close(): Promise<void> {
    this.closing ??= this.closeWhenIdle();
    return this.closing;
  }

  private async writeOne(data: Buffer, position: number): Promise<void> {
    let done = 0;
    while (done < data.length) {
      const at = done;
      const length = Math.min(data.length - at, MAX_CALL_BYTES);
      done += await settle<number>((settled) => fs.write(this.fd, data, at, length, position + at, settled));
    }
  }

  private async writeMany(parts: readonly Buffer[], position: number): Promise<void> {
    let rest = parts.filter((part) => part.length > 0);
    let at = position;
    while (rest.length > 0) {
      const batch = rest.slice(0, MAX_VECTOR_LENGTH);
      const count = await settle<number>((settled) => fs.writev(this.fd, batch, at, settled));
      at += count;
      rest = dropBytes(rest, count);
    }
  }

  private async run<T = void>(start: (done: (error: Error | null, value: T) => void) => void): Promise<T> {
    this.enter();
    try {
      return await settle<T>(start);
    } finally {
      this.leave();
    }
  }

  private enter(): void {
    if (this.closing !== undefined) throw Object.assign(new Error('EBADF: the file was closed'), { code: 'EBADF' });
    this.running += 1;
  }

  private leave(): void {
    this.running -= 1;
    if (this.running === 0) this.whenIdle?.();
  }

  private async closeWhenIdle(): Promise<void> {
    if (this.running > 0) {
      await new Promise<void>((resolve) => {
        this.whenIdle = resolve;
      });
    }
    await settle<void>((done) => fs.close(this.fd, done));
  }
}

/** What is left of the parts after their first `count` bytes. */
function dropBytes(parts: readonly Buffer[], count: number): Buffer[] {
  let left = count;
  let index = 0;
  for (const part of parts) {
    if (part.length > left) break;
    left -= part.length;
    index += 1;
  }
  const rest = parts.slice(index);
  const first = rest[0];
  if (left > 0 && first !== undefined) rest[0] = first.subarray(left);
  return rest;
}

function settle<T>(start: (done: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    start((error, value) => {
      if (error === null || error === undefined) resolve(value);
      else reject(error);
    });
  });
}

function kindOf(found: fs.Stats | fs.Dirent): FileStat['kind'] {
  if (found.isFile()) return 'file';
  return found.isDirectory() ? 'directory' : 'other';
}

function byName(a: DirectoryEntry, b: DirectoryEntry): number {
  if (a.name === b.name) return 0;
  return a.name < b.name ? -1 : 1;
}
