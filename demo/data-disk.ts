// SPDX-License-Identifier: Apache-2.0
import { constants, type Dirent } from 'node:fs';
import { access, copyFile, mkdir, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { systemErrorCode } from '../appliance/core/errors.ts';
import { expectChild } from './child.ts';

export interface DataDiskRequest {
  /** Of the qcow2 file; what is needed on the way lies beside it and goes away. */
  readonly path: string;
  readonly sizeBytes: number;
  /** How much of this machine's own programs and libraries to put on it. */
  readonly dataBytes: number;
  readonly signal: AbortSignal;
}

export interface DataDisk {
  readonly files: number;
  readonly dataBytes: number;
}

/** Where the files come from, each with an equal share: content as on any server. */
const SOURCES = ['/usr/bin', '/usr/lib', '/usr/share'] as const;
/** Building the disk should take a moment only: no thousands of tiny files. */
const MIN_FILE_BYTES = 16 * 1024;
const MAX_FILE_BYTES = 16 * 1024 * 1024;
const COPIES_AT_ONCE = 8;

/** A qcow2 disk with an ext4 file system: `usr/…` with files of this machine. The same machine gives the same content. */
export async function buildDataDisk(request: DataDiskRequest): Promise<DataDisk> {
  const content = `${request.path}.content`;
  const raw = `${request.path}.raw`;
  const { signal } = request;
  try {
    const files = await chooseFiles(request.dataBytes, signal);
    await copyAll(files, content, signal);
    await writeFile(raw, '');
    await truncate(raw, request.sizeBytes);
    // Without lazy initialisation, or the guest's kernel goes on writing for a while after the mount.
    const features = ['-E', 'lazy_itable_init=0,lazy_journal_init=0'];
    await expectChild(
      ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096', '-L', 'data', ...features, '-d', content, raw],
      {
        signal,
      },
    );
    await expectChild(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, request.path], { signal });
    return { files: files.length, dataBytes: files.reduce((sum, file) => sum + file.sizeBytes, 0) };
  } finally {
    await rm(content, { recursive: true, force: true });
    await rm(raw, { force: true });
  }
}

interface ChosenFile {
  readonly path: string;
  readonly sizeBytes: number;
}

async function chooseFiles(dataBytes: number, signal: AbortSignal): Promise<ChosenFile[]> {
  const chosen: ChosenFile[] = [];
  let total = 0;
  for (const [index, source] of SOURCES.entries()) {
    const limit = (dataBytes * (index + 1)) / SOURCES.length;
    for await (const file of readableFiles(source)) {
      signal.throwIfAborted();
      if (total + file.sizeBytes > limit) continue;
      chosen.push(file);
      total += file.sizeBytes;
      if (total > limit - MIN_FILE_BYTES) break;
    }
  }
  return chosen;
}

/** Regular files below a directory in the order of their names. What cannot be read is left out. */
async function* readableFiles(directory: string): AsyncGenerator<ChosenFile> {
  for (const entry of (await listed(directory)).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) yield* readableFiles(path);
    else if (entry.isFile()) {
      const sizeBytes = await readableSize(path);
      if (sizeBytes !== undefined && sizeBytes >= MIN_FILE_BYTES && sizeBytes <= MAX_FILE_BYTES)
        yield { path, sizeBytes };
    }
  }
}

async function listed(directory: string): Promise<Dirent[]> {
  try {
    return await readdir(directory, { withFileTypes: true });
  } catch (error) {
    if (['ENOENT', 'EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return [];
    throw error;
  }
}

async function readableSize(path: string): Promise<number | undefined> {
  try {
    await access(path, constants.R_OK);
    return (await stat(path)).size;
  } catch (error) {
    if (['ENOENT', 'EACCES', 'EPERM'].includes(systemErrorCode(error) ?? '')) return undefined;
    throw error;
  }
}

async function copyAll(files: readonly ChosenFile[], content: string, signal: AbortSignal): Promise<void> {
  for (const directory of new Set(files.map((file) => dirname(file.path)))) {
    await mkdir(join(content, directory), { recursive: true });
  }
  const queue = files.values();
  const copier = async (): Promise<void> => {
    for (const { path } of queue) {
      signal.throwIfAborted();
      await copyFile(path, join(content, path));
    }
  };
  // All of them end before the directory may be removed.
  const ends = await Promise.allSettled(Array.from({ length: COPIES_AT_ONCE }, copier));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
