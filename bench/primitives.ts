// SPDX-License-Identifier: Apache-2.0
import { createCipheriv, createDecipheriv, createHmac, createSecretKey, hash, randomBytes } from 'node:crypto';
import { open } from 'node:fs/promises';
import zstd from 'zstd-napi/binding.js';
import { walkExtents } from '../appliance/block/extent-walk.ts';
import { openFileDevice } from '../appliance/block/file-device.ts';
import { systemClock } from '../appliance/core/clock.ts';
import { newPackId } from '../appliance/core/ids.ts';
import { derivePackKey } from '../appliance/repository/keys.ts';
import { diskInput } from './disk-input.ts';
import { parseOptions, USAGE } from './options.ts';
import { median } from './statistics.ts';
import { Workspace } from './workspace.ts';

/*
 * What each step costs for one chunk of 64 KiB, on one core, with chunks of the benchmark's disk:
 *
 *   sh scripts/run bench/primitives.ts [--quick | --size GIB]
 *
 * docs/decisions/0007-verification.md and 0006-chunk-size.md quote it.
 */

const CHUNK_BYTES: number = 64 * 1024;
const CHUNKS = 2000;
const ROUNDS = 5;
const LEVELS = [1, 2, 3, 6] as const;

interface Figure {
  readonly name: string;
  readonly microseconds: number[];
  readonly note: string;
}

class Stopwatch {
  readonly figures = new Map<string, Figure>();

  /** Runs `step` for every chunk and notes the mean. */
  measure(name: string, count: number, step: (chunk: number) => void, note = ''): void {
    const began = systemClock.elapsedMs();
    for (let chunk = 0; chunk < count; chunk++) step(chunk);
    const microseconds = ((systemClock.elapsedMs() - began) * 1000) / count;
    const figure = this.figures.get(name) ?? { name, microseconds: [], note };
    figure.microseconds.push(microseconds);
    this.figures.set(name, figure);
  }
}

/** Chunks that are spread over the data of the disk, in memory that threads share, as in the appliance. */
async function sampleChunks(path: string): Promise<Buffer[]> {
  await using device = await openFileDevice(path, 'read-only');
  const offsets: number[] = [];
  for await (const extent of walkExtents(device, { offset: 0, length: device.sizeBytes })) {
    const end = extent.offset + extent.length;
    const first = Math.ceil(extent.offset / CHUNK_BYTES) * CHUNK_BYTES;
    if (extent.kind !== 'data') continue;
    for (let at = first; at + CHUNK_BYTES <= end; at += CHUNK_BYTES) offsets.push(at);
  }
  const count = Math.min(CHUNKS, offsets.length);
  const arena = Buffer.from(new SharedArrayBuffer(count * CHUNK_BYTES));
  const file = await open(path, 'r');
  try {
    for (let n = 0; n < count; n++) {
      const offset = offsets[Math.floor((n * offsets.length) / count)] ?? 0;
      await file.read(arena, n * CHUNK_BYTES, CHUNK_BYTES, offset);
    }
  } finally {
    await file.close();
  }
  return Array.from({ length: count }, (_, n) => arena.subarray(n * CHUNK_BYTES, (n + 1) * CHUNK_BYTES));
}

