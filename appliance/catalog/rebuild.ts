// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { writeDurably } from '../core/durable-file.ts';
import { ApplianceError, hasCode, systemErrorCode } from '../core/errors.ts';
import { storageError } from '../core/file-system.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Repository } from '../repository/repository.ts';
import { Catalog, type RecordPrefix } from './catalog.ts';
import { type DuplicateContent, type ReconcileOptions, type ReconcileReport, reconcile } from './reconcile.ts';

/** Prefixes whose records are nowhere but in the catalog; `meta/` is made anew. */
const KEPT: readonly RecordPrefix[] = ['session/', 'run/'];

const LOOK_PREFIX = 'looked-into-';
const MAX_LOOKS = 2;

export interface RebuildOptions extends ReconcileOptions {
  /** LevelDB's directory. Nobody may have it open. */
  readonly directory: string;
  /** Opens the repository over the new catalog. */
  readonly openRepository: (catalog: Catalog) => Repository | Promise<Repository>;
}

export interface RebuildReport extends ReconcileReport {
  /** Contents that lie in two packs, of which the first copy was damaged and the other is now used. */
  readonly replacedCopies: number;
  /** False when records that only the old catalog had (sessions, runs) could not be read from it. */
  readonly hasKeptRecords: boolean;
}

/** What a rebuild hands over; both belong to the caller. */
export interface RebuiltCatalog {
  readonly catalog: Catalog;
  readonly repository: Repository;
  readonly report: RebuildReport;
}

/**
 * Makes the catalog anew from packs and manifests, whatever state its directory is in, also when it is missing. The old
 * one is moved aside, what only it knew is copied where it can be read, and it is removed at the end. Interrupted at any
 * moment, the next rebuild completes the work, and `refuseUnfinishedRebuild` refuses everything else before that. Damaged
 * packs and manifests are in the report and stop nothing.
 * @throws ApplianceError LOCKED, IO_FAILED, NO_SPACE, ABORTED
 */
export async function rebuildCatalog(options: RebuildOptions): Promise<RebuiltCatalog> {
  await refuseIfLocked(options.directory);
  await moveAside(options.directory);
  await using scope = new AsyncDisposableStack();
  const catalog = scope.use(await Catalog.open(options.directory));
  const repository = scope.use(await options.openRepository(catalog));
  const duplicates: DuplicateContent[] = [];
  const done = await reconcile(repository, catalog, { ...options, onDuplicate: (one) => duplicates.push(one) });
  const hasKeptRecords = await copyKept(options.directory, catalog);
  const replacedCopies = await chooseCopies(repository, catalog, duplicates);
  await removeOld(options.directory);
  scope.move();
  return { catalog, repository, report: { ...done, replacedCopies, hasKeptRecords } };
}

/**
 * A rebuild that was interrupted may have left the only list of lost points, sessions and runs in the old catalog: until
 * it is completed, the new one must not be worked with. @throws ApplianceError CATALOG_DAMAGED, IO_FAILED
 */
export async function refuseUnfinishedRebuild(directory: string): Promise<void> {
  let old: string[];
  try {
    old = await oldDirectories(directory);
  } catch (error) {
    throw storageError(error, 'list', dirname(directory));
  }
  if (old.length === 0) return;
  throw new ApplianceError(
    'CATALOG_DAMAGED',
    `the catalog in ${directory} was being rebuilt when that was interrupted`,
    {
      details: { old },
      hint: 'Run `understudy catalog rebuild` again: it completes the work.',
    },
  );
}

/** A catalog that somebody uses must not be pulled away. One that cannot be opened for another reason is used by nobody. */
async function refuseIfLocked(directory: string): Promise<void> {
  try {
    await lookInto(directory, async () => (await Catalog.open(directory)).close());
  } catch (error) {
    if (!hasCode(error, 'CATALOG_DAMAGED', 'IO_FAILED')) throw error;
  }
}

function oldPrefix(directory: string): string {
  return `${basename(directory)}.old-`;
}

async function oldDirectories(directory: string): Promise<string[]> {
  const names = await readdir(dirname(directory));
  return names.filter((name) => name.startsWith(oldPrefix(directory))).map((name) => join(dirname(directory), name));
}

async function moveAside(directory: string): Promise<void> {
  const to = join(dirname(directory), `${oldPrefix(directory)}${randomBytes(4).toString('hex')}`);
  try {
    await rename(directory, to);
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw storageError(error, 'move aside', directory);
  }
}

async function removeOld(directory: string): Promise<void> {
  try {
    for (const old of await oldDirectories(directory)) await rm(old, { recursive: true, force: true });
  } catch (error) {
    throw storageError(error, 'remove', directory);
  }
}

/** False when an old catalog could not be read. */
async function copyKept(directory: string, to: Catalog): Promise<boolean> {
  let isComplete = true;
  for (const old of await oldDirectories(directory)) {
    try {
      const isRead = await lookInto(old, () => copyFrom(old, to));
      if (isRead === undefined) isComplete = false;
    } catch (error) {
      if (!hasCode(error, 'CATALOG_DAMAGED')) throw error;
      isComplete = false;
    }
  }
  return isComplete;
}

/**
 * Runs `look`, which reads a catalog that may be damaged. LevelDB may end the process then (its assertions are compiled
 * in), so each look is noted in the directory before, and the note removed after. After two that did not come to their
 * end the directory is left alone: undefined.
 */
async function lookInto<T>(directory: string, look: () => Promise<T>): Promise<T | undefined> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw storageError(error, 'list', directory);
  }
  const looks = names.filter((name) => name.startsWith(LOOK_PREFIX)).length;
  if (looks >= MAX_LOOKS) return undefined;
  const note = join(directory, `${LOOK_PREFIX}${looks + 1}`);
  await writeDurably(note, '');
  try {
    return await look();
  } finally {
    await rm(note, { force: true });
  }
}

async function copyFrom(old: string, to: Catalog): Promise<true> {
  await using from = await Catalog.open(old);
  for (const prefix of KEPT) {
    for (const [name, value] of await from.records(prefix)) await to.putRecord(prefix, name, value);
  }
  const listed = new Set((await to.points()).map(({ id }) => id));
  for (const point of await from.lostPoints()) await keepLost(to, point, listed);
  return true;
}

async function keepLost(to: Catalog, point: RecoveryPoint, listed: ReadonlySet<string>): Promise<void> {
  if (!listed.has(point.id)) await to.losePoint(point);
}

/** Of a content with two copies, the first was indexed; when that one does not verify, the other is tried. */
async function chooseCopies(
  repository: Repository,
  catalog: Catalog,
  duplicates: readonly DuplicateContent[],
): Promise<number> {
  const packs = await catalog.packs();
  let replaced = 0;
  for (const { packId, entry } of duplicates) {
    const info = packs.get(packId);
    if (info === undefined || (await repository.reader.verifies(entry.id))) continue;
    const damage = 'the frame did not verify when the catalog was rebuilt';
    await catalog.markDamaged(entry.id, damage);
    await catalog.addPack(packId, info, [entry]);
    if (!(await repository.reader.verifies(entry.id))) await catalog.markDamaged(entry.id, damage);
    else replaced += 1;
  }
  return replaced;
}
