// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupReport } from '../../appliance/api/operations.ts';
import type { RebuildReport } from '../../appliance/api/schemas/repository.ts';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { systemErrorCode } from '../../appliance/core/errors.ts';
import type { ApplianceProcess } from '../support/appliance-process.ts';
import { suite } from '../support/suite.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('a catalog that is damaged or gone', { timeoutMs: 120_000 });

async function catalogFiles(appliance: ApplianceProcess, pattern: RegExp): Promise<string[]> {
  const directory = join(appliance.state, 'catalog');
  return (await readdir(directory)).filter((name) => pattern.test(name)).map((name) => join(directory, name));
}

/** Two points, and a table file in LevelDB besides its log. */
async function twoPoints(t: Parameters<typeof PointsRig.create>[0]): Promise<PointsRig> {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  await rig.addPoint();
  return rig;
}

/** Nothing was lost: points restore, and a backup of the same disk stores nothing again. */
async function assertWhole(rig: PointsRig): Promise<void> {
  await rig.using(async (appliance) => {
    await rig.assertAllRestore(appliance);
    const again: BackupReport = await appliance.backup({ target: rig.uri, name: 'mail' }, CONTEXT);
    assert.equal(again.kind, 'full-scan');
    assert.equal(again.disks[0]?.newChunkBytes, 0, 'everything is deduplicated');
    assert.equal((await appliance.check({ readData: true }, CONTEXT)).ok, true);
  });
}

test('a deleted catalog comes back by itself, with every point', async (t) => {
  const rig = await twoPoints(t);
  await rm(join(rig.appliance.state, 'catalog'), { recursive: true });
  await assertWhole(rig);
});

test('a deleted catalog is made anew by catalog rebuild', async (t) => {
  const rig = await twoPoints(t);
  await rm(join(rig.appliance.state, 'catalog'), { recursive: true });
  const report = await rig.appliance.ask<RebuildReport>('catalog', 'rebuild');
  assert.deepEqual([report.points, report.problems], [2, []]);
  await assertWhole(rig);
});

const DAMAGES: Readonly<Record<string, (appliance: ApplianceProcess) => Promise<void>>> = {
  'garbage in CURRENT': async ({ state }) => writeFile(join(state, 'catalog', 'CURRENT'), 'MANIFEST-garbage\n'),
  'an empty CURRENT': async ({ state }) => truncate(join(state, 'catalog', 'CURRENT'), 0),
  'no CURRENT': async ({ state }) => rm(join(state, 'catalog', 'CURRENT')),
  'no MANIFEST': async (appliance) => {
    for (const path of await catalogFiles(appliance, /^MANIFEST-/)) await rm(path);
  },
  'a MANIFEST cut in half': async (appliance) => {
    for (const path of await catalogFiles(appliance, /^MANIFEST-/))
      await truncate(path, Math.floor((await stat(path)).size / 2));
  },
  'tables cut in half': async (appliance) => {
    const tables = await catalogFiles(appliance, /\.ldb$/);
    assert.ok(tables.length > 0, 'there are tables');
    for (const path of tables) await truncate(path, Math.floor((await stat(path)).size / 2));
  },
  'tables full of noise': async (appliance) => {
    for (const path of await catalogFiles(appliance, /\.ldb$/)) {
      await writeFile(path, Buffer.alloc((await stat(path)).size, 0x5a));
    }
  },
  'no tables': async (appliance) => {
    for (const path of await catalogFiles(appliance, /\.ldb$/)) await rm(path);
  },
};

for (const [what, damage] of Object.entries(DAMAGES)) {
  test(`${what}: CATALOG_DAMAGED with what to do, and a rebuild brings every point back`, async (t) => {
    const rig = await twoPoints(t);
    await damage(rig.appliance);
    const error = await rig.appliance.refused('CATALOG_DAMAGED', 'points');
    assert.equal(error.exitCode, 5);
    assert.match(error.hint, /understudy catalog rebuild/);
    const rebuild = await rig.appliance.run('catalog', 'rebuild', '--json');
    const report = JSON.parse(rebuild.stdout) as RebuildReport;
    assert.equal(report.points, 2, rebuild.stdout + rebuild.stderr);
    // What only the old catalog knew is gone with it, and that is said.
    assert.deepEqual(report.problems, [
      'the history of runs, and the standbys, could not be read from the old catalog',
    ]);
    assert.equal(rebuild.exitCode, 5);
    await assertWhole(rig);
  });
}

test('a log of the catalog that was cut anywhere costs nothing', async (t) => {
  const rig = await twoPoints(t);
  for (const share of [0, 0.3, 0.7, 0.95]) {
    for (const path of await catalogFiles(rig.appliance, /\.log$/)) {
      await truncate(path, Math.floor((await stat(path)).size * share));
    }
    await rig.using((appliance) => rig.assertAllRestore(appliance));
    await rig.addPoint();
  }
  await assertWhole(rig);
});

test('noise anywhere in the tables is never wrong data: an error, or what was backed up', async (t) => {
  const rig = await twoPoints(t);
  const to = join(rig.directory, 'restored');
  let refused = 0;
  for (let n = 0; n < 8; n++) {
    const [table] = await catalogFiles(rig.appliance, /\.ldb$/);
    if (table !== undefined) {
      const { size } = await stat(table);
      const noise = Buffer.alloc(Math.min(24, size), 17 * n + 1);
      const file = await open(table, 'r+');
      await file.write(noise, 0, noise.length, Math.floor(((size - noise.length) * n) / 7));
      await file.close();
    }
    // In processes of their own: LevelDB's assertions may end the one that reads such a table.
    for (const [point, content] of rig.contents) {
      const { exitCode } = await rig.appliance.run('restore', point, '--to', to, '--json');
      if (exitCode === 0) {
        assert.ok((await readFile(to)).equals(content), 'what is restored is what was backed up');
        await rm(to);
      } else {
        refused += 1;
        assert.equal(await isThere(to), false, 'a refused restore leaves no file');
      }
    }
    await rebuildInProcesses(rig);
    await rig.using((appliance) => rig.assertAllRestore(appliance));
  }
  assert.ok(refused > 0, 'some of the noise was met');
});

/** A rebuild that LevelDB ended while it looked into the old catalog is run again; the third does not look any more. */
async function rebuildInProcesses(rig: PointsRig): Promise<void> {
  for (let attempt = 1; attempt <= 3; attempt++) {
    const { exitCode, stdout, stderr } = await rig.appliance.run('catalog', 'rebuild', '--json');
    if (exitCode === 0 || exitCode === EXIT_CODES.corrupt) return;
    assert.ok(attempt < 3, `catalog rebuild does not get to its end: ${stdout}${stderr}`);
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    assert.equal(systemErrorCode(error), 'ENOENT');
    return false;
  }
}
