// SPDX-License-Identifier: Apache-2.0
import type { ContentKey } from '../core/content-id.ts';
import type { Pace } from '../core/duty-cycle.ts';
import { ApplianceError } from '../core/errors.ts';
import type { PackId } from '../core/ids.ts';
import type { Findings } from './check-findings.ts';
import type { ManagedIndex, PackInfo } from './chunk-index.ts';
import { MIB, PACK_HEADER_BYTES } from './format.ts';
import { type PackEntry, packFooterBytes } from './pack-format.ts';
import { type PackContents, packIdOf, readPackContents } from './pack-reader.ts';
import { packKey } from './pack-writer.ts';
import type { Repository } from './repository.ts';

/** Stored bytes of one verify job, and jobs that run at a time. */
const JOB_BYTES: number = 2 * MIB;
const MAX_JOBS = 16;

/** What is known of the packs after they were checked. */
export interface CheckedPacks {
  /** Packs that are there in their right size. */
  readonly present: ReadonlySet<PackId>;
  /** Packs that hold frames which their own contents do not tell of any more. */
  readonly doubtful: ReadonlySet<PackId>;
  readonly frames: number;
  readonly readBytes: number;
}

interface PackCheck {
  readonly repository: Repository;
  readonly index: ManagedIndex;
  readonly findings: Findings;
  readonly readData: boolean;
  readonly signal: AbortSignal | undefined;
  /** Called between jobs of reading. */
  readonly pace?: Pace | undefined;
  /** Only these; default: all that the index knows. */
  readonly only?: ReadonlySet<PackId>;
  readonly onPack: (done: number, total: number, readBytes: number) => void;
}

/**
 * Checks every pack that the index knows: size, header, footer, that frames follow one another without a gap, that the
 * index has each of them (it is mended where not), and with `readData` every frame. What does not verify is marked as
 * damaged, so that the next backup stores it anew; what was marked and verifies again is unmarked.
 */
export async function checkPacks(check: PackCheck): Promise<CheckedPacks> {
  const { repository, index, findings } = check;
  const all = await index.packs();
  const known = check.only === undefined ? all : new Map([...all].filter(([packId]) => check.only?.has(packId)));
  const stored = new Map<PackId, number>();
  for (const { key, sizeBytes } of await repository.store.list('packs/')) {
    const packId = packIdOf(key);
    if (packId === undefined) findings.add({ object: key, what: 'it does not belong into a repository' });
    else stored.set(packId, sizeBytes);
  }
  const present = new Set<PackId>();
  const doubtful = new Set<PackId>();
  let frames = 0;
  let readBytes = 0;
  let done = 0;
  for (const [packId, info] of known) {
    if (check.signal?.aborted === true) throw new ApplianceError('ABORTED', 'the check was interrupted');
    const problem = presenceProblem(info, stored.get(packId));
    if (problem === undefined) {
      present.add(packId);
      const contents = await checkPack(check, packId, info);
      if (contents.footerDamage !== undefined && contents.entries.length !== info.frames) doubtful.add(packId);
      frames += contents.entries.length;
      if (check.readData) readBytes += await readFrames(check, packId, contents.entries);
    } else findings.add({ object: packKey(packId), what: problem, packId });
    done += 1;
    check.onPack(done, known.size, readBytes);
    await check.pace?.();
  }
  return { present, doubtful, frames, readBytes };
}

function presenceProblem({ packBytes }: PackInfo, storedBytes: number | undefined): string | undefined {
  if (storedBytes === undefined) return 'the pack is missing';
  return storedBytes === packBytes ? undefined : `the pack has ${storedBytes} bytes and should have ${packBytes}`;
}

async function checkPack(
  { repository, index, findings }: PackCheck,
  packId: PackId,
  info: PackInfo,
): Promise<PackContents> {
  const object = packKey(packId);
  const contents = await readPackContents(repository.store, repository.config.id, {
    packId,
    packBytes: info.packBytes,
  });
  for (const what of [contents.headerDamage, contents.footerDamage]) {
    if (what !== undefined) findings.add({ object, what, packId });
  }
  if (contents.footerDamage === undefined) {
    const gap = gapIn(contents.entries, info.packBytes);
    if (gap !== undefined) findings.add({ object, what: `bytes at ${gap} belong to no frame`, packId, offset: gap });
  }
  const lost = await entriesNotIndexed(index, packId, contents.entries);
  if (lost.length > 0) {
    await index.addPack(packId, info, lost);
    findings.add({
      object: 'catalog',
      what: `${lost.length} frames of ${object} were unknown`,
      packId,
      isRepaired: true,
    });
  }
  return contents;
}

