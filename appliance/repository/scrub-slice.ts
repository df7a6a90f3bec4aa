// SPDX-License-Identifier: Apache-2.0
import type { Pace } from '../core/duty-cycle.ts';
import type { PackId } from '../core/ids.ts';
import { type Finding, Findings } from './check-findings.ts';
import { checkPacks } from './check-packs.ts';
import { checkRecords } from './check-records.ts';
import type { ManagedIndex } from './chunk-index.ts';
import { traceDamage } from './damage-trace.ts';
import type { Repository } from './repository.ts';

export interface ScrubSliceOptions {
  /** Where the slice before has ended; undefined at the beginning of a round. */
  readonly after: PackId | undefined;
  /** Stored bytes to read; at least one pack is. */
  readonly sliceBytes: number;
  readonly signal?: AbortSignal;
  readonly pace?: Pace;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface ScrubSliceResult {
  /** Where the next slice begins; undefined when the round has seen every pack. */
  readonly after: PackId | undefined;
  /** The packs that were read, every byte of them. */
  readonly packs: readonly PackId[];
  readonly readBytes: number;
  readonly points: number;
  readonly frames: number;
  readonly findings: readonly Finding[];
  readonly omittedFindings: number;
}

/**
 * One slice of a scrub that goes over weeks: everything beside the packs, and every byte of the packs that come next, in the
 * order of their ids. A pack that is made meanwhile is read in this round or in the next. What is found, and what is done about
 * it, is as for `check`, which excludes this, too.
 * @throws ApplianceError LOCKED (a collection or a check is running), ABORTED, IO_FAILED, CATALOG_DAMAGED
 */
export async function scrubSlice(
  repository: Repository,
  index: ManagedIndex,
  options: ScrubSliceOptions,
): Promise<ScrubSliceResult> {
  repository.beginCollection('a scrub');
  try {
    const findings = new Findings();
    const points = await checkRecords(repository, index, findings);
    const { packs, after } = await nextPacks(index, options);
    const { signal, pace, onProgress } = options;
    const checked = await checkPacks({
      repository,
      index,
      findings,
      readData: true,
      signal,
      pace,
      only: new Set(packs),
      onPack: (done, total) => onProgress?.(done, total),
    });
    const touches = await traceDamage(repository, points, findings.bad, signal);
    return {
      after,
      packs,
      readBytes: checked.readBytes,
      points: points.length,
      frames: checked.frames,
      findings: findings.list(touches),
      omittedFindings: findings.omitted,
    };
  } finally {
    repository.endCollection();
  }
}

async function nextPacks(
  index: ManagedIndex,
  { after, sliceBytes }: ScrubSliceOptions,
): Promise<{ readonly packs: readonly PackId[]; readonly after: PackId | undefined }> {
  const all = await index.packs();
  const left = [...all.keys()].filter((packId) => after === undefined || packId > after).sort();
  const packs: PackId[] = [];
  let bytes = 0;
  for (const packId of left) {
    if (bytes >= sliceBytes) return { packs, after: packs.at(-1) };
    packs.push(packId);
    bytes += all.get(packId)?.packBytes ?? 0;
  }
  return { packs, after: undefined };
}
