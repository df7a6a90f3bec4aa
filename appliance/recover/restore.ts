// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../core/errors.ts';
import type { RecoverContext, RecoverParts } from './context.ts';
import { selectDisk } from './point-content.ts';
import { resolveTarget, restoreDisk } from './restore-disk.ts';
import { restoreInPlace } from './restore-in-place.ts';
import { restoreMachine } from './restore-machine.ts';
import type { Restore, RestoreOutcome, RestoreReport, RestoreRequest } from './restore-request.ts';
import { StateDisks } from './state-disks.ts';

/**
 * Restores one disk (`to`), the whole machine as a new one (`as`), or the original machine's disks (`inPlace`).
 * @throws ApplianceError BAD_ARGUMENT, and those of `restoreDisk`, `restoreMachine`, `restoreInPlace`
 */
export async function restore(
  parts: RecoverParts,
  request: RestoreRequest,
  context: RecoverContext,
): Promise<RestoreReport> {
  const startedMs = parts.clock.elapsedMs();
  await using disks = await StateDisks.open(parts, request);
  const { targets, machine, changes } = await restoreBy({ parts, disks, request, context });
  const durationMs = Math.round(parts.clock.elapsedMs() - startedMs);
  return { point: request.point.id, moment: request.moment ?? null, targets, machine, durationMs, changes };
}

async function restoreBy({ parts, disks, request, context }: Restore): Promise<RestoreOutcome> {
  const { to, as, inPlace = false } = request;
  const ways = [to !== undefined, as !== undefined, inPlace].filter((isChosen) => isChosen).length;
  if (ways !== 1) {
    throw new ApplianceError('BAD_ARGUMENT', 'a restore goes to a target, or to a new machine, or in place', {
      hint: 'Give one of --to, --as and --in-place.',
    });
  }
  if (request.directory !== undefined && as === undefined) {
    throw new ApplianceError('BAD_ARGUMENT', 'a directory belongs to a restore as a new machine');
  }
  if (inPlace) return restoreInPlace({ parts, disks, request, context });
  if (as !== undefined) return restoreMachine({ parts, disks, request: { ...request, as }, context });
  const disk = selectDisk(request.point, request.disk);
  const target = await resolveTarget(to ?? '', request.format);
  return { targets: [await restoreDisk({ parts, disks, disk, target, context })], machine: null, changes: [] };
}
