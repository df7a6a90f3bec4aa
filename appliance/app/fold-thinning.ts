// SPDX-License-Identifier: Apache-2.0
import type { Clock } from '../core/clock.ts';
import { ApplianceError, toError } from '../core/errors.ts';
import type { MachineId } from '../core/ids.ts';
import { surplusFolds } from '../protect/continuous/surplus-folds.ts';
import type { RecoveryPoint } from '../repository/manifest.ts';
import type { Core } from './core.ts';
import { deleteUnlessGuarded } from './retention.ts';

/**
 * Deletes recovery points that sessions folded by themselves and that nothing needs any more; see `surplusFolds`. They can be
 * brought back as long as any deleted point. What is in use, held or locked stays, and so does everything of a machine whose journal cannot be
 * asked. Returns how many were deleted; problems are said.
 */
export async function thinFolds(core: Core, clock: Clock, onNotice: (sentence: string) => void): Promise<number> {
  const byMachine = Map.groupBy(await core.catalog.points(), ({ machine }) => machine.id);
  let count = 0;
  for (const [machineId, points] of byMachine) {
    try {
      count += await thinMachine(core, clock, { machineId, points });
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      onNotice(`old folds of ${points[0]?.machine.name ?? machineId} stay for now: ${toError(error).message}`);
    }
  }
  return count;
}

async function thinMachine(
  core: Core,
  clock: Clock,
  { machineId, points }: { readonly machineId: MachineId; readonly points: readonly RecoveryPoint[] },
): Promise<number> {
  if (surplusFolds(points, () => false, clock.nowMs()).length === 0) return 0;
  const journal = await core.journalOf(machineId);
  const oldest = journal?.folds[0]?.sequence ?? 0;
  // Of a journal that is not the one that can be asked nothing is known: a machine may have two.
  const isNeeded = ({ journal: place }: RecoveryPoint): boolean =>
    journal !== undefined && (place?.logId !== journal.logId || place.sequence >= oldest);
  let count = 0;
  for (const point of surplusFolds(points, isNeeded, clock.nowMs())) {
    if ((await deleteUnlessGuarded(core, clock, point)) === undefined) count += 1;
  }
  return count;
}
