// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeleteReport, PointDetails, PointSummary } from '../../appliance/api/operations.ts';
import type { CheckReport, GcReport } from '../../appliance/api/schemas/repository.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('lost points', { timeoutMs: 60_000 });

/** Two points, and the path of the second one's manifest, which is put aside. */
async function makeLost(t: TestContext): Promise<{ rig: PointsRig; kept: string; lost: string; manifest: string }> {
  const rig = await PointsRig.create(t);
  const { point: kept } = await rig.addPoint();
  const { point: lost } = await rig.addPoint();
  const folder = join(rig.appliance.repository, 'points');
  const manifest = join(folder, (await readdir(folder))[0] ?? '', `${lost}.json`);
  await rename(manifest, join(rig.directory, 'aside.json'));
  return { rig, kept, lost, manifest };
}

test('a lost point is named as lost, cannot be used or meant by its machine, and is given up by delete', async (t) => {
  const { rig, kept, lost } = await makeLost(t);
  const { appliance } = rig;
  // Who opens the state directory first is told what was found there, in this case a command.
  const first = await appliance.run('points', '--json');
  assert.match(first.stderr, new RegExp(`^note: recovery point ${lost} is lost`, 'm'));
  const listed = JSON.parse(first.stdout) as PointSummary[];
  assert.deepEqual(
    listed.map((point) => [point.id, point.lost]),
    [
      [kept, false],
      [lost, true],
    ],
  );
  assert.match((await appliance.run('points')).stdout, /1 point is lost/);
  const shown = await appliance.ask<PointDetails>('point', 'show', lost);
  assert.equal(shown.lost, true);
  assert.match((await appliance.run('point', 'show', lost)).stdout, /This point is lost/);
  assert.equal((await appliance.ask<PointDetails>('point', 'show', 'mail@latest')).point.id, kept);
  const refused = await appliance.refused('POINT_NOT_FOUND', 'restore', lost, '--to', join(rig.directory, 'x'));
  assert.equal(refused.details['lost'], true);

  const before = await appliance.run('check', '--json');
  assert.equal(before.exitCode, EXIT_CODES.corrupt);
  assert.equal((await appliance.ask<GcReport>('gc', '--now')).freedBytes, 0);

  const deleted = await appliance.run('delete', lost, '--yes', '--json');
  assert.deepEqual(JSON.parse(deleted.stdout), {
    point: lost,
    machine: 'mail',
    recoverableUntil: null,
    lost: true,
  } satisfies DeleteReport);
  assert.match(deleted.stderr, /given up/);
  assert.deepEqual((await appliance.ask<CheckReport>('check')).findings, []);
  rig.contents.delete(lost);
  await rig.using(async (open) => {
    assert.ok((await open.gc({ now: true }, CONTEXT)).freedBytes > 0);
    await rig.assertAllRestore(open);
    await rejectsWith(open.delete({ point: lost }, CONTEXT), 'POINT_NOT_FOUND');
  });
});

test('a lost point whose manifest was put back is a point again, and its deletion is one that can be undone', async (t) => {
  const { rig, lost, manifest } = await makeLost(t);
  await rig.using(async (open) => {
    assert.equal((await open.pointShow({ point: lost }, CONTEXT)).lost, true);
    await writeFile(manifest, await readFile(join(rig.directory, 'aside.json')));
    const { recoverableUntil, lost: wasLost } = await open.delete({ point: lost }, CONTEXT);
    assert.equal(wasLost, false);
    assert.notEqual(recoverableUntil, null);
    await open.undelete({ point: lost }, CONTEXT);
    await rig.assertAllRestore(open);
  });
  await rm(manifest);
  await rig.using(async (open) => assert.equal((await open.pointShow({ point: lost }, CONTEXT)).lost, true));
});
