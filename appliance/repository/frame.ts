// SPDX-License-Identifier: Apache-2.0
import { crc32 } from 'node:zlib';
import { ApplianceError } from '../core/errors.ts';
import {
  FORMAT_VERSION,
  FRAME_AAD_BYTES,
  FRAME_CIPHER,
  FRAME_CODEC,
  FRAME_HEADER_BYTES,
  FRAME_KIND,
  FRAME_MAGIC,
  FRAME_TAG_BYTES,
  type FrameKind,
  MAX_CHUNK_BYTES,
} from './format.ts';

/** The header of a frame, decoded. `docs/formats/repository.md`, "Frame". */
export interface FrameHeader {
  readonly kind: FrameKind;
  readonly codec: number;
  readonly cipher: number;
  /** Bytes of the plain content. */
  readonly plainBytes: number;
  /** Bytes of the payload that follows the header. */
  readonly payloadBytes: number;
  /** The frame's number in its pack; the AEAD nonce is made from it. */
  readonly frameIndex: number;
}

const OFFSET = {
  kind: 5,
  codec: 6,
  cipher: 7,
  plain: 8,
  payload: 12,
  index: 16,
  reserved: 20,
  id: 24,
  tag: 56,
  crc: 72,
};
const TAIL_RESERVED = 76;

export const FRAME_ID_OFFSET = 24;

/** Writes everything of the header up to the tag (the id must be there already): this part is the AEAD's additional data. */
export function writeFrameHeader(into: Buffer, header: FrameHeader): void {
  into.writeUInt32BE(FRAME_MAGIC, 0);
  into.writeUInt8(FORMAT_VERSION, 4);
  into.writeUInt8(header.kind, OFFSET.kind);
  into.writeUInt8(header.codec, OFFSET.codec);
  into.writeUInt8(header.cipher, OFFSET.cipher);
  into.writeUInt32BE(header.plainBytes, OFFSET.plain);
  into.writeUInt32BE(header.payloadBytes, OFFSET.payload);
  into.writeUInt32BE(header.frameIndex, OFFSET.index);
  into.writeUInt32BE(0, OFFSET.reserved);
}

/** Puts the header's checksum when everything else of it is there, the tag included. */
export function finishFrameHeader(into: Buffer): void {
  into.writeUInt32BE(crc32(into.subarray(0, OFFSET.crc)), OFFSET.crc);
  into.writeUInt32BE(0, TAIL_RESERVED);
}

export function frameAdditionalData(frame: Buffer): Buffer {
  return frame.subarray(0, FRAME_AAD_BYTES);
}

export function frameTag(frame: Buffer): Buffer {
  return frame.subarray(OFFSET.tag, OFFSET.tag + FRAME_TAG_BYTES);
}

/**
 * Decodes and checks a header (magic, version, checksum, limits, reserved bytes zero). The content is not checked here.
 * @throws ApplianceError REPOSITORY_CORRUPT, or REPOSITORY_FORMAT for an unknown version
 */
export function readFrameHeader(frame: Buffer): FrameHeader {
  if (frame.length < FRAME_HEADER_BYTES) throw corrupt('a frame ends inside its header');
  if (frame.readUInt32BE(0) !== FRAME_MAGIC) throw corrupt('a frame does not begin with its magic');
  if (crc32(frame.subarray(0, OFFSET.crc)) !== frame.readUInt32BE(OFFSET.crc)) {
    throw corrupt('the checksum of a frame header is wrong');
  }
  const version = frame.readUInt8(4);
  if (version !== FORMAT_VERSION) {
    throw new ApplianceError(
      'REPOSITORY_FORMAT',
      `a frame has format version ${version}; this program knows ${FORMAT_VERSION}`,
    );
  }
  const kind = frame.readUInt8(OFFSET.kind);
  const codec = frame.readUInt8(OFFSET.codec);
  const cipher = frame.readUInt8(OFFSET.cipher);
  const plainBytes = frame.readUInt32BE(OFFSET.plain);
  const payloadBytes = frame.readUInt32BE(OFFSET.payload);
  if (kind !== FRAME_KIND.chunk && kind !== FRAME_KIND.node) throw corrupt(`a frame has the unknown kind ${kind}`);
  if (codec !== FRAME_CODEC.raw && codec !== FRAME_CODEC.zstd) throw corrupt(`a frame has the unknown codec ${codec}`);
  if (cipher !== FRAME_CIPHER.none && cipher !== FRAME_CIPHER.aes256gcm)
    throw corrupt(`a frame has the unknown cipher ${cipher}`);
  if (plainBytes === 0 || plainBytes > MAX_CHUNK_BYTES || payloadBytes === 0 || payloadBytes > plainBytes) {
    throw corrupt(`a frame has impossible lengths (${plainBytes} plain, ${payloadBytes} stored)`);
  }
  if (frame.readUInt32BE(OFFSET.reserved) !== 0 || frame.readUInt32BE(TAIL_RESERVED) !== 0) {
    throw corrupt('reserved bytes of a frame header are not zero');
  }
  return { kind, codec, cipher, plainBytes, payloadBytes, frameIndex: frame.readUInt32BE(OFFSET.index) };
}

function corrupt(message: string): ApplianceError {
  return new ApplianceError('REPOSITORY_CORRUPT', message);
}
