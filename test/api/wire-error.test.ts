// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { decodeError, encodeError } from '../../appliance/api/wire-error.ts';
import { ERROR_TABLE, type ErrorCode } from '../../appliance/core/error-codes.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('errors on the wire');

test('every error code survives the wire with message, hint, details and exit code', () => {
  for (const code of Object.keys(ERROR_TABLE) as ErrorCode[]) {
    const error = new ApplianceError(code, 'what happened', { details: { disk: 'vda' }, hint: 'Do this.' });
    const arrived = decodeError(JSON.parse(JSON.stringify(encodeError(error))));
    const { message: text, hint, details, exitCode } = arrived;
    assert.deepEqual(
      { code: arrived.code, text, hint, details, exitCode },
      { code, text: 'what happened', hint: 'Do this.', details: { disk: 'vda' }, exitCode: error.exitCode },
    );
  }
});

test('a code of another version becomes INTERNAL and is kept', () => {
  const error = decodeError({ code: 'FROM_THE_FUTURE', message: 'm', hint: 'h', details: {}, exitCode: 9 });
  assert.deepEqual([error.code, error.message, error.details], ['INTERNAL', 'm', { code: 'FROM_THE_FUTURE' }]);
  assert.equal(decodeError({ code: 'constructor', message: 'm' }).code, 'INTERNAL');
  assert.equal(decodeError('nonsense').code, 'INTERNAL');
});

test('details that JSON cannot hold do not lose the error', () => {
  const cycle: Record<string, unknown> = {};
  cycle['self'] = cycle;
  const details = { offset: 2n ** 60n, cycle, none: undefined };
  const { details: sent, code } = encodeError(new ApplianceError('IO_FAILED', 'm', { details }));
  assert.equal(code, 'IO_FAILED');
  assert.equal(sent['offset'], '1152921504606846976');
  assert.match(String(sent['cycle']), /circular/i);
});

test('what an aborted signal throws is ABORTED; the same without one is INTERNAL', () => {
  const signal = AbortSignal.abort();
  const aborted = new DOMException('stop', 'AbortError');
  assert.equal(encodeError(aborted, signal).code, 'ABORTED');
  assert.equal(encodeError(aborted, new AbortController().signal).code, 'INTERNAL');
  assert.equal(encodeError('a string').message, 'a non-error was thrown: a string');
});
