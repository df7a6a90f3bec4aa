// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import { ApplianceError, hasCode } from '../core/errors.ts';
import type { PackId, PointId } from '../core/ids.ts';
import type { ManifestRef } from '../repository/manifest-store.ts';
import type { PackEntry } from '../repository/pack-format.ts';
import { type PackContents, packIdOf, readPackContents } from '../repository/pack-reader.ts';
import type { Repository } from '../repository/repository.ts';
import { CATALOG_VERSION, type Catalog, FORMAT_NOTE } from './catalog.ts';

const IDENTITY = 'repository';

/** Something in the repository that could not be used, and why. */
export interface DamagedObject {
  /** The object's key. */
  readonly object: string;
  readonly message: string;
}

/** What `reconcile` found and did. Empty lists and zero where catalog and repository agreed. */
export interface ReconcileReport {
  /** Packs whose frames were made known. */
  readonly indexedPacks: readonly PackId[];
  /** Packs that the catalog knew and that are gone, or were of another size (those were read anew). */
  readonly forgottenPacks: readonly PackId[];
  /** Contents that lay in forgotten packs and were found nowhere else. */
  readonly missingContents: number;
  readonly listedPoints: readonly PointId[];
  /** Points taken off the list because they had been deleted. */
  readonly unlistedPoints: readonly PointId[];
  /** Points taken off the list because their manifest disappeared; their contents are kept. */
  readonly lostPoints: readonly PointId[];
  readonly damaged: readonly DamagedObject[];
  /** Objects that do not belong into a repository. */
  readonly strays: readonly string[];
}

/** A second copy of an indexed content, for `rebuildCatalog` to choose from. */
export interface DuplicateContent {
  readonly packId: PackId;
  readonly entry: PackEntry;
}

export interface ReconcileOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (packsRead: number, packs: number) => void;
  readonly onDuplicate?: (duplicate: DuplicateContent) => void;
}

/**
 * Makes the catalog agree with the repository, which is right in every case of doubt. To be called whenever both were
 * opened, before anything else. When nothing differs it costs two listings; packs are compared by name and size only.
 * Whatever a crash or a lost part of LevelDB's log can leave is mended here (docs/formats/catalog.md).
 * @throws ApplianceError CATALOG_DAMAGED (also when the catalog is another repository's), IO_FAILED, NO_SPACE, ABORTED
 */
export async function reconcile(
  repository: Repository,
  catalog: Catalog,
  options: ReconcileOptions = {},
): Promise<ReconcileReport> {
  await checkIdentity(repository, catalog);
  const packs = await reconcilePacks(repository, catalog, options);
  const points = await reconcilePoints(repository, catalog);
  return {
    ...packs,
    ...points,
    damaged: [...packs.damaged, ...points.damaged],
    strays: [...packs.strays, ...points.strays],
  };
}

/** True when the report says that anything was done or is wrong. */
export function isNoteworthy(report: ReconcileReport): boolean {
  return Object.values(report).some((value: number | readonly unknown[]) =>
    typeof value === 'number' ? value > 0 : value.length > 0,
  );
}

async function checkIdentity(repository: Repository, catalog: Catalog): Promise<void> {
  const known = await catalog.note(IDENTITY);
  if (known === undefined) {
    await catalog.putNote(FORMAT_NOTE, CATALOG_VERSION);
    await catalog.putNote(IDENTITY, repository.config.id);
  } else if (known !== repository.config.id) {
    throw new ApplianceError('CATALOG_DAMAGED', 'the catalog belongs to another repository');
  }
}

type PacksReport = Pick<ReconcileReport, 'indexedPacks' | 'forgottenPacks' | 'missingContents' | 'damaged' | 'strays'>;

async function reconcilePacks(
  repository: Repository,
  catalog: Catalog,
  options: ReconcileOptions,
): Promise<PacksReport> {
  const stored = new Map<PackId, number>();
  const strays: string[] = [];
  for (const { key, sizeBytes } of await repository.store.list('packs/')) {
    const packId = packIdOf(key);
    if (packId === undefined) strays.push(key);
    else stored.set(packId, sizeBytes);
  }
  const known = await catalog.packs();
  const forgottenPacks = [...known].filter(([id, info]) => stored.get(id) !== info.packBytes).map(([id]) => id);
  for (const packId of forgottenPacks) await catalog.removePack(packId, []);
  // Entries in a pack that is not known are not answered; they are removed so that a pack of that name may come back.
  const gone = forgottenPacks.length === 0 ? [] : await catalog.purgeDangling();
  const unknown = [...stored].filter(([id, sizeBytes]) => known.get(id)?.packBytes !== sizeBytes);
  const { indexedPacks, damaged } = await indexPacks(repository, catalog, unknown, options);
  const missingContents = await countMissing(catalog, gone);
  return { indexedPacks, forgottenPacks, missingContents, damaged, strays };
}

