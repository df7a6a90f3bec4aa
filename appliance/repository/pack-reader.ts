// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { keyAt } from '../core/content-id.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { PackInfo } from './chunk-index.ts';
import { FRAME_HEADER_BYTES, PACK_HEADER_BYTES, PACK_TRAILER_BYTES } from './format.ts';
import { FRAME_ID_OFFSET, readFrameHeader } from './frame.ts';
import type { ObjectStore } from './object-store.ts';
import { checkPackHeader, decodePackEntries, decodePackTrailer, type PackEntry } from './pack-format.ts';
import { packKey } from './pack-writer.ts';

/** A pack's table of contents. */
export interface PackContents {
  readonly info: PackInfo;
  readonly entries: readonly PackEntry[];
  /** False when the footer was lost and the table was made from the frames. */
  readonly hasFooter: boolean;
}

/**
 * Reads the table of contents of a pack from its footer, or, when that is damaged, from its frames one after another.
 * @throws ApplianceError REPOSITORY_CORRUPT when neither can be read, OBJECT_NOT_FOUND, IO_FAILED
 */
export async function readPackContents(
  store: ObjectStore,
  repositoryId: string,
  pack: { readonly packId: PackId; readonly packBytes: number },
): Promise<PackContents> {
  const key = packKey(pack.packId);
  if (pack.packBytes < PACK_HEADER_BYTES + PACK_TRAILER_BYTES) {
    throw new ApplianceError('REPOSITORY_CORRUPT', `pack ${pack.packId} is too short`, {
      details: { pack: pack.packId },
    });
  }
  checkPackHeader(await store.getRange(key, 0, PACK_HEADER_BYTES), repositoryId, pack.packId);
  try {
    return summarize(pack.packBytes, await readFooter(store, pack.packId, pack.packBytes), true);
  } catch (error) {
    if (!hasCode(error, 'REPOSITORY_CORRUPT')) throw error;
    return summarize(pack.packBytes, await scanFrames(store, pack.packId, pack.packBytes), false);
  }
}

async function readFooter(store: ObjectStore, packId: PackId, packBytes: number): Promise<PackEntry[]> {
  const key = packKey(packId);
  const trailerAt = packBytes - PACK_TRAILER_BYTES;
  const trailer = decodePackTrailer(await store.getRange(key, trailerAt, PACK_TRAILER_BYTES), packId, packBytes);
  const entries = await store.getRange(key, trailer.footerOffset, trailerAt - trailer.footerOffset);
  return decodePackEntries(entries, trailer, packId);
}

/** Walks the frames up to the first thing that is none: the footer, or damage. */
async function scanFrames(store: ObjectStore, packId: PackId, packBytes: number): Promise<PackEntry[]> {
  const bytes = await store.getRange(packKey(packId), 0, packBytes);
  const entries: PackEntry[] = [];
  let at = PACK_HEADER_BYTES;
  while (at + FRAME_HEADER_BYTES <= bytes.length) {
    const entry = frameAt(bytes, at);
    if (entry === undefined) break;
    entries.push(entry);
    at += entry.frameBytes;
  }
  return entries;
}

function frameAt(bytes: Buffer, at: number): PackEntry | undefined {
  try {
    const header = readFrameHeader(bytes.subarray(at, at + FRAME_HEADER_BYTES));
    const frameBytes = FRAME_HEADER_BYTES + header.payloadBytes;
    if (at + frameBytes > bytes.length) return undefined;
    const digest = createHash('sha256')
      .update(bytes.subarray(at, at + frameBytes))
      .digest();
    return {
      id: keyAt(bytes, at + FRAME_ID_OFFSET),
      kind: header.kind,
      offset: at,
      frameBytes,
      plainBytes: header.plainBytes,
      digest,
    };
  } catch (error) {
    if (hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) return undefined;
    throw error;
  }
}

function summarize(packBytes: number, entries: readonly PackEntry[], hasFooter: boolean): PackContents {
  let plainBytes = 0;
  for (const entry of entries) plainBytes += entry.plainBytes;
  return { info: { packBytes, frames: entries.length, plainBytes }, entries, hasFooter };
}