/** Where something lies that no frame covers: frames fill the pack from its header to its footer. */
function gapIn(entries: readonly PackEntry[], packBytes: number): number | undefined {
  let at = PACK_HEADER_BYTES;
  for (const { offset, frameBytes } of entries) {
    if (offset !== at) return Math.min(at, offset);
    at += frameBytes;
  }
  return at + packFooterBytes(entries.length) === packBytes ? undefined : at;
}

async function entriesNotIndexed(
  index: ManagedIndex,
  packId: PackId,
  entries: readonly PackEntry[],
): Promise<PackEntry[]> {
  const places = await index.findMany(entries.map(({ id }) => id));
  const damages = index.damages();
  return entries.filter(({ id }, n) => places[n] === undefined && damages.get(id)?.packId !== packId);
}

/** Settles with the bytes that were read. */
async function readFrames(check: PackCheck, packId: PackId, entries: readonly PackEntry[]): Promise<number> {
  const running = new Set<Promise<void>>();
  const places = await check.index.findMany(entries.map(({ id }) => id));
  const isIndexedHere = new Set(
    entries
      .filter((entry, n) => places[n]?.packId === packId && places[n]?.offset === entry.offset)
      .map(({ id }) => id),
  );
  let failure: unknown;
  let readBytes = 0;
  for (const frames of jobsOf(entries)) {
    if (failure !== undefined || check.signal?.aborted === true) break;
    const work = verifyFrames(check, { packId, frames, isIndexedHere })
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => running.delete(work));
    running.add(work);
    readBytes += frames.reduce((sum, frame) => sum + frame.frameBytes, 0);
    if (running.size >= MAX_JOBS) await Promise.race(running);
    await check.pace?.();
  }
  await Promise.all(running);
  if (failure !== undefined) throw failure as Error;
  return readBytes;
}

function* jobsOf(entries: readonly PackEntry[]): Generator<PackEntry[]> {
  let job: PackEntry[] = [];
  let start = 0;
  for (const entry of entries) {
    const isFar = job.length > 0 && entry.offset + entry.frameBytes - start > JOB_BYTES;
    if (isFar) {
      yield job;
      job = [];
    }
    if (job.length === 0) start = entry.offset;
    job.push(entry);
  }
  if (job.length > 0) yield job;
}

async function verifyFrames(
  { repository, index, findings }: PackCheck,
  job: {
    readonly packId: PackId;
    readonly frames: readonly PackEntry[];
    readonly isIndexedHere: ReadonlySet<ContentKey>;
  },
): Promise<void> {
  const { packId, frames } = job;
  const problems = await repository.pool.verify({
    packId,
    path: repository.store.localPath(packKey(packId)),
    frames: frames.map(({ offset, frameBytes, id, checksum }) => ({
      offset,
      frameBytes,
      id,
      checksum,
    })),
  });
  const failed = new Set<PackEntry>();
  for (const { frame, code, message } of problems) {
    const entry = frames[frame];
    if (
      entry === undefined ||
      (code !== 'REPOSITORY_CORRUPT' && code !== 'REPOSITORY_FORMAT' && code !== 'IO_FAILED')
    ) {
      throw new ApplianceError(code ?? 'INTERNAL', message);
    }
    failed.add(entry);
    await report({ index, findings }, job, entry, message);
  }
  const damages = index.damages();
  for (const entry of frames) {
    const damage = damages.get(entry.id);
    if (damage === undefined || failed.has(entry)) continue;
    if (damage.packId === packId && damage.offset === entry.offset) await index.clearDamage(entry.id);
  }
}

async function report(
  { index, findings }: Pick<PackCheck, 'index' | 'findings'>,
  { packId, isIndexedHere }: { readonly packId: PackId; readonly isIndexedHere: ReadonlySet<ContentKey> },
  { id, offset }: PackEntry,
  message: string,
): Promise<void> {
  const known = index.damages().get(id);
  const isOnlyCopy = isIndexedHere.has(id) || (known?.packId === packId && known.offset === offset);
  if (isOnlyCopy) {
    await index.markDamaged(id, message);
    findings.addContent(id, message, { packId, offset });
  } else {
    findings.add({ object: packKey(packId), what: `${message} (another copy of it is in use)`, packId, offset });
  }
}
