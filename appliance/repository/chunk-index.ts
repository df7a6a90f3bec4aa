// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import type { PackId } from '../core/ids.ts';
import type { FrameKind } from './format.ts';
import type { RecoveryPoint } from './manifest.ts';
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
 * packs. Only places in packs that the index knows are answered.
 */
export interface ChunkIndex {
  /**
   * One answer per key, in order; undefined where the content is not stored, or is known to be damaged: the next backup
   * then stores it anew.
   */
  findMany(ids: readonly ContentKey[]): Promise<readonly (ChunkLocation | undefined)[]>;
  /** Undefined when `find` answers at once; otherwise settles when it does: the index is being opened again. */
  ready(): Promise<void> | undefined;
  /** The place to read one key from, at once. For a damaged content without a good copy: the damaged place. */
  find(id: ContentKey): ChunkLocation | undefined;
  /**
   * Makes a durable pack's frames known, all or none; durable when settled. A content that was known elsewhere moves
   * here, and one that was marked as damaged elsewhere is whole again.
   */
  addPack(packId: PackId, info: PackInfo, entries: readonly PackEntry[]): Promise<void>;
  /** Forgets a pack and those of the given ids that the index places in it, all or none; durable when settled. */
  removePack(packId: PackId, ids: readonly ContentKey[]): Promise<void>;
}

/** A content whose stored frame did not verify. */
export interface Damage extends ChunkLocation {
  /** In words, for people. */
  readonly what: string;
}

/** What garbage collection and check need besides: the catalog implements it too. */
export interface ManagedIndex extends ChunkIndex {
  /** A copy of what the index knows of every pack. */
  packs(): Promise<Map<PackId, PackInfo>>;
  /** A copy of what is known to be damaged. */
  damages(): Map<ContentKey, Damage>;
  /** Remembers that the indexed frame of a content is damaged. Nothing happens when the content is not indexed. */
  markDamaged(id: ContentKey, what: string): Promise<void>;
  /** The frame that was marked verifies again: it is found as before. */
  clearDamage(id: ContentKey): Promise<void>;
  /** Removes every entry that lies in none of the known packs; settles with the ids. Reads the whole index. */
  purgeDangling(): Promise<ContentKey[]>;
  /** Every point that is listed. */
  points(): Promise<RecoveryPoint[]>;
  /** Lists a point, or corrects what is known of it. */
  putPoint(point: RecoveryPoint): Promise<void>;
  /** Points whose manifest disappeared without having been deleted: their contents are kept until the operator decides. */
  lostPoints(): Promise<RecoveryPoint[]>;
  /** A small value of the repository's upkeep; undefined when there is none. */
  note(name: string): Promise<unknown>;
  putNote(name: string, value: unknown): Promise<void>;
}
