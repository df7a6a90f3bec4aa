// SPDX-License-Identifier: Apache-2.0
import type { OperationContext } from '../api/operations.ts';
import type { RebuildReport } from '../api/schemas/repository.ts';
import { rebuildCatalog } from '../catalog/rebuild.ts';
import { ApplianceError } from '../core/errors.ts';
import { type Core, type Foundation, openRepository, type Storage } from './core.ts';

/** @throws ApplianceError POINT_IN_USE when something reads what the catalog names */
export function refuseInUse({ recover }: Core): void {
  const users = recover.heldPoints().flatMap(({ id }) => recover.usedBy(id));
  if (users.length === 0) return;
  throw new ApplianceError('POINT_IN_USE', `the catalog is in use by ${users.join(', ')}`, { details: { users } });
}

/** Makes the catalog again from the repository alone; `start` takes over what is open then. Errors as `rebuildCatalog`. */
export async function rebuildStorage(
  foundation: Foundation,
  context: OperationContext,
  start: (storage: Storage) => Promise<void>,
): Promise<RebuildReport> {
  const { clock, state } = foundation;
  const startedMs = clock.elapsedMs();
  const { catalog, repository, report } = await rebuildCatalog({
    directory: state.catalogPath,
    openRepository: (fresh) => openRepository(foundation, fresh),
    signal: context.signal,
    onProgress: (done, total) => context.onProgress({ phase: 'reading packs', done, total, unit: 'items' }),
  });
  const totals = await catalog.totals();
  await start({ catalog, repository });
  const problems = report.damaged.map(({ object, message }) => `${object}: ${message}`);
  for (const stray of report.strays) problems.push(`${stray} does not belong into a repository`);
  if (!report.hasKeptRecords)
    problems.push('the history of runs, and the standbys, could not be read from the old catalog');
  return {
    points: report.listedPoints.length,
    packs: totals.packs,
    chunks: totals.frames,
    problems,
    durationMs: Math.round(clock.elapsedMs() - startedMs),
  };
}