/** Packs with a whole footer first: what a damaged pack lists is worth less. */
async function indexPacks(
  repository: Repository,
  catalog: Catalog,
  packs: readonly (readonly [PackId, number])[],
  options: ReconcileOptions,
): Promise<{ readonly indexedPacks: PackId[]; readonly damaged: DamagedObject[] }> {
  const indexedPacks: PackId[] = [];
  const damaged: DamagedObject[] = [];
  const late: (readonly [PackId, PackContents])[] = [];
  for (const [n, [packId, packBytes]] of packs.entries()) {
    if (options.signal?.aborted) throw new ApplianceError('ABORTED', 'indexing the packs was interrupted');
    const contents = await readPackContents(repository.store, repository.config.id, { packId, packBytes });
    for (const message of [contents.headerDamage, contents.footerDamage]) {
      if (message !== undefined) damaged.push({ object: `packs/${packId.slice(0, 2)}/${packId}`, message });
    }
    if (contents.footerDamage === undefined) await indexPack(catalog, packId, contents, options);
    else late.push([packId, contents]);
    indexedPacks.push(packId);
    options.onProgress?.(n + 1, packs.length);
  }
  for (const [packId, contents] of late) await indexPack(catalog, packId, contents, options);
  return { indexedPacks, damaged };
}

/** A content that is known already stays where it is. */
async function indexPack(
  catalog: Catalog,
  packId: PackId,
  { info, entries }: PackContents,
  { onDuplicate }: ReconcileOptions,
): Promise<void> {
  const places = await catalog.findMany(entries.map(({ id }) => id));
  const fresh: PackEntry[] = [];
  for (const [n, entry] of entries.entries()) {
    if (places[n] === undefined) fresh.push(entry);
    else onDuplicate?.({ packId, entry });
  }
  await catalog.addPack(packId, info, fresh);
}

async function countMissing(catalog: Catalog, ids: readonly ContentKey[]): Promise<number> {
  const places = await catalog.findMany(ids);
  return places.filter((place) => place === undefined).length;
}

type PointsReport = Pick<ReconcileReport, 'listedPoints' | 'unlistedPoints' | 'lostPoints' | 'damaged' | 'strays'>;

async function reconcilePoints({ manifests }: Repository, catalog: Catalog): Promise<PointsReport> {
  const { refs, strays } = await manifests.listWithStrays();
  const listed = new Map((await catalog.points()).map((point) => [point.id, point]));
  const damaged: DamagedObject[] = [];
  const listedPoints: PointId[] = [];
  for (const ref of refs) {
    if (listed.delete(ref.pointId)) continue;
    const problem = await listPoint(manifests, catalog, ref);
    if (problem === undefined) listedPoints.push(ref.pointId);
    else damaged.push(problem);
  }
  const unlistedPoints: PointId[] = [];
  const lostPoints: PointId[] = [];
  if (listed.size > 0) {
    const deleted = new Set((await manifests.listDeletedCopies()).map(({ pointId }) => pointId));
    for (const point of listed.values()) {
      if (deleted.has(point.id)) {
        await catalog.deletePoint(point.id);
        unlistedPoints.push(point.id);
      } else {
        await catalog.losePoint(point);
        lostPoints.push(point.id);
      }
    }
  }
  return { listedPoints, unlistedPoints, lostPoints, damaged, strays };
}

async function listPoint(
  manifests: Repository['manifests'],
  catalog: Catalog,
  ref: ManifestRef,
): Promise<DamagedObject | undefined> {
  try {
    await catalog.putPoint(await manifests.get(ref));
    return undefined;
  } catch (error) {
    if (!hasCode(error, 'REPOSITORY_CORRUPT', 'REPOSITORY_FORMAT')) throw error;
    return { object: `points/${ref.machineId}/${ref.pointId}.json`, message: error.message };
  }
}
