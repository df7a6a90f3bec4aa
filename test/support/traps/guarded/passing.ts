// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { suite } from '../../suite.ts';

const test = suite('passing');
await delay(1);
test('passes, though the file waited at its top level', async (t) => {
  assert.ok(await t.tempDir());
});
