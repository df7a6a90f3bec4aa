// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, mkdir } from 'node:fs/promises';
import { StateDirectory } from '../../appliance/app/state-directory.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import { CONTEXT, PointsRig } from './points-rig.ts';

const test = suite('the start after a rebuild', { timeoutMs: 60_000 });

test('services that cannot start after a rebuild start with the next operation, when they can', async (t) => {
  const rig = await PointsRig.create(t);
  await rig.addPoint();
  const { runtimePath } = new StateDirectory(rig.appliance.state);
  await rig.using(async (appliance) => {
    let spoiled: Promise<void> | undefined;
    const spoil = async (): Promise<void> => {
      await mkdir(runtimePath, { recursive: true });
      await chmod(runtimePath, 0o777);
    };
    const onProgress = (): void => {
      spoiled ??= spoil();
    };
    const rebuild = appliance.catalogRebuild({}, { ...CONTEXT, onProgress });
    await rejectsWith(rebuild, 'IO_FAILED');
    await spoiled;
    await rejectsWith(appliance.points({}, CONTEXT), 'IO_FAILED');
    await chmod(runtimePath, 0o711);
    assert.equal((await appliance.points({}, CONTEXT)).length, 1);
  });
});
