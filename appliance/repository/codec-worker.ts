// SPDX-License-Identifier: Apache-2.0
import { createHmac, createSecretKey } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { setPriority } from 'node:os';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
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
  EncodedFrames,
  EncodeJob,
  ForgetJob,
  FrameProblem,
  FrameToDecode,
  FrameToVerify,
  HashJob,
  VerifyJob,
} from './codec-protocol.ts';
import { FRAME_KIND, MAX_CHUNK_BYTES } from './format.ts';
import { FrameCodec, type IdKeys } from './frame-codec.ts';
import { derivePackKey } from './keys.ts';

/** Open pack files and derived keys that a worker keeps; the one not used for the longest time goes first. */
const MAX_OPEN_PACKS = 64;
const WORKER_NICENESS = 5;
/** Answers that wait for each other at most. */
const MAX_REPLIES_PER_MESSAGE = 8;

const data = workerData as CodecWorkerData;
const arena = Buffer.from(data.arena);
const codec = new FrameCodec(data.zstdLevel);
const idKeys: IdKeys = { chunkId: createSecretKey(data.chunkIdKey), nodeId: createSecretKey(data.nodeIdKey) };
const zeroes = Buffer.alloc(MAX_CHUNK_BYTES);
const frameScratch = Buffer.alloc(FrameCodec.frameBound(MAX_CHUNK_BYTES));
/** For verifying: what is read in one piece, and plain contents that nobody wants. Made when first needed. */
let spanScratch = Buffer.alloc(0);
let plainScratch = Buffer.alloc(0);
const openPacks = new Map<string, number>();
const packKeys = new Map<string, Buffer>();

function hash(job: HashJob): void {
  const key = job.kind === FRAME_KIND.chunk ? idKeys.chunkId : idKeys.nodeId;
  const zero = zeroes.subarray(0, job.itemBytes);
  for (let i = 0; i < job.count; i++) {
    const at = job.at + i * job.itemBytes;
    const plain = arena.subarray(at, at + job.itemBytes);
    const idAt = job.idsAt + i * CONTENT_ID_BYTES;
    if (plain.equals(zero)) arena.fill(0, idAt, idAt + CONTENT_ID_BYTES);
    else createHmac('sha256', key).update(plain).digest().copy(arena, idAt);
  }
}

function encode(job: EncodeJob): EncodedFrames {
  const lengths: number[] = [];
  const checksums: number[] = [];
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
    lengths.push(length);
    checksums.push(crc32(arena.subarray(outAt, outAt + length)));
    outAt += length;
  }
  return { lengths, checksums };
}

function decode(job: DecodeJob): Pick<CodecReply, 'plainBytes' | 'problems'> {
  const plainBytes: number[] = [];
  const problems = eachFrame(job, job.frames, (frame, stored) => {
    const into = Buffer.from(job.target ?? data.arena, frame.outAt, job.outBytes);
    const keys = { ...idKeys, pack: packKey(job.packId), verify: job.verify };
    plainBytes.push(codec.decode(stored, keyBytes(frame.id as ContentKey), keys, into));
  });
  return { plainBytes, problems };
}

function verify(job: VerifyJob): FrameProblem[] {
  if (plainScratch.length === 0) plainScratch = Buffer.alloc(MAX_CHUNK_BYTES);
  return eachFrame(job, job.frames, (frame, stored) => {
    verifyFrame(job, frame, stored);
  });
}

/** Reads the frames and calls `use` with each; what fails there or in reading is told, and the others go on. */
function eachFrame<Frame extends Stored>(
  pack: PackOfJob,
  frames: readonly Frame[],
  use: (frame: Frame, stored: Buffer) => void,
): FrameProblem[] {
  const problems: FrameProblem[] = [];
  const span = frames.length === 1 ? undefined : readSpan(pack, frames);
  const start = frames[0]?.offset ?? 0;
  for (const [n, frame] of frames.entries()) {
    try {
      let stored = span?.subarray(frame.offset - start, frame.offset - start + frame.frameBytes);
      if (stored === undefined) {
        stored = frameScratch.subarray(0, frame.frameBytes);
        readExactly(pack, stored, frame.offset);
      }
      use(frame, stored);
    } catch (thrown) {
      const error = toError(thrown);
      const code = error instanceof ApplianceError ? error.code : undefined;
      problems.push({ frame: n, code, message: error.message });
    }
  }
  return problems;
}

