// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { walkExtents } from '../appliance/block/extent-walk.ts';
import { openFileDevice } from '../appliance/block/file-device.ts';
import { systemErrorCode } from '../appliance/core/errors.ts';
import { run } from '../lab/run.ts';
import { databasePages, logText, randomBytesOf } from './generated-content.ts';
import { ROOT } from './workspace.ts';

const MIB: number = 1024 ** 2;
/** Shares of the disk: with 8 GiB these are 4.3 GiB of files, 512 MiB random, 256 MiB of each generated kind. */
const FILES_SHARE = 0.54;
const RANDOM_SHARE = 1 / 16;
const GENERATED_SHARE = 1 / 32;
const LARGE_FILE_BYTES: number = 32 * MIB;
/** Programs, libraries and their data, as this machine has them. */
const FILE_ROOTS: readonly string[] = ['/usr', '/opt', join(ROOT, 'node_modules')];
const COPY_LANES = 8;
const COPY_BYTES: number = 256 * 1024;
/** Counted up when the content changes, so that an older input is not taken for this one. */
const VERSION = 3;

/** What the disk holds, in bytes. */
export interface DiskContents {
  readonly files: number;
  readonly fileCount: number;
  readonly logs: number;
  readonly database: number;
  readonly random: number;
}

/** The benchmark's disk: a raw image with an ext4 file system. */
export interface DiskInput {
  readonly path: string;
  readonly sizeBytes: number;
  /** Allocated in the image. */
  readonly dataBytes: number;
  readonly contents: DiskContents;
}

/** The input of that size, made unless it is there. Takes a minute or two for 8 GiB. */
export async function diskInput(
  directory: string,
  diskBytes: number,
  onStep: (sentence: string) => void,
): Promise<DiskInput> {
  const name = `disk-${diskBytes / MIB}-v${VERSION}`;
  const path = join(directory, `${name}.raw`);
  const factsPath = join(directory, `${name}.json`);
  const known = await readIfThere(factsPath);
  if (known !== undefined) return JSON.parse(known) as DiskInput;
  onStep('building the input disk (once)');
  const staging = join(directory, `${name}.staging`);
  await rm(staging, { recursive: true, force: true });
  await rm(path, { force: true });
  const contents = await fill(staging, diskBytes, onStep);
  onStep('making the file system');
  await makeFileSystem(staging, `${path}.new`, diskBytes);
  await rm(staging, { recursive: true });
  await rename(`${path}.new`, path);
  const input: DiskInput = { path, sizeBytes: diskBytes, dataBytes: (await stat(path)).blocks * 512, contents };
  await writeFile(factsPath, JSON.stringify(input));
  return input;
}

/**
 * A sparse disk with `dataBytes` of the input's data, in 64 pieces that are spread evenly over it. Disks of different
 * sizes get the same pieces.
 */
export async function sparseDisk(
  input: DiskInput,
  disk: { readonly path: string; readonly sizeBytes: number; readonly dataBytes: number },
): Promise<void> {
  const pieces = 64;
  const pieceBytes = Math.floor(disk.dataBytes / pieces / COPY_BYTES) * COPY_BYTES;
  const offsets = await dataOffsets(input.path, pieces, pieceBytes);
  const source = await open(input.path, 'r');
  const target = await open(disk.path, 'w');
  try {
    await target.truncate(disk.sizeBytes);
    const buffer = Buffer.alloc(COPY_BYTES);
    for (const [piece, from] of offsets.entries()) {
      const to = Math.floor(disk.sizeBytes / pieces / MIB) * MIB * piece;
      for (let done = 0; done < pieceBytes; done += COPY_BYTES) {
        await source.read(buffer, 0, COPY_BYTES, from + done);
        await target.write(buffer, 0, COPY_BYTES, to + done);
      }
    }
  } finally {
    await source.close();
    await target.close();
  }
}

/** Where in the disk pieces of data begin, spread over all of its data; holes are stepped over. */
async function dataOffsets(path: string, pieces: number, pieceBytes: number): Promise<number[]> {
  await using device = await openFileDevice(path, 'read-only');
  const starts: number[] = [];
  for await (const extent of walkExtents(device, { offset: 0, length: device.sizeBytes })) {
    if (extent.kind !== 'data') continue;
    for (let at = 0; at + pieceBytes <= extent.length; at += pieceBytes) starts.push(extent.offset + at);
  }
  return Array.from({ length: pieces }, (_, i) => starts[Math.floor((i * starts.length) / pieces)] ?? 0);
}

