// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RetentionApplyReport } from '../../appliance/api/schemas/retention.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('retention, holds and locks of an appliance', { timeoutMs: 120_000 });
const SIZE_BYTES = 1024 * 1024;

/** The only file of this name under a folder of the repository. */
async function pathOf(rig: PointsRig, folder: string, point: string): Promise<string> {
  const path = join(rig.appliance.repository, folder);
  return join(path, (await readdir(path))[0] ?? '', `${point}.json`);
}

test('held and locked points outlive every way to delete them, and a rebuild of the catalog', async (t) => {
  const rig = await PointsRig.create(t, SIZE_BYTES);
  const [{ point: held }, { point: locked }, { point: newest }] = [
    await rig.addPoint(),
    await rig.addPoint(),
    await rig.addPoint(),
  ];
  await rig.using(async (appliance) => {
    await rejectsWith(appliance.hold({ point: 'mail@seq:3', reason: 'x' }, CONTEXT), 'MOMENT_NOT_FOUND');
    await appliance.hold({ point: held, reason: 'audit' }, CONTEXT);
    await appliance.lock({ point: locked, until: '2040-01-01' }, CONTEXT);
    await appliance.catalogRebuild({}, CONTEXT);
    const listed = await appliance.points({}, CONTEXT);
    assert.deepEqual(
      listed.map(({ id, hold, lock }) => [id, hold?.reason, lock !== null]),
      [
        [newest, undefined, false],
        [locked, undefined, true],
        [held, 'audit', false],
      ],
    );
    for (const now of [false, true]) {
      await rejectsWith(appliance.delete({ point: held, now }, CONTEXT), 'POINT_HELD');
      await rejectsWith(appliance.delete({ point: locked, now }, CONTEXT), 'POINT_LOCKED');
    }
    await rejectsWith(appliance.lock({ point: locked, until: '2039-01-01' }, CONTEXT), 'POINT_LOCKED');
    await appliance.release({ point: locked }, CONTEXT);
    const report = await appliance.retentionApply({ all: true, keepLast: 1 }, CONTEXT);
    assert.deepEqual([report.deleted, report.spared, report.kept], [[], [], 3]);
    await appliance.gc({ now: true }, CONTEXT);
    await rig.assertAllRestore(appliance);
    assert.deepEqual((await appliance.check({ readData: true }, CONTEXT)).findings, []);
    // Released, it goes like any other, and comes back.
    await appliance.release({ point: held }, CONTEXT);
    const second = await appliance.retentionApply({ machine: 'mail', keepLast: 1 }, CONTEXT);
    assert.deepEqual(
      second.deleted.map(({ point }) => point),
      [held],
    );
    await appliance.undelete({ point: held }, CONTEXT);
    await rig.assertAllRestore(appliance);
  });

  const manifest = await pathOf(rig, 'points', locked);
  const aside = join(rig.directory, 'aside.json');
  await rename(manifest, aside);
  await rm(join(rig.appliance.repository, 'clock.json'));
  await rig.using((appliance) => rejectsWith(appliance.delete({ point: locked }, CONTEXT), 'POINT_LOCKED'));
  await rename(aside, manifest);
  await rig.using((appliance) => rig.assertAllRestore(appliance));
});

test('retention deletes nothing when a manifest or a hold cannot be read, and says what it does when they can', async (t) => {
  const rig = await PointsRig.create(t, SIZE_BYTES);
  const { appliance } = rig;
  const { point: old } = await rig.addPoint();
  const { point: newest } = await rig.addPoint();
  await appliance.ask('hold', old, '--reason', 'audit');
  for (const path of [await pathOf(rig, 'holds', old), await pathOf(rig, 'points', newest)]) {
    const bytes = await readFile(path);
    await writeFile(path, bytes.toString().replace('"version"', '"Version"'));
    await rig.using(async (open) => {
      await rejectsWith(open.retentionApply({ all: true, keepLast: 1 }, CONTEXT), 'REPOSITORY_CORRUPT');
      assert.equal((await open.points({}, CONTEXT)).length, 2);
      const { ok } = await open.check({}, CONTEXT);
      assert.equal(ok, false);
    });
    await writeFile(path, bytes);
  }
  await rig.using(async (open) => {
    assert.equal((await open.pointShow({ point: old }, CONTEXT)).hold?.reason, 'audit');
    await open.release({ point: old }, CONTEXT);
    const other = { machine: 'mail', keepLast: 1, plan: 'another' };
    await rejectsWith(open.retentionApply(other, CONTEXT), 'CONFIRMATION_NEEDED');
    await rejectsWith(open.retentionPreview({ all: true, timeZone: 'Moon/Sea' }, CONTEXT), 'BAD_ARGUMENT');
    await rejectsWith(open.retentionPreview({ machine: 'none' }, CONTEXT), 'MACHINE_NOT_FOUND');
    await rejectsWith(open.retentionPreview({ machine: 'mail', all: true }, CONTEXT), 'BAD_ARGUMENT');
  });
  const preview = await appliance.run('retention', 'preview', 'mail', '--keep-last', '1', '--time-zone', 'UTC');
  assert.match(preview.stdout, new RegExp(`${newest.slice(0, 8)} .* keep  the newest point; last: 1 of 1`));
  assert.match(preview.stdout, new RegExp(`${old.slice(0, 8)} .* go {4}last: 1 are newer`));
  const applied = await appliance.ask<RetentionApplyReport>('retention', 'apply', 'mail', '--keep-last', '1', '--yes');
  assert.deepEqual(
    applied.deleted.map(({ point }) => point),
    [old],
  );
});
