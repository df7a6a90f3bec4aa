// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from 'node:timers/promises';
import { suite } from '../../suite.ts';

const test = suite('unhandled rejection');
test('passes, but something in it failed unseen', async () => {
  void Promise.reject(new Error('unseen'));
  await delay(5);
});
