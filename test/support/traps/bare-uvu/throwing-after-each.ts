// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from 'uvu';

const test = suite('throwing after.each');
test.after.each(() => {
  throw new Error('must be seen');
});
test('fails', () => assert.fail('must be seen'));
test.run();
