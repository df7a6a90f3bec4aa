// SPDX-License-Identifier: Apache-2.0

import { setImmediate as turnOfEventLoop } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { keyAt } from '../core/content-id.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import { isPackId, type PackId } from '../core/ids.ts';
import type { PackInfo } from './chunk-index.ts';
import { FRAME_HEADER_BYTES, FRAME_MAGIC, PACK_HEADER_BYTES, PACK_TRAILER_BYTES } from './format.ts';
import { FRAME_ID_OFFSET, readFrameHeader } from './frame.ts';
import type { ObjectStore } from './object-store.ts';
import { checkPackHeader, decodePackEntries, decodePackTrailer, type PackEntry } from './pack-format.ts';
import { packKey } from './pack-writer.ts';

const MAGIC_BYTES: Buffer = Buffer.alloc(4);
MAGIC_BYTES.writeUInt32BE(FRAME_MAGIC);

/** Frames that are hashed before others may run. */
const FRAMES_PER_TURN = 32;

/** A pack's table of contents. */
export interface PackContents {
  readonly info: PackInfo;
  readonly entries: readonly PackEntry[];
  /** What is wrong with the pack's header, in words. Its frames can be used all the same: their keys tell where they belong. */
  readonly headerDamage: string | undefined;
  /** What is wrong with the footer; the table was then made from the frames. */
  readonly footerDamage: string | undefined;
}

/** The id of the pack that an object of `packs/` is; undefined for a name that no pack has. */
export function packIdOf(key: string): PackId | undefined {
  const [folder, prefix, name, ...rest] = key.split('/');
  const isPack = folder === 'packs' && name !== undefined && rest.length === 0 && isPackId(name);
  return isPack && prefix === name.slice(0, 2) ? name : undefined;
}

/**
 * Reads the table of contents of a pack from its footer, or, when that is damaged, from its frames. What is damaged is
 * said in the result; a pack without any readable frame has no entries.
 * @throws ApplianceError OBJECT_NOT_FOUND, IO_FAILED
 */
export async function readPackContents(
  store: ObjectStore,
  repositoryId: string,
  pack: { readonly packId: PackId; readonly packBytes: number },
): Promise<PackContents> {
  const header = await damageOf(() => checkHeader(store, repositoryId, pack));
  const footer = await damageOf(() => readFooter(store, pack.packId, pack.packBytes));
  const entries = footer.value ?? (await scanFrames(store, pack.packId, pack.packBytes));
  let plainBytes = 0;
  for (const entry of entries) plainBytes += entry.plainBytes;
  return {
    info: { packBytes: pack.packBytes, frames: entries.length, plainBytes },
    entries,
    headerDamage: header.damage,
    footerDamage: footer.damage,
  };
}

async function damageOf<T>(
  work: () => Promise<T>,
): Promise<{ readonly value?: T; readonly damage: string | undefined }> {
  try {
    return { value: await work(), damage: undefined };
  } catch (error) {
    if (!hasCode(error, 'REPOSITORY_CORRUPT')) throw error;
    return { damage: error.message };
  }
}

async function checkHeader(
  store: ObjectStore,
  repositoryId: string,
  pack: { readonly packId: PackId; readonly packBytes: number },
): Promise<void> {
  const header = await store.getRange(packKey(pack.packId), 0, Math.min(PACK_HEADER_BYTES, pack.packBytes));
  checkPackHeader(header, repositoryId, pack.packId);
}

async function readFooter(store: ObjectStore, packId: PackId, packBytes: number): Promise<PackEntry[]> {
  const key = packKey(packId);
  const trailerAt = packBytes - PACK_TRAILER_BYTES;
  if (trailerAt < PACK_HEADER_BYTES) {
    throw new ApplianceError('REPOSITORY_CORRUPT', `pack ${packId} is too short`, { details: { pack: packId } });
  }
  const trailer = decodePackTrailer(await store.getRange(key, trailerAt, PACK_TRAILER_BYTES), packId, packBytes);
  const entries = await store.getRange(key, trailer.footerOffset, trailerAt - trailer.footerOffset);
  return decodePackEntries(entries, trailer, packId);
}

/**
 * Every frame whose header is whole. Behind a damaged one the search goes on at the next magic; what is found inside of
 * something else by chance or malice has an id that nothing asks for, or fails to verify when it is read.
 */
async function scanFrames(store: ObjectStore, packId: PackId, packBytes: number): Promise<PackEntry[]> {
  const bytes = await store.getRange(packKey(packId), 0, packBytes);
  const entries: PackEntry[] = [];
  let at = PACK_HEADER_BYTES;
  let seen = 0;
  while (at !== -1 && at + FRAME_HEADER_BYTES <= bytes.length) {
    const entry = frameAt(bytes, at);
    seen += 1;
    if (seen % FRAMES_PER_TURN === 0) await turnOfEventLoop();
    if (entry === undefined) at = bytes.indexOf(MAGIC_BYTES, at + 1);
    else {
      entries.push(entry);
      at += entry.frameBytes;
    }
  }
  return entries;
}

function frameAt(bytes: Buffer, at: number): PackEntry | undefined {
  try {
    const header = readFrameHeader(bytes.subarray(at, at + FRAME_HEADER_BYTES));
    const frameBytes = FRAME_HEADER_BYTES + header.payloadBytes;
    if (at + frameBytes > bytes.length) return undefined;
    return {
      id: keyAt(bytes, at + FRAME_ID_OFFSET),
      kind: header.kind,
      offset: at,
      frameBytes,
      plainBytes: header.plainBytes,
      checksum: crc32(bytes.subarray(at, at + frameBytes)),
    };
  } catch (error) {
    if (hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) return undefined;
    throw error;
  }
}
