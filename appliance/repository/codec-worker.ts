// SPDX-License-Identifier: Apache-2.0
import { createHash, createHmac, createSecretKey, type KeyObject } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { CONTENT_ID_BYTES, type ContentKey, keyBytes } from '../core/content-id.ts';
import { ApplianceError, systemErrorCode, toError } from '../core/errors.ts';
import { parsePackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import type {
  CodecJob,
  CodecReply,
  CodecRequest,
  CodecWorkerData,
  DecodeJob,
  EncodeJob,
  HashJob,
} from './codec-protocol.ts';
import { FRAME_KIND, MAX_CHUNK_BYTES } from './format.ts';
import { FrameCodec, type IdKeys } from './frame-codec.ts';
import { derivePackKey } from './keys.ts';

/** Open pack files and derived keys that a worker keeps; the one not used for the longest time goes first. */
const MAX_OPEN_PACKS = 64;
const DIGEST_BYTES = 32;

const data = workerData as CodecWorkerData;
const arena = Buffer.from(data.arena);
const codec = new FrameCodec(data.zstdLevel);
const idKeys: IdKeys = { chunkId: createSecretKey(data.chunkIdKey), nodeId: createSecretKey(data.nodeIdKey) };
const zeroes = Buffer.alloc(MAX_CHUNK_BYTES);
const frameScratch = Buffer.alloc(FrameCodec.frameBound(MAX_CHUNK_BYTES));
const openPacks = new Map<string, number>();
const packKeys = new Map<string, KeyObject>();

function hash(job: HashJob): undefined {
  const key = job.kind === FRAME_KIND.chunk ? idKeys.chunkId : idKeys.nodeId;
  const zero = zeroes.subarray(0, job.itemBytes);
  for (let i = 0; i < job.count; i++) {
    const at = job.at + i * job.itemBytes;
    const plain = arena.subarray(at, at + job.itemBytes);
    const idAt = job.idsAt + i * CONTENT_ID_BYTES;
    if (plain.equals(zero)) arena.fill(0, idAt, idAt + CONTENT_ID_BYTES);
    else createHmac('sha256', key).update(plain).digest().copy(arena, idAt);
  }
  return undefined;
}

function encode(job: EncodeJob): number[] {
  const lengths: number[] = [];
  const key = packKey(job.packId);
  let outAt = job.outAt;
  for (const [n, item] of job.items.entries()) {
    const at = job.at + item * job.itemBytes;
    const idAt = job.idsAt + item * CONTENT_ID_BYTES;
    const length = codec.encode(
      arena.subarray(at, at + job.itemBytes),
      arena.subarray(idAt, idAt + CONTENT_ID_BYTES),
      { key, frameIndex: job.firstFrame + n, kind: job.kind },
      arena.subarray(outAt, outAt + FrameCodec.frameBound(job.itemBytes)),
    );
    createHash('sha256')
      .update(arena.subarray(outAt, outAt + length))
      .digest()
      .copy(arena, job.digestsAt + n * DIGEST_BYTES);
    lengths.push(length);
    outAt += length;
  }
  return lengths;
}

function decode(job: DecodeJob): number[] {
  const frame = frameScratch.subarray(0, job.frameBytes);
  readExactly(job, frame);
  const into = arena.subarray(job.outAt, job.outAt + job.outBytes);
  return [codec.decode(frame, keyBytes(job.id as ContentKey), { ...idKeys, pack: packKey(job.packId) }, into)];
}

function readExactly(job: DecodeJob, frame: Buffer): void {
  try {
    const fd = openPack(job);
    let done = 0;
    while (done < frame.length) {
      const read = readSync(fd, frame, done, frame.length - done, job.offset + done);
      if (read === 0)
        throw new ApplianceError('REPOSITORY_CORRUPT', `pack ${job.packId} is shorter than its index says`);
      done += read;
    }
  } catch (cause) {
    if (systemErrorCode(cause) === 'ENOENT') {
      throw new ApplianceError('OBJECT_NOT_FOUND', `pack ${job.packId} is missing`, { cause });
    }
    if (cause instanceof ApplianceError) throw cause;
    throw new ApplianceError('IO_FAILED', `pack ${job.packId} cannot be read: ${toError(cause).message}`, { cause });
  }
}

function openPack(job: DecodeJob): number {
  const known = openPacks.get(job.packId);
  if (known !== undefined) {
    openPacks.delete(job.packId);
    openPacks.set(job.packId, known);
    return known;
  }
  const fd = openSync(job.path, 'r');
  openPacks.set(job.packId, fd);
  const oldest = openPacks.entries().next().value;
  if (openPacks.size > MAX_OPEN_PACKS && oldest !== undefined) {
    openPacks.delete(oldest[0]);
    closeSync(oldest[1]);
  }
  return fd;
}

function packKey(packId: string): KeyObject | undefined {
  if (!data.isEncrypted) return undefined;
  let key = packKeys.get(packId);
  if (key === undefined) {
    key = derivePackKey(Buffer.from(data.packRoot), parsePackId(packId));
    if (packKeys.size >= MAX_OPEN_PACKS) packKeys.clear();
    packKeys.set(packId, key);
  }
  return key;
}

function run(job: CodecJob): number[] | undefined {
  switch (job.op) {
    case 'hash':
      return hash(job);
    case 'encode':
      return encode(job);
    case 'decode':
      return decode(job);
  }
}

function answer({ ticket, job }: CodecRequest): CodecReply {
  try {
    const lengths = run(job);
    return lengths === undefined ? { ticket } : { ticket, lengths };
  } catch (thrown) {
    const error = toError(thrown);
    return {
      ticket,
      error: { code: error instanceof ApplianceError ? error.code : undefined, message: error.message },
    };
  }
}

const port = parentPort;
invariant(port !== null, 'the codec worker runs as a worker thread');
port.on('message', (requests: readonly CodecRequest[]) => {
  port.postMessage(requests.map(answer));
});
