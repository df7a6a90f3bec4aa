// SPDX-License-Identifier: Apache-2.0

import type { OperationContext } from '../api/operations.ts';
import type { CheckReport, GcParams, GcReport, StatusReport } from '../api/schemas/repository.ts';
import type { UpkeepReport } from '../api/schemas/upkeep.ts';
import type { Pace } from '../core/duty-cycle.ts';
import { collectGarbage as collect, DEFAULT_GRACE_MS } from '../repository/garbage-collector.ts';
import { type CheckResult, check } from '../repository/scrub.ts';
import type { Foundation, Storage } from './core.ts';
import { pointCounts } from './housekeeping/capacity.ts';

/** What the repository holds, from the catalog's sums: no data is read. */
export async function repositoryStatus(
  foundation: Foundation,
  storage: Storage,
  service: { readonly pid: number | null; readonly upkeep: UpkeepReport },
): Promise<StatusReport> {
  const counts = pointCounts(await storage.catalog.pointLists());
  const totals = await storage.catalog.totals();
  return {
    state: foundation.state.path,
    repository: foundation.store.root,
    repositoryId: foundation.config.id,
    encryption: foundation.config.encryption,
    chunkBytes: foundation.config.chunkBytes,
    ...counts,
    uniqueBytes: totals.uniqueBytes,
    storedBytes: totals.storedBytes,
    servicePid: service.pid,
    upkeep: service.upkeep,
  };
}

/** Frees what no point reaches; errors as `repository/garbage-collector.ts`. */
export async function collectGarbage(
  { clock }: Pick<Foundation, 'clock'>,
  { repository, catalog }: Storage,
  { now = false, pace }: GcParams & { readonly pace?: Pace },
  context: OperationContext,
): Promise<GcReport> {
  const startedMs = clock.elapsedMs();
  const result = await collect(repository, catalog, {
    clock,
    graceMs: now ? 0 : DEFAULT_GRACE_MS,
    signal: context.signal,
    ...(pace === undefined ? {} : { pace }),
    onProgress: ({ phase, done, total }) => context.onProgress({ phase, done, total: total ?? 0, unit: 'items' }),
  });
  if (result.pointsNotLivedThrough > 0) {
    context.onNotice(
      `${result.pointsNotLivedThrough} deleted points stay although the clock says that their grace period is over: the ` +
        'appliance was not up for so long since they were deleted',
    );
  }
  const { liveBytes, packsDeleted, packsRewritten, packsWithoutRoom, freedBytes, pointsInGrace, pointsPurged } = result;
  if (packsWithoutRoom > 0) {
    context.onNotice(
      `there is no room to rewrite ${packsWithoutRoom} packs that are mostly garbage; collect again when there is`,
    );
  }
  const durationMs = Math.round(clock.elapsedMs() - startedMs);
  return {
    liveBytes,
    packsDeleted,
    packsRewritten,
    packsWithoutRoom,
    freedBytes,
    pointsInGrace,
    pointsPurged,
    durationMs,
  };
}

/** Looks for damage; errors as `repository/scrub.ts`. What is found is in the report, not thrown. */
export async function checkRepository(
  { clock }: Pick<Foundation, 'clock'>,
  { repository, catalog }: Storage,
  readData: boolean,
  context: OperationContext,
): Promise<{ readonly result: CheckResult; readonly report: CheckReport }> {
  const startedMs = clock.elapsedMs();
  const result = await check(repository, catalog, {
    readData,
    signal: context.signal,
    onProgress: ({ phase, done, total }) =>
      context.onProgress({ phase: `checking ${phase}`, done, total: total ?? 0, unit: 'items' }),
  });
  if (result.omittedFindings > 0) context.onNotice(`${result.omittedFindings} more findings are not listed`);
  const durationMs = Math.round(clock.elapsedMs() - startedMs);
  return { result, report: checkReport(result, readData, durationMs) };
}

/** What was looked at, and what was found. */
export function checkReport(
  { findings, points, packs, nodes, chunks, readBytes }: Omit<CheckResult, 'isClean' | 'omittedFindings' | 'frames'>,
  readData: boolean,
  durationMs: number,
): CheckReport {
  return {
    ok: findings.every(({ isRepaired }) => isRepaired),
    readData,
    points,
    packs,
    nodes,
    chunks,
    readBytes,
    durationMs,
    findings: findings.map(({ object, what, touches }) => ({
      what,
      object,
      touches: touches.map(({ pointId, machine, disk, attachment, offset, length }) => ({
        point: pointId,
        machine,
        disk: disk ?? attachment ?? '',
        offset,
        length,
      })),
    })),
  };
}

/** Looks whether everything that a point reaches is there, without reading data; errors as `repository/scrub.ts`. */
export function checkStructure(
  { repository, catalog }: Storage,
  signal: AbortSignal,
  pace?: Pace,
): Promise<CheckResult> {
  return check(repository, catalog, { readData: false, signal, ...(pace === undefined ? {} : { pace }) });
}
