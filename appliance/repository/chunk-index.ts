// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import type { PackId } from '../core/ids.ts';
import type { FrameKind } from './format.ts';
import type { PackEntry } from './pack-format.ts';

/** Where the frame of a content lies. */
export interface ChunkLocation {
  readonly packId: PackId;
  readonly kind: FrameKind;
  readonly offset: number;
  readonly frameBytes: number;
  readonly plainBytes: number;
}

/** What the index knows of one pack. */
export interface PackInfo {
  readonly packBytes: number;
  readonly frames: number;
  /** Plain bytes of its frames together. */
  readonly plainBytes: number;
}

/**
 * The port to the index of contents: id to place. The catalog implements it; it can always be made again from the
 * packs. A content that is marked as damaged is not found, so that the next backup stores it anew.
 */
export interface ChunkIndex {
  /** One answer per key, in order; undefined where the content is not stored. */
  findMany(ids: readonly ContentKey[]): Promise<readonly (ChunkLocation | undefined)[]>;
  /** The same for one key, at once. */
  find(id: ContentKey): ChunkLocation | undefined;
  /** Makes a durable pack's frames known, all or none. A content that was known elsewhere moves here. */
  addPack(packId: PackId, info: PackInfo, entries: readonly PackEntry[]): Promise<void>;
  /** Forgets a pack and those of the given ids that the index places in it. */
  removePack(packId: PackId, ids: readonly ContentKey[]): Promise<void>;
}
