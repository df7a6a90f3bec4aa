// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { localPrincipal } from '../../../appliance/access/principal.ts';
import { isOperationName, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import type { OperationContext, OperationName } from '../../../appliance/api/operations.ts';
import { checkParams, checkResult, paramsFromText } from '../../../appliance/api/schemas/check.ts';
import { OPERATION_SCHEMAS, paramsSchemaOf } from '../../../appliance/api/schemas/operation-schemas.ts';
import { MAX_PARAMETER_CHARACTERS } from '../../../appliance/api/schemas/vocabulary.ts';
import { hasCode } from '../../../appliance/core/errors.ts';
import { FakeAppliance } from '../../support/fake-appliance.ts';
import { fakeResults } from '../../support/fake-results.ts';
import { suite } from '../../support/suite.ts';

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

interface AnySchema {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maxLength?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly minItems?: number;
  readonly items?: AnySchema;
  readonly properties?: Readonly<Record<string, AnySchema>>;
  readonly required?: readonly string[];
}

function membersOf(name: OperationName): Readonly<Record<string, AnySchema>> {
  return paramsSchemaOf(name).properties as Readonly<Record<string, AnySchema>>;
}

/** Something that the schema accepts, with what is required only. */
function valueOf(schema: AnySchema): unknown {
  if (schema.enum !== undefined) return schema.enum[0];
  switch (schema.type) {
    case 'boolean':
      return true;
    case 'integer':
      return Math.min(Math.max(4096, schema.minimum ?? 0), schema.maximum ?? 4096);
    case 'array':
      return (schema.minItems ?? 0) === 0 ? [] : [valueOf(schema.items ?? {})];
    case 'object':
      return Object.fromEntries(
        (schema.required ?? []).map((name) => [name, valueOf(schema.properties?.[name] ?? {})]),
      );
    case undefined:
    default:
      return 'text'.padEnd(schema.minLength ?? 0, 'x');
  }
}

/** Parameters with every member that the operation knows. */
function completeParams(name: OperationName): Record<string, unknown> {
  return Object.fromEntries(Object.entries(membersOf(name)).map(([member, schema]) => [member, valueOf(schema)]));
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number';
}

test('each is a JSON schema', () => {
  const ajv = new Ajv({ strict: true });
  for (const name of NAMES) {
    assert.equal(ajv.validateSchema(OPERATION_SCHEMAS[name].params), true, name);
    assert.equal(ajv.validateSchema(OPERATION_SCHEMAS[name].result), true, name);
  }
});

test('there is a schema for each operation, and for nothing else', () => {
  assert.deepEqual(NAMES.toSorted(), Object.keys(OPERATION_ROUTES).toSorted());
  for (const name of ['', 'toString', '__proto__', 'constructor', 'Backup']) assert.equal(isOperationName(name), false);
});

for (const name of NAMES) {
  test(`${name} takes all of its parameters, and needs exactly the required ones`, () => {
    const complete = completeParams(name);
    const { required = [] } = paramsSchemaOf(name);
    assert.equal(isAccepted(name, complete), true);
    for (const member of Object.keys(complete)) {
      const { [member]: _left, ...rest } = complete;
      assert.equal(isAccepted(name, rest), !required.includes(member), member);
    }
  });

  test(`${name} refuses unknown members and wrong types`, () => {
    const complete = completeParams(name);
    assert.equal(isAccepted(name, { ...complete, unknown: 1 }), false);
    for (const member of Object.keys(complete)) {
      for (const wrong of [
        null,
        isNumber(complete[member]) ? (membersOf(name)[member]?.minimum ?? 0) - 1 : 1,
        1.5,
        [],
        {},
        '',
        'x'.repeat((membersOf(name)[member]?.maxLength ?? MAX_PARAMETER_CHARACTERS) + 1),
      ]) {
        if (isDeepStrictEqual(wrong, complete[member])) continue;
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

const CONTEXT: OperationContext = {
  principal: localPrincipal(),
  signal: new AbortController().signal,
  onProgress: () => undefined,
  onNotice: () => undefined,
};

for (const name of NAMES) {
  test(`what the fake appliance answers to ${name} is as its schema says`, async () => {
    const fake = new FakeAppliance();
    for (const { id } of [fakeResults.export]) fake.exports.add(id);
    const host = fake.asAppliance();
    const run = host.runService.start({ operation: 'gc', params: {}, principal: localPrincipal() });
    await run.ended;
    const call = host[name] as (params: unknown, context: OperationContext) => Promise<unknown>;
    const id = OPERATION_ROUTES[name].http.includes('/runs/') ? run.id : fakeResults.export.id;
    const result = await call({ id }, CONTEXT);
    assert.deepEqual(checkResult(name, result), result);
  });
}

test('a result with a member too many, one too few, or of another type is refused, however deep', () => {
  const { timeline } = fakeResults;
  const [stretch] = timeline.stretches;
  for (const wrong of [
    { ...timeline, more: 1 },
    { ...timeline, stretches: [{ ...stretch, more: 1 }] },
    { ...timeline, stretches: [{ ...stretch, open: 'no' }] },
    { ...timeline, from: 'yesterday' },
    { ...timeline, gaps: undefined },
    undefined,
  ]) {
    assert.throws(
      () => checkResult('timeline', wrong ?? null),
      (error: unknown) => hasCode(error, 'INTERNAL'),
    );
  }
});

test('text becomes a number or a truth value where the operation wants one, and nothing else does', () => {
  assert.deepEqual(paramsFromText('migrate', { name: '12', bandwidth: '1000', verify: 'false', autostart: 'true' }), {
    name: '12',
    bandwidth: 1000,
    verify: false,
    autostart: true,
  });
  const unclear = { bandwidth: '1e3', verify: '1', autostart: '', unknown: '5', as: undefined, pool: ['a', 'b'] };
  assert.deepEqual(paramsFromText('migrate', unclear), {
    bandwidth: '1e3',
    verify: '1',
    autostart: '',
    unknown: '5',
    pool: ['a', 'b'],
  });
  assert.deepEqual(paramsFromText('status', { __proto__: 'x', constructor: 'y' } as never), { constructor: 'y' });
});

test('what text becomes is accepted exactly if the same value is', () => {
  const value = fc.oneof(fc.integer(), fc.boolean(), fc.string(), fc.double({ noNaN: true }));
  fc.assert(
    fc.property(fc.constantFrom(...NAMES), fc.infiniteStream(value), (name, values) => {
      const members = Object.keys(paramsSchemaOf(name).properties);
      const params = Object.fromEntries(members.map((member) => [member, values.next().value as unknown]));
      const texts = Object.fromEntries(Object.entries(params).map(([member, one]) => [member, String(one)]));
      if (isAccepted(name, params)) assert.deepEqual(checkParams(name, paramsFromText(name, texts)), params);
    }),
    { numRuns: 300 },
  );
});
