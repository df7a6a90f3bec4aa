// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from '../../suite.ts';

const test = suite('failing twice');
test('fails, and so does its cleanup', (t) => {
  t.use({ close: () => Promise.reject(new Error('second cause')) });
  assert.fail('first cause');
});
