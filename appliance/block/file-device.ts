// SPDX-License-Identifier: Apache-2.0
import { ApplianceError, systemErrorCode } from '../core/errors.ts';
import { appendExtent, type Extent, endOf, type Range } from '../core/extents.ts';
import { type OpenFile, realFileSystem, storageError } from '../core/file-system.ts';
import { endOfFile, nextData, nextHole, zeroRange } from '../core/libc.ts';
import {
  type BlockDevice,
  type BlockFeatures,
  type BlockLimits,
  BYTE_LIMITS,
  type WriteOptions,
  type ZeroOptions,
} from './block-device.ts';
import { checked } from './checked-device.ts';

/** Zeroes that are written where the file system cannot punch holes. */
const ZEROES: Buffer = Buffer.alloc(1024 * 1024);

/** Two system calls each, so one query stays below about 100 ms. */
const MAX_EXTENTS_OF_FILE = 1024;

/** What fallocate(2) answers when file system, device or alignment do not allow it. */
const CANNOT_PUNCH: readonly string[] = ['EOPNOTSUPP', 'EINVAL', 'ENOSYS', 'ENODEV', 'ENOTTY', 'EPERM'];

/**
 * Opens a raw file or a block device (`/dev/…`) that exists, as a disk of its size now. Holes are found with SEEK_HOLE
 * where the file system knows them; zeroing and trimming punch holes where it can, otherwise zeroes are written.
 *
 * Errors, here and later: NO_SPACE, IO_FAILED with `details.path` and `details.systemCode`.
 */
export async function openFileDevice(path: string, access: 'read-only' | 'read-write'): Promise<BlockDevice> {
  const file = await openFile(path, access === 'read-only' ? 'read' : 'update');
  try {
    return checked(new FileDevice(path, file, { sizeBytes: await endOfFile(file.fd), access }));
  } catch (error) {
    await file.close();
    throw storageError(error, 'open', path);
  }
}

/** Creates a sparse raw file, all zero, and opens it; TARGET_EXISTS when the name is taken. The caller syncs its directory. */
export async function createFileDevice(path: string, sizeBytes: number): Promise<BlockDevice> {
  const file = await openFile(path, 'create');
  try {
    await file.truncate(sizeBytes);
    return checked(new FileDevice(path, file, { sizeBytes, access: 'read-write' }));
  } catch (error) {
    await file.close();
    throw storageError(error, 'create', path);
  }
}

async function openFile(path: string, mode: 'read' | 'update' | 'create'): Promise<OpenFile> {
  try {
    return await realFileSystem.open(path, mode);
  } catch (error) {
    if (mode === 'create' && systemErrorCode(error) === 'EEXIST') {
      throw new ApplianceError('TARGET_EXISTS', `${path} exists already`, { cause: error, details: { path } });
    }
    throw storageError(error, 'open', path);
  }
}

class FileDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly limits: BlockLimits = BYTE_LIMITS;
  readonly features: BlockFeatures;
  private readonly path: string;
  private readonly file: OpenFile;
  private canPunch = true;

  constructor(path: string, file: OpenFile, shape: { sizeBytes: number; access: 'read-only' | 'read-write' }) {
    this.path = path;
    this.file = file;
    this.sizeBytes = shape.sizeBytes;
    const isReadOnly = shape.access === 'read-only';
    this.features = {
      isReadOnly,
      canFlush: true,
      canFua: !isReadOnly,
      canTrim: !isReadOnly,
      canZero: !isReadOnly,
      canFastZero: !isReadOnly,
      canCache: false,
      canExtents: true,
      isMultiConnSafe: true,
    };
  }

  async read(offset: number, into: Buffer): Promise<void> {
    const count = await this.attempt('read', () => this.file.read(into, offset));
    if (count === into.length) return;
    const details = { path: this.path, offset, wanted: into.length, got: count };
    throw new ApplianceError('IO_FAILED', `${this.path} has become shorter than it was when opened`, { details });
  }

  async write(offset: number, data: Buffer, options: WriteOptions = {}): Promise<void> {
    await this.attempt('write', () => this.file.write(data, offset));
    if (options.fua === true) await this.flush();
  }

  async zero(range: Range, options: ZeroOptions = {}): Promise<void> {
    if (!(await this.punch(range, options.keepAllocated === true ? 'zero' : 'punch'))) {
      if (options.fastOnly === true) {
        throw new ApplianceError('NOT_SUPPORTED', `${this.path} cannot be zeroed quickly`, { details: { ...range } });
      }
      await this.writeZeroes(range);
    }
    if (options.fua === true) await this.flush();
  }

  async trim(range: Range, options: WriteOptions = {}): Promise<void> {
    await this.punch(range, 'punch');
    if (options.fua === true) await this.flush();
  }

  async flush(): Promise<void> {
    await this.attempt('flush', () => this.file.syncData());
  }

  async cache(): Promise<void> {}

  async extents(range: Range): Promise<Extent[]> {
    const extents: Extent[] = [];
    const end = endOf(range);
    let offset = range.offset;
    while (offset < end && extents.length < MAX_EXTENTS_OF_FILE) {
      const dataStart = Math.min(await this.seekData(offset), end);
      appendExtent(extents, { offset, length: dataStart - offset, kind: 'hole' });
      if (dataStart === end) break;
      const dataEnd = Math.min(await this.seekHole(dataStart), end);
      appendExtent(extents, { offset: dataStart, length: dataEnd - dataStart, kind: 'data' });
      offset = dataEnd;
    }
    return extents;
  }

  async close(): Promise<void> {
    await this.attempt('close', () => this.file.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** True when the range reads as zeroes now, without any having been written. */
  private async punch(range: Range, how: 'punch' | 'zero'): Promise<boolean> {
    if (!this.canPunch) return false;
    try {
      await zeroRange(this.file.fd, how, range);
      return true;
    } catch (error) {
      const code = systemErrorCode(error);
      if (code === undefined || !CANNOT_PUNCH.includes(code)) throw storageError(error, 'zero', this.path);
      // EINVAL is about this range (a block device wants whole sectors); the others are about the file.
      if (code !== 'EINVAL' && how === 'punch') this.canPunch = false;
      return false;
    }
  }

  private async writeZeroes(range: Range): Promise<void> {
    for (let offset = range.offset; offset < endOf(range); offset += ZEROES.length) {
      const length = Math.min(ZEROES.length, endOf(range) - offset);
      await this.attempt('zero', () => this.file.write(ZEROES.subarray(0, length), offset));
    }
  }

  /** Block devices, and file systems without holes, answer EINVAL: everything is data. */
  private async seekData(offset: number): Promise<number> {
    try {
      return (await nextData(this.file.fd, offset)) ?? this.sizeBytes;
    } catch (error) {
      if (systemErrorCode(error) === 'EINVAL') return offset;
      throw storageError(error, 'find the extents of', this.path);
    }
  }

  private async seekHole(offset: number): Promise<number> {
    try {
      const found = (await nextHole(this.file.fd, offset)) ?? this.sizeBytes;
      return found > offset ? found : this.sizeBytes;
    } catch (error) {
      if (systemErrorCode(error) === 'EINVAL') return this.sizeBytes;
      throw storageError(error, 'find the extents of', this.path);
    }
  }

  private async attempt<T>(action: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storageError(error, action, this.path);
    }
  }
}
