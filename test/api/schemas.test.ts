// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { isOperationName } from '../../appliance/api/operation-routes.ts';
import type { OperationName } from '../../appliance/api/operations.ts';
import { checkParams, MAX_PARAMETER_CHARACTERS, OPERATION_SCHEMAS } from '../../appliance/api/schemas.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { suite } from '../support/suite.ts';

const test = suite('operation schemas');
const NAMES = Object.keys(OPERATION_SCHEMAS).filter(isOperationName);

function isAccepted(name: OperationName, params: unknown): boolean {
  try {
    checkParams(name, params);
    return true;
  } catch (error) {
    if (hasCode(error, 'BAD_ARGUMENT')) return false;
    throw error;
  }
}

const VALUES: Readonly<Record<string, unknown>> = { boolean: true, integer: 4096 };

/** Parameters with every member that the operation knows. */
function completeParams(name: OperationName): Record<string, unknown> {
  const members = Object.entries<{ readonly type?: string; readonly enum?: readonly unknown[] }>(
    OPERATION_SCHEMAS[name].properties,
  );
  return Object.fromEntries(
    members.map(([member, schema]) => [member, schema.enum?.[0] ?? VALUES[schema.type ?? ''] ?? 'text']),
  );
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number';
}

test('each is a JSON schema', () => {
  const ajv = new Ajv({ strict: true });
  for (const name of NAMES) assert.equal(ajv.validateSchema(OPERATION_SCHEMAS[name]), true, name);
});

test('there is a schema for each operation, and for nothing else', () => {
  assert.equal(NAMES.length, 39);
  for (const name of ['', 'toString', '__proto__', 'constructor', 'Backup']) assert.equal(isOperationName(name), false);
});

for (const name of NAMES) {
  test(`${name} takes all of its parameters, and needs exactly the required ones`, () => {
    const complete = completeParams(name);
    const { required } = OPERATION_SCHEMAS[name];
    assert.equal(isAccepted(name, complete), true);
    for (const member of Object.keys(complete)) {
      const { [member]: _left, ...rest } = complete;
      assert.equal(isAccepted(name, rest), !(required as readonly string[]).includes(member), member);
    }
  });

  test(`${name} refuses unknown members and wrong types`, () => {
    const complete = completeParams(name);
    assert.equal(isAccepted(name, { ...complete, unknown: 1 }), false);
    for (const member of Object.keys(complete)) {
      for (const wrong of [
        null,
        isNumber(complete[member]) ? -1 : 1,
        1.5,
        [],
        {},
        '',
        'x'.repeat(MAX_PARAMETER_CHARACTERS + 1),
      ]) {
        assert.equal(isAccepted(name, { ...complete, [member]: wrong }), false, `${member}: ${JSON.stringify(wrong)}`);
      }
    }
  });
}

test('anything at all is accepted or refused with BAD_ARGUMENT', () => {
  fc.assert(
    fc.property(fc.constantFrom(...NAMES), fc.jsonValue(), (name, params) => {
      const isPlain = typeof params === 'object' && params !== null && !Array.isArray(params);
      if (!isPlain) assert.equal(isAccepted(name, params), false);
      else isAccepted(name, params);
    }),
    { numRuns: 300 },
  );
});

test('every defect is named', () => {
  assert.throws(
    () => checkParams('restore', { to: '', format: 'tar', speed: 1 }),
    (error: unknown) => {
      assert.ok(hasCode(error, 'BAD_ARGUMENT'));
      assert.deepEqual(error.details['defects'], [
        'point is missing',
        'speed is not known',
        'to is empty',
        'format must be one of raw,qcow2,vmdk',
      ]);
      return true;
    },
  );
});
