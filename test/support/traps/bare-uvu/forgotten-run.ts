// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from 'uvu';

const test = suite('forgotten run');
test('never runs', () => assert.fail('must be seen'));
