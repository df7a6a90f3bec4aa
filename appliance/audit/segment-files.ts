// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { makeDirectoryDurably, removeStaleTemporaries, writeDurably } from '../core/durable-file.ts';
import { type FileSystem, storageError } from '../core/file-system.ts';
import { readSmallFile } from '../core/small-file.ts';
import { damaged } from './segment.ts';

const NAME = /^segment-(\d{6,})\.jsonl(\.gz)?$/;
/** Of the plain text; a segment ends a little above its nominal size. */
const MAX_PLAIN_BYTES: number = 64 * 1024 * 1024;

interface SegmentFile {
  readonly number: number;
  readonly isArchived: boolean;
}

/** The files of an audit log: `segment-000001.jsonl`, and `.jsonl.gz` once it is closed and archived. */
export class SegmentFiles {
  readonly directory: string;
  readonly fileSystem: FileSystem;

  constructor(directory: string, fileSystem: FileSystem) {
    this.directory = directory;
    this.fileSystem = fileSystem;
  }

  /** Makes the directory, and ends what an archiving left that was interrupted. */
  async prepare(): Promise<void> {
    await makeDirectoryDurably(this.directory, this.fileSystem);
    await removeStaleTemporaries(this.directory, this.fileSystem);
    const files = await this.#files();
    for (const { number, isArchived } of files) {
      const hasBoth = isArchived && files.some((file) => file.number === number && !file.isArchived);
      if (hasBoth) await this.remove(number);
    }
  }

  /** Numbers of the segments, ascending. */
  async numbers(): Promise<readonly number[]> {
    return [...new Set((await this.#files()).map(({ number }) => number))].sort((a, b) => a - b);
  }

  path(number: number): string {
    return join(this.directory, nameOf(number));
  }

  /** The plain text of a segment, archived or not. @throws ApplianceError AUDIT_DAMAGED, IO_FAILED */
  async read(number: number): Promise<Buffer> {
    const plain = await readSmallFile(this.path(number), { maxBytes: MAX_PLAIN_BYTES, fileSystem: this.fileSystem });
    if (plain !== undefined) return plain;
    const path = `${this.path(number)}.gz`;
    const packed = await readSmallFile(path, { maxBytes: MAX_PLAIN_BYTES, fileSystem: this.fileSystem });
    if (packed === undefined) throw damaged(nameOf(number), 'is missing');
    try {
      return gunzipSync(packed, { maxOutputLength: MAX_PLAIN_BYTES });
    } catch (cause) {
      throw damaged(`${nameOf(number)}.gz`, 'cannot be unpacked', cause);
    }
  }

  /** Packs a closed segment. Interrupted, there are both files, or the plain one. */
  async archive(number: number): Promise<void> {
    const plain = await this.read(number);
    await writeDurably(`${this.path(number)}.gz`, gzipSync(plain), { fileSystem: this.fileSystem });
    await this.remove(number);
  }

  /** Removes the plain file. */
  async remove(number: number): Promise<void> {
    const path = this.path(number);
    try {
      await this.fileSystem.unlink(path);
      await this.fileSystem.syncDirectory(this.directory);
    } catch (error) {
      throw storageError(error, 'remove', path);
    }
  }

  async isArchived(number: number): Promise<boolean> {
    return (await this.fileSystem.stat(this.path(number))) === undefined;
  }

  /** Bytes of all segments on the disk. */
  async sizeBytes(): Promise<number> {
    const sizes = await Promise.all(
      (await this.#files()).map(async ({ number, isArchived }) => {
        const path = isArchived ? `${this.path(number)}.gz` : this.path(number);
        return (await this.fileSystem.stat(path))?.sizeBytes ?? 0;
      }),
    );
    return sizes.reduce((sum, size) => sum + size, 0);
  }

  async #files(): Promise<readonly SegmentFile[]> {
    try {
      const entries = await this.fileSystem.readDirectory(this.directory);
      return entries.flatMap(({ name }) => {
        const [, digits, packed] = NAME.exec(name) ?? [];
        return digits === undefined ? [] : [{ number: Number(digits), isArchived: packed !== undefined }];
      });
    } catch (error) {
      throw storageError(error, 'list', this.directory);
    }
  }
}

function nameOf(number: number): string {
  return `segment-${String(number).padStart(6, '0')}.jsonl`;
}
