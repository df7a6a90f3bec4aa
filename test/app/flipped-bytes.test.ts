// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { cp, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Appliance } from '../../appliance/api/operations.ts';
import type { CheckReport } from '../../appliance/api/schemas/repository.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { Dice } from '../support/point-model.ts';
import { suite } from '../support/suite.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('flipped bytes, through the appliance', { timeoutMs: 300_000 });
const POSITIONS = 60;

async function flip(path: string, offset: number, mask: number): Promise<void> {
  const file = await open(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte.writeUInt8(byte.readUInt8(0) ^ mask, 0);
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}

/** Every file of the repository that is not the lock, with its length. */
async function filesOf(repository: string): Promise<{ readonly path: string; readonly sizeBytes: number }[]> {
  const files: { path: string; sizeBytes: number }[] = [];
  for (const entry of await readdir(repository, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && entry.name !== 'lock') files.push({ path, sizeBytes: (await stat(path)).size });
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** The first and last bytes of every file (headers, footers, trailers, ends of JSON), then anywhere, by size. */
function choosePositions(files: Awaited<ReturnType<typeof filesOf>>, dice: Dice): { path: string; offset: number }[] {
  const chosen = files.flatMap(({ path, sizeBytes }) => {
    const near = Math.min(64, sizeBytes);
    return [
      { path, offset: dice.below(near) },
      { path, offset: sizeBytes - 1 - dice.below(near) },
    ];
  });
  const total = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  while (chosen.length < POSITIONS) {
    let at = dice.below(total);
    for (const { path, sizeBytes } of files) {
      if (at < sizeBytes) {
        chosen.push({ path, offset: at });
        break;
      }
      at -= sizeBytes;
    }
  }
  return chosen;
}

/** What `check --read-data` says, or the error with which the repository is refused before that. */
async function verdict(rig: PointsRig): Promise<{ readonly report?: CheckReport; readonly refused?: string }> {
  try {
    return { report: await rig.using((appliance) => appliance.check({ readData: true }, CONTEXT)) };
  } catch (error) {
    if (!(error instanceof ApplianceError) || error.code === 'INTERNAL') throw error;
    return { refused: error.code };
  }
}

/** Restores every point; what comes must be right, and what does not come must have been named. */
async function assertNothingWrong(rig: PointsRig, appliance: Appliance, touched: ReadonlySet<string>): Promise<number> {
  let failed = 0;
  for (const { id } of await appliance.points({}, CONTEXT)) {
    try {
      const bytes = await rig.restored(appliance, id);
      assert.ok(bytes.equals(rig.contents.get(id) ?? Buffer.alloc(0)), `point ${id} restored to wrong data`);
    } catch (error) {
      if (!(error instanceof ApplianceError)) throw error;
      assert.ok(['REPOSITORY_CORRUPT', 'CHUNK_MISSING', 'OBJECT_NOT_FOUND'].includes(error.code), error.code);
      assert.ok(touched.has(id), `point ${id} cannot be restored (${error.message}), and check did not name it`);
      failed += 1;
    }
  }
  return failed;
}

test('any flipped byte is found and named, and no point ever restores to wrong data', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const second = await rig.addPoint();
  await rig.addPoint();
  await rig.using((appliance) => appliance.delete({ point: second.point }, CONTEXT));
  const { state, repository } = rig.appliance;
  const catalog = join(state, 'catalog');
  const pristine = join(rig.directory, 'catalog');
  await cp(catalog, pristine, { recursive: true });
  const dice = new Dice(2026);
  const files = await filesOf(repository);
  assert.ok(files.some(({ path }) => path.includes('/deleted/')) && files.some(({ path }) => path.includes('/packs/')));
  let failedRestores = 0;
  for (const { path, offset } of choosePositions(files, dice)) {
    const mask = 1 + dice.below(255);
    const what = `${path.slice(repository.length + 1)} at ${offset}, mask ${mask}`;
    await flip(path, offset, mask);
    const { report, refused } = await verdict(rig);
    if (report !== undefined) {
      assert.equal(report.ok, false, `not found: ${what}`);
      assert.ok(report.findings.length > 0, what);
      const touched = new Set(report.findings.flatMap(({ touches }) => touches.map(({ point }) => point)));
      for (const finding of report.findings) {
        for (const { disk, machine } of finding.touches) assert.deepEqual([disk, machine], ['disk', 'mail'], what);
      }
      failedRestores += await rig.using((appliance) => assertNothingWrong(rig, appliance, touched));
    } else assert.ok(path.endsWith('config.json'), `${what}: ${refused}`);
    await flip(path, offset, mask);
    await rm(catalog, { recursive: true });
    await cp(pristine, catalog, { recursive: true });
  }
  assert.ok(failedRestores > 10, `${failedRestores} restores met the damage`);
  const left = [...rig.contents.keys()].filter((id) => id !== second.point);
  await rig.using((appliance) => rig.assertAllRestore(appliance, left));
});

test('the command line says what is damaged with exit code 5, and restores nothing of it', async (t) => {
  const rig = await PointsRig.create(t);
  const { point } = await rig.addPoint();
  const pack = (await filesOf(rig.appliance.repository)).find(({ path }) => path.includes('/packs/'));
  assert.ok(pack !== undefined);
  await flip(pack.path, Math.floor(pack.sizeBytes / 2), 1);
  const check = await rig.appliance.run('check', '--read-data', '--json');
  assert.equal(check.exitCode, 5);
  const { findings } = JSON.parse(check.stdout) as CheckReport;
  assert.deepEqual(
    findings.flatMap(({ touches }) => touches.map((touch) => [touch.point, touch.disk])),
    [[point, 'disk']],
  );
  const to = join(rig.directory, 'out.raw');
  const error = await rig.appliance.refused('REPOSITORY_CORRUPT', 'restore', point, '--to', to);
  assert.equal(error.exitCode, 5);
  assert.deepEqual(await readdir(rig.directory).then((names) => names.filter((name) => name.includes('out'))), []);
});
