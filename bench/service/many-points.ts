// SPDX-License-Identifier: Apache-2.0
import { newPointId, parseMachineId } from '../../appliance/core/ids.ts';
import type { RecoveryPoint } from '../../appliance/repository/manifest.ts';
import type { BenchRun } from '../bench-run.ts';
import { newestPoint, type OpenedState, openState } from '../opened-state.ts';
import { ServerProcess } from '../server-process.ts';

/** The machines that the points are of. */
export const MACHINES = 50;

/** Points an hour apart. */
const APART_MS = 3_600_000;
const BATCH = 64;

/** `nbdkit pattern`: a disk of any size that takes no room, each chunk of it another. */
export function servePattern(size: string, socketPath: string): Promise<ServerProcess> {
  const args = ['--foreground', '--readonly', '--exit-with-parent', '--unix', socketPath, 'pattern', size];
  return ServerProcess.start('nbdkit', args, { socketPath });
}

export function machineName(n: number): string {
  return `machine-${String(n).padStart(3, '0')}`;
}

/** A state directory with so many points of MACHINES machines, all of the content of one real backup. */
export async function manyPoints(run: BenchRun, count: number): Promise<string> {
  run.say(`preparing: a repository with ${count} points`);
  const state = run.workspace.statePath('state-points');
  await run.understudy.init(state);
  {
    await using source = await servePattern('64M', run.workspace.socketPath('pattern'));
    await run.understudy.backup(state, source.uri());
  }
  await using opened = await openState(state);
  const first = await newestPoint(opened.catalog);
  if (first !== undefined) await addPoints(opened, first, count - 1);
  return state;
}

async function addPoints({ repository, catalog }: OpenedState, first: RecoveryPoint, count: number): Promise<void> {
  const newestMs = Date.parse(first.createdAt);
  for (let n = 0; n < count; n += BATCH) {
    const batch = Array.from({ length: Math.min(BATCH, count - n) }, (_, k) => pointOf(first, n + k, newestMs, count));
    await Promise.all(batch.map((point) => repository.manifests.put(point)));
    await Promise.all(batch.map((point) => catalog.putPoint(point)));
  }
}

function pointOf(first: RecoveryPoint, n: number, newestMs: number, count: number): RecoveryPoint {
  const number = n % MACHINES;
  const generation = Math.floor(n / MACHINES);
  const age = Math.ceil(count / MACHINES) - generation;
  return {
    ...first,
    id: newPointId(),
    machine: {
      id: parseMachineId(`00000000-0000-4000-8000-${number.toString(16).padStart(12, '0')}`),
      name: machineName(number),
    },
    sequence: generation + 1,
    createdAt: new Date(newestMs - age * APART_MS).toISOString(),
    parent: null,
  };
}
