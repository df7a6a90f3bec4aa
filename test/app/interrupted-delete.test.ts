// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { suite } from '../support/suite.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('a deletion that is cut short', { timeoutMs: 60_000 });

/** Settles as soon as a file is gone. */
async function untilGone(directory: string, name: string): Promise<void> {
  while ((await readdir(directory)).includes(name)) await new Promise(setImmediate);
}

test('delete --now that dies as soon as the manifest is gone leaves no lost point, and gc frees its space', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const { point } = await rig.addPoint();
  const folder = join(rig.appliance.repository, 'points');
  const machine = (await readdir(folder))[0] ?? '';
  const running = rig.appliance.start('delete', point, '--yes', '--now', '--json');
  await untilGone(join(folder, machine), `${point}.json`);
  running.kill('SIGKILL');
  await running.result;
  rig.contents.delete(point);
  await rig.using(async (appliance) => {
    await rig.assertAllRestore(appliance);
    const check = await appliance.check({ readData: true }, CONTEXT);
    assert.deepEqual(check.findings, [], 'nothing is called lost');
    const { freedBytes } = await appliance.gc({ now: true }, CONTEXT);
    assert.ok(freedBytes > 0);
  });
});
