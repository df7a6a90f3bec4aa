// SPDX-License-Identifier: Apache-2.0

/** Sizes, magics and limits of the repository's format; `docs/formats/repository.md` has the byte tables. */

export const FORMAT_VERSION = 1;

export const KIB = 1024;
export const MIB: number = 1024 * KIB;

export const DEFAULT_CHUNK_BYTES: number = 64 * KIB;
export const MIN_CHUNK_BYTES: number = 64 * KIB;
export const MAX_CHUNK_BYTES: number = 4 * MIB;

/** Kinds of frames. A node lists ids; a chunk is opaque. */
export const FRAME_KIND = { chunk: 1, node: 2 } as const;
export type FrameKind = (typeof FRAME_KIND)[keyof typeof FRAME_KIND];

export const FRAME_CODEC = { raw: 0, zstd: 1 } as const;
export const FRAME_CIPHER = { none: 0, aes256gcm: 1 } as const;

export const FRAME_MAGIC = 0x55534652; // "USFR"
export const FRAME_HEADER_BYTES = 80;
/** Bytes of the header in front of the tag: the AEAD's additional data. */
export const FRAME_AAD_BYTES = 56;
export const FRAME_TAG_BYTES = 16;

export const PACK_MAGIC: Buffer = Buffer.from('USPACK\0\x01', 'latin1');
export const PACK_HEADER_BYTES = 64;
export const PACK_ENTRY_BYTES = 52;
export const PACK_TRAILER_MAGIC: Buffer = Buffer.from('USFOOT\0\x01', 'latin1');
export const PACK_TRAILER_BYTES = 64;
/** No pack grows beyond it, its footer included. */
export const MAX_PACK_BYTES: number = 128 * MIB;

/** Fan-out of the map's nodes: 2^6 ids each. */
export const NODE_FANOUT_BITS = 6;
export const NODE_FANOUT = 64;
/** Levels of every map, whatever the disk's size: 64^6 chunks of 64 KiB are 4 PiB. */
export const MAP_LEVELS = 6;
export const NODE_MAGIC = 0x55534e44; // "USND"
export const NODE_HEADER_BYTES = 16;
export const NODE_BYTES: number = NODE_HEADER_BYTES + NODE_FANOUT * 32;
