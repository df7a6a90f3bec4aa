// SPDX-License-Identifier: Apache-2.0
import { crc32 } from 'node:zlib';
import { type ContentKey, keyBytes } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { ChunkLocation } from '../repository/chunk-index.ts';
import { FRAME_KIND } from '../repository/format.ts';

/*
 * Values of the catalog. LevelDB does not check the checksums of its tables when it reads them, so every value carries
 * a CRC-32 over its key and itself. `docs/formats/catalog.md` has the byte tables.
 */

/** Pack id (16), kind (1), zero (1), offset (4), frame bytes (4), plain bytes (4), CRC-32 (4). */
export const LOCATION_BYTES = 34;
const CRC_BYTES = 4;
const LOCATION_CRC_AT: number = LOCATION_BYTES - CRC_BYTES;

export function encodeLocation(id: ContentKey, at: ChunkLocation): Buffer {
  const value = Buffer.alloc(LOCATION_BYTES);
  value.write(at.packId, 0, 16, 'hex');
  value.writeUInt8(at.kind, 16);
  value.writeUInt32BE(at.offset, 18);
  value.writeUInt32BE(at.frameBytes, 22);
  value.writeUInt32BE(at.plainBytes, 26);
  value.writeUInt32BE(crc32(value.subarray(0, LOCATION_CRC_AT), crc32(keyBytes(id))), LOCATION_CRC_AT);
  return value;
}

/** @throws ApplianceError CATALOG_DAMAGED */
export function decodeLocation(id: ContentKey, value: Buffer): ChunkLocation {
  const isWhole =
    value.length === LOCATION_BYTES &&
    crc32(value.subarray(0, LOCATION_CRC_AT), crc32(keyBytes(id))) === value.readUInt32BE(LOCATION_CRC_AT);
  if (!isWhole) throw catalogDamaged('an entry of the chunk index is not what was written');
  return {
    packId: value.toString('hex', 0, 16) as PackId,
    kind: value.readUInt8(16) === FRAME_KIND.node ? FRAME_KIND.node : FRAME_KIND.chunk,
    offset: value.readUInt32BE(18),
    frameBytes: value.readUInt32BE(22),
    plainBytes: value.readUInt32BE(26),
  };
}

/** A JSON value behind the CRC-32 of key and text. */
export function encodeRecord(key: Buffer, record: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(record), 'utf8');
  const value = Buffer.allocUnsafe(CRC_BYTES + text.length);
  value.writeUInt32BE(crc32(text, crc32(key)), 0);
  text.copy(value, CRC_BYTES);
  return value;
}

/** @throws ApplianceError CATALOG_DAMAGED */
export function decodeRecord<T>(key: Buffer, value: Buffer): T {
  const text = value.subarray(CRC_BYTES);
  if (value.length < CRC_BYTES || crc32(text, crc32(key)) !== value.readUInt32BE(0)) {
    throw catalogDamaged(`the entry ${key.toString('latin1')} is not what was written`);
  }
  return JSON.parse(text.toString('utf8')) as T;
}

export function catalogDamaged(message: string, cause?: unknown): ApplianceError {
  return new ApplianceError('CATALOG_DAMAGED', `the catalog cannot be used: ${message}`, { cause });
}
