// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { suite } from '../../suite.ts';

const test = suite('uncaught exception');
test('passes, but a callback threw', async () => {
  setImmediate(() => {
    throw new Error('nobody catches it');
  });
  await delay(5);
});
