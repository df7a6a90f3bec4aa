// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { ERROR_TABLE, EXIT_CODES } from '../../appliance/core/error-codes.ts';
import { ApplianceError, hasCode, systemErrorCode, toError } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('errors');

test('an error takes retry class, exit code and hint from the table', () => {
  const error = new ApplianceError('NO_SPACE', 'the repository is full');
  assert.equal(error.code, 'NO_SPACE');
  assert.equal(error.message, 'the repository is full');
  assert.equal(error.retry, 'after-repair');
  assert.equal(error.exitCode, EXIT_CODES.noSpace);
  assert.equal(error.hint, ERROR_TABLE.NO_SPACE.hint);
  assert.deepEqual(error.details, {});
});

test('a hint of the throw site replaces the one of the table', () => {
  assert.equal(new ApplianceError('NO_SPACE', 'full', { hint: 'Remove /tmp/x.' }).hint, 'Remove /tmp/x.');
});

test('the cause is kept, and absent when there is none', () => {
  const cause = new Error('first');
  assert.equal(new ApplianceError('IO_FAILED', 'second', { cause }).cause, cause);
  assert.equal('cause' in new ApplianceError('IO_FAILED', 'second'), false);
});

test('hasCode is true for an appliance error with one of the codes, and for nothing else', () => {
  const error = new ApplianceError('LOCKED', 'in use');
  assert.equal(hasCode(error, 'NO_SPACE', 'LOCKED'), true);
  assert.equal(hasCode(error, 'NO_SPACE'), false);
  assert.equal(hasCode(error), false);
  assert.equal(hasCode(Object.assign(new Error('in use'), { code: 'LOCKED' }), 'LOCKED'), false);
  assert.equal(hasCode(undefined, 'LOCKED'), false);
});

test('toError keeps errors as they are and wraps anything else as the cause', () => {
  const error = new TypeError('x');
  assert.equal(toError(error), error);
  for (const thrown of [undefined, null, 'text', { code: 1 }]) {
    const wrapped = toError(thrown);
    assert.ok(wrapped instanceof Error);
    assert.equal(wrapped.cause, thrown);
  }
});

test("systemErrorCode gives the code of Node's errors and nothing for other values", () => {
  let caught: unknown;
  try {
    readFileSync('/no/such/file');
  } catch (error) {
    caught = error;
  }
  assert.equal(systemErrorCode(caught), 'ENOENT');
  for (const value of [undefined, null, 'ENOENT', new Error('ENOENT'), { code: 2 }]) {
    assert.equal(systemErrorCode(value), undefined);
  }
});

test('exit codes are distinct and fit into a byte', () => {
  const values = Object.values(EXIT_CODES);
  assert.equal(new Set(values).size, values.length);
  assert.ok(values.every((value) => value >= 0 && value <= 255));
});