function verifyFrame(job: VerifyJob, frame: FrameToVerify, stored: Buffer): void {
  if (frame.checksum !== undefined && crc32(stored) !== frame.checksum) {
    throw new ApplianceError('REPOSITORY_CORRUPT', 'the stored frame is not what the footer says');
  }
  const keys = { ...idKeys, pack: packKey(job.packId), verify: 'id' } as const;
  codec.decode(stored, keyBytes(frame.id as ContentKey), keys, plainScratch);
}

/** All frames in one read; undefined when that fails: then each is read alone, and the bad ones are told. */
function readSpan(pack: PackOfJob, frames: readonly Stored[]): Buffer | undefined {
  const start = frames[0]?.offset ?? 0;
  const last = frames.at(-1);
  const length = last === undefined ? 0 : last.offset + last.frameBytes - start;
  if (spanScratch.length < length) spanScratch = Buffer.alloc(length);
  const span = spanScratch.subarray(0, length);
  try {
    readExactly(pack, span, start);
    return span;
  } catch {
    return undefined;
  }
}

function forget(job: ForgetJob): void {
  for (const packId of job.packIds) {
    const fd = openPacks.get(packId);
    if (fd === undefined) continue;
    openPacks.delete(packId);
    closeSync(fd);
  }
}

function readExactly(job: PackOfJob, frame: Buffer, offset: number): void {
  try {
    const fd = openPack(job);
    let done = 0;
    while (done < frame.length) {
      const read = readSync(fd, frame, done, frame.length - done, offset + done);
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

type PackOfJob = Pick<DecodeJob, 'packId' | 'path'>;
type Stored = Pick<FrameToDecode, 'offset' | 'frameBytes'>;

function openPack(job: PackOfJob): number {
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

function packKey(packId: string): Buffer | undefined {
  if (!data.isEncrypted) return undefined;
  let key = packKeys.get(packId);
  if (key === undefined) {
    key = derivePackKey(Buffer.from(data.packRoot), parsePackId(packId));
    if (packKeys.size >= MAX_OPEN_PACKS) packKeys.clear();
    packKeys.set(packId, key);
  }
  return key;
}

function run(job: CodecJob): Omit<CodecReply, 'ticket'> {
  switch (job.op) {
    case 'hash':
      hash(job);
      return {};
    case 'encode':
      return { frames: encode(job) };
    case 'decode':
      return decode(job);
    case 'verify':
      return { problems: verify(job) };
    case 'forget':
      forget(job);
      return {};
  }
}

function answer({ ticket, job }: CodecRequest): CodecReply {
  try {
    return { ticket, ...run(job) };
  } catch (thrown) {
    const error = toError(thrown);
    return {
      ticket,
      error: { code: error instanceof ApplianceError ? error.code : undefined, message: error.message },
    };
  }
}

// On Linux this is the priority of this thread alone. The main thread, which answers everybody, comes first when both want
// the processor.
setPriority(WORKER_NICENESS);

const port = parentPort;
invariant(port !== null, 'the codec worker runs as a worker thread');
port.on('message', (first: readonly CodecRequest[]) => {
  let replies: CodecReply[] = [];
  const send = (): void => {
    if (replies.length > 0) port.postMessage(replies);
    replies = [];
  };
  // What has queued up meanwhile is taken in the same turn: a message costs as much as a tenth of a chunk.
  for (let requests: readonly CodecRequest[] | undefined = first; requests !== undefined; requests = nextRequests()) {
    for (const request of requests) {
      if (isToStop()) break;
      replies.push(answer(request));
      if (replies.length >= MAX_REPLIES_PER_MESSAGE) send();
    }
  }
  send();
  if (isToStop()) port.close();
});

function isToStop(): boolean {
  return Atomics.load(data.stop, 0) === 1;
}

function nextRequests(): readonly CodecRequest[] | undefined {
  return port === null ? undefined : (receiveMessageOnPort(port)?.message as readonly CodecRequest[] | undefined);
}
