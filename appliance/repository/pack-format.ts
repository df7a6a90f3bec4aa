// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { type ContentKey, keyAt, keyBytes } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import { invariant } from '../core/invariant.ts';
import {
  FORMAT_VERSION,
  FRAME_HEADER_BYTES,
  FRAME_KIND,
  type FrameKind,
  MAX_CHUNK_BYTES,
  MAX_PACK_BYTES,
  PACK_ENTRY_BYTES,
  PACK_HEADER_BYTES,
  PACK_MAGIC,
  PACK_TRAILER_BYTES,
  PACK_TRAILER_MAGIC,
} from './format.ts';

/** One line of a pack's footer: where a frame lies, and the checksum that finds a flipped bit without any key. */
export interface PackEntry {
  readonly id: ContentKey;
  readonly kind: FrameKind;
  /** Of the frame's first byte in the pack. */
  readonly offset: number;
  /** Header and payload. */
  readonly frameBytes: number;
  readonly plainBytes: number;
  /** CRC-32 of the stored frame. */
  readonly checksum: number;
}

/** A pack's header: 64 bytes. `docs/formats/repository.md`, "Pack". */
export function encodePackHeader(repositoryId: string, packId: PackId): Buffer {
  const header = Buffer.alloc(PACK_HEADER_BYTES);
  PACK_MAGIC.copy(header, 0);
  header.writeUInt32BE(FORMAT_VERSION, 8);
  header.write(repositoryId, 16, 16, 'hex');
  header.write(packId, 32, 16, 'hex');
  header.writeUInt32BE(crc32(header.subarray(0, 60)), 60);
  return header;
}

/** @throws ApplianceError REPOSITORY_CORRUPT when the header is not the expected pack's */
export function checkPackHeader(header: Buffer, repositoryId: string, packId: PackId): void {
  if (!header.equals(encodePackHeader(repositoryId, packId))) {
    throw new ApplianceError('REPOSITORY_CORRUPT', `the header of pack ${packId} is damaged`, {
      details: { pack: packId },
    });
  }
}

/** The footer of a pack: its entries, then the trailer. `footerOffset` is where it will lie in the pack. */
export function encodePackFooter(packId: PackId, entries: readonly PackEntry[], footerOffset: number): Buffer {
  const entriesBytes = entries.length * PACK_ENTRY_BYTES;
  const footer = Buffer.alloc(entriesBytes + PACK_TRAILER_BYTES);
  for (const [i, entry] of entries.entries()) {
    const at = i * PACK_ENTRY_BYTES;
    keyBytes(entry.id).copy(footer, at);
    footer.writeUInt32BE(entry.checksum, at + 32);
    footer.writeUInt32BE(entry.offset, at + 36);
    footer.writeUInt32BE(entry.frameBytes, at + 40);
    footer.writeUInt32BE(entry.plainBytes, at + 44);
    footer.writeUInt8(entry.kind, at + 48);
  }
  const trailer = footer.subarray(entriesBytes);
  PACK_TRAILER_MAGIC.copy(trailer, 0);
  trailer.writeUInt32BE(entries.length, 8);
  trailer.writeUInt32BE(footerOffset, 12);
  trailer.write(packId, 16, 16, 'hex');
  createHash('sha256').update(footer.subarray(0, entriesBytes)).digest().copy(trailer, 32);
  invariant(footerOffset + footer.length <= MAX_PACK_BYTES, 'a pack with its footer is at most MAX_PACK_BYTES long');
  return footer;
}

/** Bytes that a footer of `count` entries takes. */
export function packFooterBytes(count: number): number {
  return count * PACK_ENTRY_BYTES + PACK_TRAILER_BYTES;
}

/** What a trailer says about the footer in front of it. */
export interface PackTrailer {
  readonly count: number;
  readonly footerOffset: number;
  readonly entriesDigest: Buffer;
}

/** Decodes the last 64 bytes of a pack of `packBytes` bytes. @throws ApplianceError REPOSITORY_CORRUPT */
export function decodePackTrailer(trailer: Buffer, packId: PackId, packBytes: number): PackTrailer {
  const count = trailer.readUInt32BE(8);
  const footerOffset = trailer.readUInt32BE(12);
  const isWhole =
    trailer.length === PACK_TRAILER_BYTES &&
    trailer.subarray(0, 8).equals(PACK_TRAILER_MAGIC) &&
    trailer.toString('hex', 16, 32) === packId &&
    footerOffset >= PACK_HEADER_BYTES &&
    footerOffset + packFooterBytes(count) === packBytes;
  if (!isWhole) throw damaged(packId, 'has no valid trailer');
  return { count, footerOffset, entriesDigest: trailer.subarray(32, 64) };
}

/** Decodes the entries in front of a trailer, checking digest, order and bounds. @throws ApplianceError REPOSITORY_CORRUPT */
export function decodePackEntries(entries: Buffer, trailer: PackTrailer, packId: PackId): PackEntry[] {
  if (!createHash('sha256').update(entries).digest().equals(trailer.entriesDigest)) {
    throw damaged(packId, 'has a damaged footer');
  }
  const decoded: PackEntry[] = [];
  for (let at = 0; at < entries.length; at += PACK_ENTRY_BYTES) decoded.push(decodeEntry(entries, at, trailer, packId));
  return decoded;
}

function decodeEntry(entries: Buffer, at: number, trailer: PackTrailer, packId: PackId): PackEntry {
  const kind = entries.readUInt8(at + 48);
  const entry = {
    id: keyAt(entries, at),
    checksum: entries.readUInt32BE(at + 32),
    offset: entries.readUInt32BE(at + 36),
    frameBytes: entries.readUInt32BE(at + 40),
    plainBytes: entries.readUInt32BE(at + 44),
  };
  const isSound =
    entry.offset >= PACK_HEADER_BYTES &&
    entry.frameBytes > FRAME_HEADER_BYTES &&
    entry.offset + entry.frameBytes <= trailer.footerOffset &&
    entry.plainBytes > 0 &&
    entry.plainBytes <= MAX_CHUNK_BYTES;
  if (!isSound || (kind !== FRAME_KIND.chunk && kind !== FRAME_KIND.node))
    throw damaged(packId, 'lists an impossible frame');
  return { ...entry, kind };
}

function damaged(packId: PackId, what: string): ApplianceError {
  return new ApplianceError('REPOSITORY_CORRUPT', `pack ${packId} ${what}`, { details: { pack: packId } });
}
