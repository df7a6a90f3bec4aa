// SPDX-License-Identifier: Apache-2.0
import { createHmac, type KeyObject } from 'node:crypto';
import zstd from 'zstd-napi/binding.js';
import { AEAD_NONCE_BYTES, type Aead, type SealParameters } from '../core/aead.ts';
import { CONTENT_ID_BYTES } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import { fastestAead } from '../core/fastest-aead.ts';
import type { Verification } from './codec-protocol.ts';
import { FRAME_CIPHER, FRAME_CODEC, FRAME_HEADER_BYTES, FRAME_KIND, type FrameKind } from './format.ts';
import {
  FRAME_ID_OFFSET,
  finishFrameHeader,
  frameAdditionalData,
  frameTag,
  readFrameHeader,
  writeFrameHeader,
} from './frame.ts';

/** A content that zstd makes smaller by less than this is kept raw: reading it back is then cheaper. */
const MIN_GAIN_BYTES = 64;

/** Where a plain content goes: its frame's number in the pack, and the pack's key (undefined: not encrypted). */
export interface FrameSlot {
  readonly key: Buffer | undefined;
  readonly frameIndex: number;
  readonly kind: FrameKind;
}

/**
 * Turns plain contents into frames and back: zstd, then AES-256-GCM. Synchronous and stateful (it reuses its zstd
 * contexts and scratch memory): one per thread.
 */
export class FrameCodec {
  readonly #compressor = new zstd.CCtx();
  readonly #decompressor = new zstd.DCtx();
  readonly #aead: Aead = fastestAead();
  readonly #nonce = Buffer.alloc(AEAD_NONCE_BYTES);
  #scratch = Buffer.alloc(0);

  constructor(zstdLevel: number) {
    this.#compressor.setParameter(zstd.CParameter.compressionLevel, zstdLevel);
    this.#compressor.setParameter(zstd.CParameter.checksumFlag, 1);
  }

  /** Bytes that a frame of `plainBytes` may take at most. */
  static frameBound(plainBytes: number): number {
    return FRAME_HEADER_BYTES + plainBytes;
  }

  /**
   * Writes the frame of `plain` to `into` (at least `frameBound` bytes) and returns its length. The id must be the
   * content's.
   */
  encode(plain: Buffer, id: Buffer, slot: FrameSlot, into: Buffer): number {
    const scratch = this.#room(zstd.compressBound(plain.length));
    const compressedBytes = this.#compressor.compress2(scratch, plain);
    const isCompressed = compressedBytes + MIN_GAIN_BYTES <= plain.length;
    const payload = isCompressed ? scratch.subarray(0, compressedBytes) : plain;
    id.copy(into, FRAME_ID_OFFSET, 0, CONTENT_ID_BYTES);
    writeFrameHeader(into, {
      kind: slot.kind,
      codec: isCompressed ? FRAME_CODEC.zstd : FRAME_CODEC.raw,
      cipher: slot.key === undefined ? FRAME_CIPHER.none : FRAME_CIPHER.aes256gcm,
      plainBytes: plain.length,
      payloadBytes: payload.length,
      frameIndex: slot.frameIndex,
    });
    const stored = into.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + payload.length);
    if (slot.key === undefined) {
      payload.copy(stored);
      frameTag(into).fill(0);
    } else this.#aead.seal(this.#sealing(into, slot.key, slot.frameIndex), payload, stored);
    finishFrameHeader(into);
    return FRAME_HEADER_BYTES + payload.length;
  }

  /**
   * Decodes a whole frame into `into` (at least its plain length) and returns the plain length. Checked on every call:
   * the header, that the frame carries `expectedId`, the AEAD tag, which covers header and id, zstd's checksum, and, as
   * `Verification` says, the id of the plain content.
   * @throws ApplianceError REPOSITORY_CORRUPT; `into` then holds nothing to be used
   */
  decode(frame: Buffer, expectedId: Buffer, keys: DecodeKeys, into: Buffer): number {
    const header = readFrameHeader(frame);
    if (frame.length !== FRAME_HEADER_BYTES + header.payloadBytes) throw corrupt('a frame has the wrong length');
    const id = frame.subarray(FRAME_ID_OFFSET, FRAME_ID_OFFSET + CONTENT_ID_BYTES);
    if (!id.equals(expectedId)) throw corrupt('a frame carries another id than the index says');
    if (header.plainBytes > into.length) throw corrupt('a frame is larger than its place');
    const plain = into.subarray(0, header.plainBytes);
    const isRaw = header.codec === FRAME_CODEC.raw;
    if (isRaw && header.payloadBytes !== header.plainBytes) throw corrupt('a raw frame has two different lengths');
    let payload = frame.subarray(FRAME_HEADER_BYTES);
    if (header.cipher !== FRAME_CIPHER.none) {
      const opened = isRaw ? plain : this.#room(header.payloadBytes);
      this.#open(frame, keys.pack, header.frameIndex, opened);
      payload = opened;
    } else if (isRaw) payload.copy(plain);
    if (!isRaw) this.#unpack(payload, plain);
    if (keys.verify === 'seal' && header.cipher !== FRAME_CIPHER.none) return header.plainBytes;
    const idKey = header.kind === FRAME_KIND.chunk ? keys.chunkId : keys.nodeId;
    const actual = createHmac('sha256', idKey).update(plain).digest();
    if (!actual.equals(expectedId)) throw corrupt('a content does not match its id');
    return header.plainBytes;
  }

  #open(frame: Buffer, key: Buffer | undefined, frameIndex: number, into: Buffer): void {
    if (key === undefined) throw corrupt('an encrypted frame in a repository without encryption');
    if (!this.#aead.open(this.#sealing(frame, key, frameIndex), frame.subarray(FRAME_HEADER_BYTES), into)) {
      throw corrupt('the authentication tag of a frame is wrong');
    }
  }

  #unpack(payload: Buffer, into: Buffer): void {
    let length: number;
    try {
      length = this.#decompressor.decompress(into, payload);
    } catch (cause) {
      throw corrupt('a frame cannot be decompressed', cause);
    }
    if (length !== into.length) throw corrupt('a frame is shorter than its header says');
  }

  /** The nonce is the frame's number, unique under the pack's key. */
  #sealing(frame: Buffer, key: Buffer, frameIndex: number): SealParameters {
    this.#nonce.writeUInt32BE(frameIndex, AEAD_NONCE_BYTES - 4);
    return { key, nonce: this.#nonce, additionalData: frameAdditionalData(frame), tag: frameTag(frame) };
  }

  /** Scratch memory of that many bytes, until the next call. */
  #room(bytes: number): Buffer {
    if (this.#scratch.length < bytes) this.#scratch = Buffer.alloc(bytes);
    return this.#scratch.subarray(0, bytes);
  }
}

/** The keys of a decode, and how its result is to be verified. `pack` is undefined without encryption. */
export interface DecodeKeys extends IdKeys {
  readonly pack: Buffer | undefined;
  readonly verify: Verification;
}

/** The keys under which contents are named, by kind. */
export interface IdKeys {
  readonly chunkId: KeyObject;
  readonly nodeId: KeyObject;
}

function corrupt(message: string, cause?: unknown): ApplianceError {
  return new ApplianceError('REPOSITORY_CORRUPT', message, { cause });
}
