// SPDX-License-Identifier: Apache-2.0
import { canonicalJson } from '../core/canonical-json.ts';
import type { Findings } from './check-findings.ts';
import type { ManagedIndex } from './chunk-index.ts';
import { CONFIG_KEY, checkStoredConfig } from './config.ts';
import { deletedPointKey } from './deleted-point.ts';
import { LIVED_TIME_KEY, readLivedTime } from './lived-time.ts';
import { manifestKey, type RecoveryPoint } from './manifest.ts';
import type { Repository } from './repository.ts';

/**
 * Checks everything that is stored beside the packs: configuration, manifests, holds and locks, the record of the time. Settles
 * with the points that can be read, deleted ones included: those may be brought back.
 * @throws ApplianceError IO_FAILED (a listing), CATALOG_DAMAGED
 */
export async function checkRecords(
  repository: Repository,
  index: ManagedIndex,
  findings: Findings,
): Promise<RecoveryPoint[]> {
  const { store, keys, guards } = repository;
  await findings.examine(CONFIG_KEY, () => checkStoredConfig(store, keys.manifest));
  const points = await checkPoints(repository, index, findings);
  await findings.examine(LIVED_TIME_KEY, () => readLivedTime(store, keys.manifest));
  const objects = await findings.examine('holds and locks', () => guards.keys());
  for (const object of objects ?? []) await findings.examine(object, () => guards.read(object));
  return points;
}

async function checkPoints(
  { manifests }: Repository,
  index: ManagedIndex,
  findings: Findings,
): Promise<RecoveryPoint[]> {
  const known = new Map((await index.points()).map((point) => [point.id, point]));
  const points: RecoveryPoint[] = [];
  const { refs, strays } = await manifests.listWithStrays();
  for (const object of strays) findings.add({ object, what: 'it does not belong into a repository' });
  for (const ref of refs) {
    const object = manifestKey(ref.machineId, ref.pointId);
    const point = await findings.examine(object, () => manifests.get(ref));
    if (point === undefined) continue;
    points.push(point);
    const record = known.get(point.id);
    if (record !== undefined && canonicalJson(record) === canonicalJson(point)) continue;
    await index.putPoint(point);
    const what = record === undefined ? 'was not listed' : 'was listed with other contents';
    findings.add({ object: 'catalog', what: `point ${point.id} ${what}`, isRepaired: true });
  }
  for (const ref of await manifests.listDeleted()) {
    const object = deletedPointKey(ref.machineId, ref.pointId);
    const deleted = await findings.examine(object, () => manifests.getDeleted(ref));
    if (deleted !== undefined) points.push(deleted.point);
  }
  for (const { id, machine } of await index.lostPoints()) {
    const what =
      'the manifest disappeared, and with it the recovery point, until the file is put back or the point is deleted';
    findings.add({ object: manifestKey(machine.id, id), what });
  }
  return points;
}