async function fill(staging: string, diskBytes: number, onStep: (sentence: string) => void): Promise<DiskContents> {
  await mkdir(staging, { recursive: true });
  const wanted = Math.floor(diskBytes * FILES_SHARE);
  onStep('copying programs and libraries of this machine');
  const { bytes: files, count: fileCount } = await copyFiles(join(staging, 'files'), wanted);
  // What this machine lacks in files is made up with generated data, half and half.
  const generated = Math.floor(diskBytes * GENERATED_SHARE) + Math.floor(Math.max(0, wanted - files) / 2);
  onStep('generating logs, database pages and random data');
  const logs = await generate(join(staging, 'log'), generated, logText);
  const database = await generate(join(staging, 'database'), generated, databasePages);
  const random = await generate(join(staging, 'random'), Math.floor(diskBytes * RANDOM_SHARE), randomBytesOf);
  return { files, fileCount, logs, database, random };
}

async function generate(
  directory: string,
  bytes: number,
  make: (seed: number, lengthBytes: number) => Buffer,
): Promise<number> {
  await mkdir(directory, { recursive: true });
  let written = 0;
  for (let number = 0; written < bytes; number++) {
    const length = Math.min(LARGE_FILE_BYTES, bytes - written);
    const file = createWriteStream(join(directory, `${String(number).padStart(4, '0')}.dat`));
    for (let at = 0; at < length; at += 4 * MIB) {
      file.write(make(number * 1000 + at / MIB + 1, Math.min(4 * MIB, length - at)));
    }
    await new Promise<void>((resolve, reject) => {
      file.on('error', reject);
      file.end(resolve);
    });
    written += length;
  }
  return written;
}

/** A sample of this machine's files, by the hash of their paths, until there are enough bytes. */
async function copyFiles(target: string, wantedBytes: number): Promise<{ bytes: number; count: number }> {
  const found = (await listFiles()).filter((file) => file.bytes <= wantedBytes / 8);
  const total = found.reduce((sum, file) => sum + file.bytes, 0);
  const limit = Math.min(1, (wantedBytes / Math.max(1, total)) * 1.1);
  const chosen: { path: string; bytes: number }[] = [];
  let bytes = 0;
  for (const file of found) {
    if (bytes >= wantedBytes) break;
    const draw = createHash('sha1').update(file.path).digest().readUInt32BE(0) / 2 ** 32;
    if (draw > limit) continue;
    chosen.push(file);
    bytes += file.bytes;
  }
  let next = 0;
  let copied = 0;
  const lane = async (): Promise<void> => {
    for (let file = chosen[next++]; file !== undefined; file = chosen[next++]) {
      const to = join(target, file.path);
      await mkdir(dirname(to), { recursive: true });
      try {
        await copyFile(file.path, to);
        copied += file.bytes;
      } catch (error) {
        // Files come and go, and not all can be read by everybody.
        if (!['ENOENT', 'EACCES'].includes(systemErrorCode(error) ?? '')) throw error;
      }
    }
  };
  await mkdir(target, { recursive: true });
  await Promise.all(Array.from({ length: COPY_LANES }, lane));
  return { bytes: copied, count: chosen.length };
}

/** Regular files beneath the roots in order of path; of hard links one. */
async function listFiles(): Promise<{ path: string; bytes: number }[]> {
  const files: { path: string; bytes: number }[] = [];
  const seen = new Set<string>();
  for (const root of FILE_ROOTS) {
    for (const path of (await filesBelow(root)).sort()) {
      const { size, dev, ino, nlink } = await stat(path);
      if (nlink > 1 && seen.has(`${dev}:${ino}`)) continue;
      seen.add(`${dev}:${ino}`);
      if (size > 0) files.push({ path, bytes: size });
    }
  }
  return files;
}

async function filesBelow(directory: string): Promise<string[]> {
  let entries: Awaited<ReturnType<typeof readEntries>>;
  try {
    entries = await readEntries(directory);
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(systemErrorCode(error) ?? '')) return [];
    throw error;
  }
  const files: string[] = [];
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isFile()) files.push(path);
    if (!entry.isDirectory()) continue;
    for (const below of await filesBelow(path)) files.push(below);
  }
  return files;
}

function readEntries(directory: string): Promise<{ name: string; isDirectory(): boolean; isFile(): boolean }[]> {
  return readdir(directory, { withFileTypes: true });
}

async function makeFileSystem(content: string, path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(sizeBytes);
  await file.close();
  const fixed = ['-U', '5eed5eed-0000-4000-8000-5eed5eed5eed', '-E', 'hash_seed=5eed5eed-0000-4000-8000-5eed5eed5eed'];
  const args = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-m', '0', '-i', '8192', ...fixed, '-d', content, path];
  await run('mke2fs', args, { timeoutMs: 20 * 60_000 });
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
