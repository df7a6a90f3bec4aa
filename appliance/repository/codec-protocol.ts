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
 * the frame numbers are consecutive from `firstFrame`. A SHA-256 of each frame goes to `digestsAt`.
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
  readonly digestsAt: number;
}

/** Read a frame of a pack file and decode it to `outAt`. The id is a latin1 key. */
export interface DecodeJob {
  readonly op: 'decode';
  readonly packId: string;
  readonly path: string;
  readonly offset: number;
  readonly frameBytes: number;
  readonly id: string;
  readonly outAt: number;
  readonly outBytes: number;
}

export type CodecJob = HashJob | EncodeJob | DecodeJob;

export interface CodecRequest {
  readonly ticket: number;
  readonly job: CodecJob;
}

/** `lengths`: frame lengths of an encode job, the plain length of a decode job. */
export interface CodecReply {
  readonly ticket: number;
  readonly lengths?: readonly number[];
  readonly error?: { readonly code: ErrorCode | undefined; readonly message: string };
}

export interface CodecWorkerData {
  readonly arena: SharedArrayBuffer;
  readonly chunkIdKey: Uint8Array;
  readonly nodeIdKey: Uint8Array;
  readonly packRoot: Uint8Array;
  readonly isEncrypted: boolean;
  readonly zstdLevel: number;
}
