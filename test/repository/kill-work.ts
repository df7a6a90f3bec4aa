// SPDX-License-Identifier: Apache-2.0
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { type ReconcileReport, reconcile } from '../../appliance/catalog/reconcile.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { loadConfig, unlockWithRecoveryKey } from '../../appliance/repository/config.ts';
import { DirectoryStore } from '../../appliance/repository/directory-store.ts';
import { collectGarbage } from '../../appliance/repository/garbage-collector.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import { Repository } from '../../appliance/repository/repository.ts';
import { Dice, ModelDisk, writePoint } from '../support/point-model.ts';

/*
 * What the process that is going to be killed does, and how its state is opened again. A point's content follows from
 * the number in its `sequence` alone, so that nothing but the repository needs to survive.
 */

const KIB = 1024;
const DISK_BYTES: number = 768 * KIB + 512;
const COMMON_CHUNKS = 6;

export interface OpenState extends AsyncDisposable {
  readonly repository: Repository;
  readonly catalog: Catalog;
  readonly report: ReconcileReport;
}

/** Opens what a killed process left, as the appliance does at its start. */
export async function openState(directory: string): Promise<OpenState> {
  const stack = new AsyncDisposableStack();
  const catalog = stack.use(await Catalog.open(join(directory, 'catalog')));
  const root = join(directory, 'repository');
  const store = await DirectoryStore.openExisting(root);
  const config = await loadConfig(store, root);
  const masterKey = unlockWithRecoveryKey(config, undefined);
  const resources = { threads: 1, cacheBytes: KIB * KIB, plainSlabs: 4, frameSlabs: 2 };
  const repository = stack.use(new Repository({ store, config, masterKey, index: catalog, resources }));
  await store.removeStaged();
  const report = await reconcile(repository, catalog);
  return { repository, catalog, report, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** The disk at point number `seed`: much that all points share, and some of its own. */
export function contentOf(seed: number): Buffer {
  const disk = new ModelDisk(DISK_BYTES, new Dice(seed));
  new Dice(1).bytes(COMMON_CHUNKS * 64 * KIB).copy(disk.content);
  for (let n = 0; n < 4; n++) disk.scribble(120 * KIB);
  return disk.content;
}

/** Backs up, deletes and collects at random, for ever. Tells on standard output what has begun and what is done. */
export async function workUntilKilled(directory: string, seed: number): Promise<never> {
  await using state = await openState(directory);
  const dice = new Dice(seed);
  tell('ready');
  for (;;) {
    const points = await state.catalog.points();
    const choice = dice.below(10);
    if (points.length < 2 || (choice < 5 && points.length < 8)) await backUp(state, points, dice);
    else if (choice < 8) await remove(state, points, dice);
    else await collect(state, dice);
  }
}

async function backUp(state: OpenState, points: readonly RecoveryPoint[], dice: Dice): Promise<void> {
  const sequence = 1 + dice.below(2 ** 30);
  const disk = new ModelDisk(DISK_BYTES, dice);
  contentOf(sequence).copy(disk.content);
  const parent = dice.below(2) === 0 ? undefined : points[dice.below(points.length)];
  tell(`begin backup ${sequence}`);
  const point = await writePoint(state.repository, { disks: { vda: disk }, parent, sequence });
  await state.catalog.putPoint(point);
  tell(`done backup ${point.id}`);
}

async function remove(state: OpenState, points: readonly RecoveryPoint[], dice: Dice): Promise<void> {
  const point = points[dice.below(points.length)];
  if (point === undefined) return;
  const ref = { machineId: point.machine.id, pointId: point.id };
  tell(`begin delete ${point.id}`);
  await state.repository.manifests.delete(ref, systemClock.nowMs());
  await state.catalog.deletePoint(point.id);
  tell(`done delete ${point.id}`);
  if (dice.below(3) > 0) return;
  await state.catalog.putPoint(await state.repository.manifests.undelete(ref));
  tell(`done undelete ${point.id}`);
}

async function collect(state: OpenState, dice: Dice): Promise<void> {
  tell('begin gc');
  const graceMs = dice.below(2) === 0 ? 0 : 60_000;
  await collectGarbage(state.repository, state.catalog, { clock: systemClock, graceMs, minLiveShare: 0.8 });
  tell('done gc');
}

/** At once and whole, whatever happens next. */
function tell(line: string): void {
  writeSync(1, `${line}\n`);
}
