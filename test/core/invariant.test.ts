// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { InvariantViolation, invariant } from '../../appliance/core/invariant.ts';
import { suite } from '../support/suite.ts';

const test = suite('invariant');

test('does nothing for a condition that holds', () => {
  assert.doesNotThrow(() => invariant(1, 'one is truthy'));
});

test('throws its own kind of error with the statement when the condition does not hold', () => {
  for (const condition of [false, undefined, 0]) {
    assert.throws(() => invariant(condition, 'a <= b'), new InvariantViolation('invariant does not hold: a <= b'));
  }
});
