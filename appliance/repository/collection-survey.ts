// SPDX-License-Identifier: Apache-2.0
import { type ContentKey, keyBytes } from '../core/content-id.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { ChunkLocation, Damage, ManagedIndex, PackInfo } from './chunk-index.ts';
import { PACK_ENTRY_BYTES } from './format.ts';
import type { IdSet } from './id-set.ts';
import type { PackEntry } from './pack-format.ts';
import { type PackContents, readPackContents } from './pack-reader.ts';
import type { Repository } from './repository.ts';

/** What the mark has reached. */
export interface Marked {
  readonly nodes: IdSet;
  readonly chunks: IdSet;
}

/** One pack, seen with the marks. */
export interface SurveyedPack {
  readonly packId: PackId;
  readonly packBytes: number;
  /** As the index has it. */
  readonly frames: number;
  readonly liveFrames: number;
  /** Bytes of live frames with their footer entries. */
  readonly liveBytes: number;
  /** The same of all others. */
  readonly deadBytes: number;
  /** Why the pack is left alone whatever it holds; undefined for a sound one. */
  readonly untouchable: string | undefined;
}

/** A pack's frames, divided. */
export interface DividedPack {
  readonly live: readonly PackEntry[];
  readonly dead: readonly PackEntry[];
  readonly untouchable: string | undefined;
}

/**
 * Divides the frames of a pack: live is what was marked and is read from just this place. A content that lies in two
 * packs is live where the index has it.
 * @throws ApplianceError IO_FAILED, OBJECT_NOT_FOUND, CATALOG_DAMAGED
 */
export async function dividePack(
  repository: Repository,
  index: ManagedIndex,
  pack: { readonly packId: PackId; readonly packBytes: number; readonly frames: number },
  marked: Marked,
): Promise<DividedPack> {
  const contents = await readPackContents(repository.store, repository.config.id, pack);
  const wanted = contents.entries.filter(({ id }) => isMarked(marked, id));
  const places = await index.findMany(wanted.map(({ id }) => id));
  const here = new Set(wanted.filter((entry, n) => isAt(places[n], pack.packId, entry)));
  const damages = index.damages();
  const isKept = wanted.some(({ id }) => isDamagedHere(damages.get(id), pack.packId));
  return {
    live: contents.entries.filter((entry) => here.has(entry)),
    dead: contents.entries.filter((entry) => !here.has(entry)),
    untouchable: untouchableBecause(contents, pack.frames, isKept),
  };
}

/** Surveys all packs before anything is deleted: what cannot be read ends the collection. */
export async function surveyPacks(
  repository: Repository,
  index: ManagedIndex,
  packs: ReadonlyMap<PackId, PackInfo>,
  survey: { readonly marked: Marked; readonly signal: AbortSignal | undefined; readonly onPack: () => Promise<void> },
): Promise<SurveyedPack[]> {
  const surveyed: SurveyedPack[] = [];
  for (const [packId, { packBytes, frames }] of packs) {
    if (survey.signal?.aborted === true) throw new ApplianceError('ABORTED', 'the collection was interrupted');
    const { live, dead, untouchable } = await dividePack(
      repository,
      index,
      { packId, packBytes, frames },
      survey.marked,
    );
    const [liveBytes, deadBytes] = [sizeOf(live), sizeOf(dead)];
    surveyed.push({ packId, packBytes, frames, liveFrames: live.length, liveBytes, deadBytes, untouchable });
    await survey.onPack();
  }
  return surveyed;
}

/** A lost footer does no harm while the frames themselves still tell of every frame that the index knows of. */
function untouchableBecause(contents: PackContents, knownFrames: number, isKept: boolean): string | undefined {
  if (contents.footerDamage !== undefined && contents.entries.length !== knownFrames) return contents.footerDamage;
  return isKept ? 'it holds the only, damaged, copy of something that is needed' : undefined;
}

function isMarked({ nodes, chunks }: Marked, id: ContentKey): boolean {
  const bytes = keyBytes(id);
  return chunks.has(bytes) || nodes.has(bytes);
}

function isAt(place: ChunkLocation | undefined, packId: PackId, entry: PackEntry): boolean {
  return place !== undefined && place.packId === packId && place.offset === entry.offset;
}

function isDamagedHere(damage: Damage | undefined, packId: PackId): boolean {
  return damage !== undefined && damage.packId === packId;
}

function sizeOf(entries: readonly PackEntry[]): number {
  return entries.reduce((sum, entry) => sum + entry.frameBytes + PACK_ENTRY_BYTES, 0);
}
