// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { suite } from '../../suite.ts';

const test = suite('left daemon');
test('leaves a daemon behind', () => {
  spawn('sleep', ['101'], { detached: true, stdio: 'ignore' }).unref();
});
