// SPDX-License-Identifier: Apache-2.0
import type { ErrorCode } from '../core/error-codes.ts';
import type { FrameKind } from './format.ts';

/** What the codec pool and its workers say to each other. Offsets are into the shared arena. */

/** Hash `count` contents of `itemBytes` each, one after another from `at`; ids go to `idsAt`, 32 zero bytes for a zero chunk. */
export interface HashJob {
  readonly op: 'hash';
  readonly kind: FrameKind;
  readonly at: number;
  readonly itemBytes: number;
  readonly count: number;
  readonly idsAt: number;
}

/**
 * Encode the listed contents of a batch as frames, one after another from `outAt`. `items` are indexes into the batch;
 * the frame numbers are consecutive from `firstFrame`.
 */
export interface EncodeJob {
  readonly op: 'encode';
  readonly kind: FrameKind;
  readonly at: number;
  readonly itemBytes: number;
  readonly idsAt: number;
  readonly items: readonly number[];
  readonly packId: string;
  readonly firstFrame: number;
  readonly outAt: number;
}

/** The frames of an encode job, in its order: their lengths, and the CRC-32 of each as stored. */
export interface EncodedFrames {
  readonly lengths: readonly number[];
  readonly checksums: readonly number[];
}

/** A stored frame, and where in the arena or the job's target its content goes. The id is a latin1 key. */
export interface FrameToDecode {
  readonly offset: number;
  readonly frameBytes: number;
  readonly id: string;
  readonly outAt: number;
}

/**
 * Read frames of a pack file, which lie one behind the other, in one piece, and decode each to its place in the arena, or
 * in `target`. Each content has room for `outBytes`.
 */
export interface DecodeJob {
  readonly op: 'decode';
  readonly packId: string;
  readonly path: string;
  readonly frames: readonly FrameToDecode[];
  readonly outBytes: number;
  readonly target?: SharedArrayBuffer;
  readonly verify: Verification;
}

/** A stored frame to be verified; the id is a latin1 key. */
export interface FrameToVerify {
  readonly offset: number;
  readonly frameBytes: number;
  readonly id: string;
  /** CRC-32 of the stored frame, from the pack's footer; undefined when there is none. */
  readonly checksum: number | undefined;
}

/** Frames of one pack, in order of offset and close together: they are read in one piece and decoded, and nothing is kept. */
export interface VerifyJob {
  readonly op: 'verify';
  readonly packId: string;
  readonly path: string;
  readonly frames: readonly FrameToVerify[];
}

/** Closes what a worker has open of these packs, so that deleting them frees their space. */
export interface ForgetJob {
  readonly op: 'forget';
  readonly packIds: readonly string[];
}

/**
 * How a decoded content is proven to be the one that its id names. `id`: its HMAC is computed again. `seal`: the AEAD tag,
 * which covers the id and the stored bytes, and zstd's checksum of the plain bytes; where there is no tag, as `id`.
 * docs/decisions/0007-verification.md has the reasons and the cost.
 */
export type Verification = 'id' | 'seal';

export type CodecJob = HashJob | EncodeJob | DecodeJob | VerifyJob | ForgetJob;

/** A frame that could not be decoded. `frame` is its index in the job; IO_FAILED when it could not be read at all. */
export interface FrameProblem {
  readonly frame: number;
  readonly code: ErrorCode | undefined;
  readonly message: string;
}

export interface CodecRequest {
  readonly ticket: number;
  readonly job: CodecJob;
}

/**
 * `frames`: of an encode job. `plainBytes`: lengths of the contents of a decode job. `problems`: of a decode or verify job.
 */
export interface CodecReply {
  readonly ticket: number;
  readonly frames?: EncodedFrames;
  readonly plainBytes?: readonly number[];
  readonly problems?: readonly FrameProblem[];
  readonly error?: { readonly code: ErrorCode | undefined; readonly message: string };
}

export interface CodecWorkerData {
  /** One number, shared: 1 when the threads are to end after the job that they are at. */
  readonly stop: Int32Array<SharedArrayBuffer>;
  readonly arena: SharedArrayBuffer;
  readonly chunkIdKey: Uint8Array;
  readonly nodeIdKey: Uint8Array;
  readonly packRoot: Uint8Array;
  readonly isEncrypted: boolean;
  readonly zstdLevel: number;
}
