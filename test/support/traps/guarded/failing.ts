// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { suite } from '../../suite.ts';

const test = suite('failing');
test('passes', () => undefined);
test('fails', () => assert.equal(1, 2));
