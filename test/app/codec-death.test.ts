// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { errorOf } from '../support/appliance-process.ts';
import { LiveProcess } from '../support/live-process.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';
import { PointsRig } from './points-rig.ts';

const test = suite('a process whose codec thread dies', { timeoutMs: 60_000 });
const CLI: string = new URL('../../appliance/cli.ts', import.meta.url).pathname;
const PRELOAD: string = new URL('../support/codec-death.ts', import.meta.url).href;

function start(t: TestContext, rig: PointsRig, when: string, ...words: readonly string[]): LiveProcess {
  const env = { ...process.env, UNDERSTUDY_STATE: rig.appliance.state, NO_COLOR: '1', CODEC_DEATH: when };
  return t.use(new LiveProcess([process.execPath, '--import', PRELOAD, CLI, ...words], env));
}

test('a command fails and says so, lists nothing half-done, and works when it is run again', async (t) => {
  const rig = await PointsRig.create(t);
  const words = ['backup', rig.uri, '--name', 'mail', '--json'];
  const error = errorOf(await start(t, rig, 'at-work', ...words).result, 'INTERNAL');
  assert.match(error.message, /a codec thread died/);
  assert.deepEqual(await rig.appliance.points(), []);
  await rig.addPoint();
  await rig.using((open) => rig.assertAllRestore(open));
});

test('a service ends with its error and exit code instead of failing for ever, and can be started again', async (t) => {
  const rig = await PointsRig.create(t);
  const { point } = await rig.addPoint();
  const service = start(t, rig, 'at-signal', 'serve', '--json', '--log-level', 'error');
  await service.until(({ stdout }) => stdout.includes('\n}\n'));
  await rig.appliance.restored(point);
  service.kill('SIGUSR2');
  const { exitCode, stderr, stdout } = await service.result;
  assert.equal(exitCode, EXIT_CODES.failed, stderr);
  assert.match(stderr, /the service cannot go on and ends/);
  assert.match(stdout + stderr, /INTERNAL[^]*a codec thread died/);
  const next = await rig.appliance.serve();
  await rig.appliance.restored(point);
  next.kill('SIGTERM');
  assert.equal((await next.result).exitCode, 0);
});
