// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from 'uvu';

const test = suite('stray only');
test.only('is left from debugging', () => undefined);
test('fails', () => assert.fail('must be seen'));
test.run();
