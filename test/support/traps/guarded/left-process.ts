// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process';
import { suite } from '../../suite.ts';

const test = suite('left process');
test('leaves a child behind', () => {
  spawn('sleep', ['100'], { stdio: 'ignore' }).unref();
});
