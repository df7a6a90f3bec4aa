// SPDX-License-Identifier: Apache-2.0
import type { BlockDevice } from '../appliance/block/block-device.ts';
import { changedExtents } from '../appliance/cbt/changes.ts';
import type { BackupSource, SourceDisk } from '../appliance/cbt/source.ts';
import { systemClock } from '../appliance/core/clock.ts';
import type { Extent } from '../appliance/core/extents.ts';
import { connectNbd } from '../appliance/nbd/client/connect.ts';
import { BASE_ALLOCATION } from '../appliance/nbd/protocol.ts';
import type { RecoveryPoint } from '../appliance/repository/manifest.ts';

/**
 * An export with a dirty bitmap as the source of an incremental: what the trackers of running and shut-off machines do,
 * without a hypervisor around it.
 */
export async function openBitmapSource(uri: string, bitmap: string, previous: RecoveryPoint): Promise<BackupSource> {
  const context = `qemu:dirty-bitmap:${bitmap}`;
  const device = await connectNbd(uri, { metaContexts: [BASE_ALLOCATION, context] });
  return incrementalSource(previous, device, () => changedExtents(device, context));
}

/** A source with one disk, of which the given extents have changed since the previous point. */
export function incrementalSource(
  previous: RecoveryPoint,
  device: BlockDevice,
  changes: () => AsyncIterable<Extent>,
): BackupSource {
  const [before] = previous.disks;
  const disk: SourceDisk = {
    name: before?.name ?? 'disk',
    device,
    kind: 'incremental',
    reason: 'the dirty bitmap since the previous point',
    identity: before?.identity ?? {},
    changes,
  };
  return {
    machine: previous.machine,
    takenAtMs: systemClock.nowMs(),
    consistency: 'crash-consistent',
    disks: [disk],
    skipped: [],
    attachments: [],
    tracker: { kind: 'bench' },
    notices: [],
    assertAlive: () => Promise.resolve(),
    commit: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => device.close(),
  };
}