function measureAll(chunks: readonly Buffer[], watch: Stopwatch): void {
  const count = chunks.length;
  const at = (n: number): Buffer => chunks[n] ?? Buffer.alloc(0);
  const key = createSecretKey(randomBytes(32));
  const nonce = Buffer.alloc(12);
  const header = Buffer.alloc(56);
  const zeroes = Buffer.alloc(CHUNK_BYTES);
  watch.measure('zero check', count, (n) => at(n).equals(zeroes));
  watch.measure('HMAC-SHA-256 (id)', count, (n) => createHmac('sha256', key).update(at(n)).digest());
  watch.measure('SHA-256', count, (n) => hash('sha256', at(n), 'buffer'));
  const out = Buffer.alloc(zstd.compressBound(CHUNK_BYTES));
  for (const level of LEVELS) {
    const compressor = new zstd.CCtx();
    compressor.setParameter(zstd.CParameter.compressionLevel, level);
    compressor.setParameter(zstd.CParameter.checksumFlag, 1);
    let stored = 0;
    for (let n = 0; n < count; n++) stored += Math.min(CHUNK_BYTES, compressor.compress2(out, at(n)));
    const note = `ratio ${((count * CHUNK_BYTES) / stored).toFixed(2)}`;
    watch.measure(`zstd level ${level}`, count, (n) => compressor.compress2(out, at(n)), note);
  }
  const compressed = compressAll(chunks);
  const mean = compressed.reduce((sum, { length }) => sum + length, 0) / count;
  const payload = (n: number): Buffer => compressed[n] ?? Buffer.alloc(0);
  const of = `${(mean / 1024).toFixed(1)} KiB stored`;
  const decompressor = new zstd.DCtx();
  const plain = Buffer.alloc(CHUNK_BYTES);
  // What does not get smaller is stored as it is.
  const unpack = (stored: Buffer): void => {
    if (stored.length === CHUNK_BYTES) stored.copy(plain);
    else decompressor.decompress(plain, stored);
  };
  watch.measure('decompress, with checksum', count, (n) => unpack(payload(n)));
  const sealed: { readonly bytes: Buffer; readonly tag: Buffer }[] = [];
  const seal = (n: number): { readonly bytes: Buffer; readonly tag: Buffer } => {
    const cipher = createCipheriv('aes-256-gcm', key, nonce);
    cipher.setAAD(header);
    const bytes = cipher.update(payload(n));
    cipher.final();
    return { bytes, tag: cipher.getAuthTag() };
  };
  for (let n = 0; n < count; n++) sealed.push(seal(n));
  watch.measure('AES-256-GCM encrypt', count, seal, of);
  watch.measure('AES-256-GCM decrypt', count, (n) => {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce);
    decipher.setAAD(header);
    const one = sealed[n];
    if (one === undefined) return;
    decipher.setAuthTag(one.tag);
    decipher.update(one.bytes);
    decipher.final();
  });
  watch.measure('SHA-256 of the stored frame', count, (n) => hash('sha256', payload(n), 'buffer'), of);
  const root = randomBytes(32);
  watch.measure('HKDF of a pack key', 200, () => derivePackKey(root, newPackId()), 'once per pack');
}

function compressAll(chunks: readonly Buffer[]): Buffer[] {
  const compressor = new zstd.CCtx();
  compressor.setParameter(zstd.CParameter.compressionLevel, 2);
  compressor.setParameter(zstd.CParameter.checksumFlag, 1);
  const out = Buffer.alloc(zstd.compressBound(CHUNK_BYTES));
  return chunks.map((chunk) => {
    const length = compressor.compress2(out, chunk);
    return Buffer.from(length < CHUNK_BYTES ? out.subarray(0, length) : chunk);
  });
}

const options = parseOptions(process.argv.slice(2));
if (options === 'help') process.stdout.write(USAGE);
else {
  await using workspace = await Workspace.open();
  const input = await diskInput(workspace.inputDirectory, options.diskBytes, (sentence) => {
    process.stderr.write(`input: ${sentence}\n`);
  });
  const chunks = await sampleChunks(input.path);
  const watch = new Stopwatch();
  for (let round = 0; round < ROUNDS; round++) measureAll(chunks, watch);
  process.stdout.write(`${chunks.length} chunks of 64 KiB, ${ROUNDS} rounds, one core\n\n`);
  process.stdout.write('| step | µs per chunk, median (smallest) | MiB/s | |\n| --- | --- | --- | --- |\n');
  for (const { name, microseconds, note } of watch.figures.values()) {
    const middle = median(microseconds);
    const rate = (CHUNK_BYTES / 2 ** 20 / middle) * 1e6;
    const smallest = Math.min(...microseconds).toFixed(1);
    process.stdout.write(`| ${name} | ${middle.toFixed(1)} (${smallest}) | ${rate.toFixed(0)} | ${note} |\n`);
  }
}
