// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type ControlMessage, encodeMessage, MessageParser } from '../../appliance/api/control-protocol.ts';
import { decodeError, encodeError } from '../../appliance/api/wire-error.ts';
import { ERROR_TABLE, type ErrorCode } from '../../appliance/core/error-codes.ts';
import { ApplianceError, hasCode } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('control protocol');

const message: fc.Arbitrary<ControlMessage> = fc.oneof(
  fc.record({ notice: fc.string({ unit: 'grapheme' }) }),
  fc.record({ result: fc.jsonValue() }),
  fc.record({ started: fc.record({ id: fc.uuid() }) }),
);

test('messages arrive whole and in order, however the bytes are cut', () => {
  fc.assert(
    fc.property(fc.array(message), fc.array(fc.nat({ max: 40 })), (messages, cuts) => {
      const bytes = Buffer.from(messages.map(encodeMessage).join(''));
      const parser = new MessageParser();
      const received: ControlMessage[] = [];
      let at = 0;
      for (const length of cuts) {
        received.push(...parser.push(bytes.subarray(at, at + length)));
        at += length;
      }
      received.push(...parser.push(bytes.subarray(at)));
      assert.deepEqual(received, JSON.parse(JSON.stringify(messages)));
    }),
    { numRuns: 300 },
  );
});

for (const line of ['not json', '[]', 'null', '1', '{}', '{"result":1,"error":{}}', '{"unknown":1}']) {
  test(`the line ${line} is refused`, () => {
    assert.throws(
      () => new MessageParser().push(Buffer.from(`${line}\n`)),
      (error: unknown) => hasCode(error, 'INTERNAL'),
    );
  });
}

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
