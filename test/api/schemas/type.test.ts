// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Ajv } from 'ajv';
import { type Static, type TSchema, Type as TypeBox } from 'typebox';
import { type Immutable, type MustBeTrue, type Same, Type } from '../../../appliance/api/schemas/type.ts';
import { suite } from '../../support/suite.ts';

const test = suite('schema builders');

const ours = Type.Object(
  {
    name: Type.String({ minLength: 1 }),
    size: Type.Optional(Type.Integer({ minimum: 0, description: 'Bytes.' })),
    share: Type.Number(),
    kinds: Type.Array(Type.Enum(['full', 'incremental'])),
    until: Type.Union([Type.String({ format: 'date-time' }), Type.Null()]),
    format: Type.Literal('raw'),
    isOpen: Type.Boolean(),
    labels: Type.Record(Type.String(), { description: 'By name.' }),
    anything: Type.Unknown(),
    id: Type.Unsafe<`id-${string}`>(Type.String()),
    empty: Type.Object({}),
  },
  { additionalProperties: false, title: 'Example' },
);

const typeBoxes = TypeBox.Object(
  {
    name: TypeBox.String({ minLength: 1 }),
    size: TypeBox.Optional(TypeBox.Integer({ minimum: 0, description: 'Bytes.' })),
    share: TypeBox.Number(),
    kinds: TypeBox.Array(TypeBox.Enum(['full', 'incremental'])),
    until: TypeBox.Union([TypeBox.String({ format: 'date-time' }), TypeBox.Null()]),
    format: TypeBox.Literal('raw'),
    isOpen: TypeBox.Boolean(),
    labels: TypeBox.Record(TypeBox.String(), TypeBox.String(), { description: 'By name.' }),
    anything: TypeBox.Unknown(),
    id: TypeBox.Unsafe<`id-${string}`>(TypeBox.String()),
    empty: TypeBox.Object({}),
  },
  { additionalProperties: false, title: 'Example' },
);

type Example = Immutable<Static<typeof ours>>;

export type Proofs = [
  MustBeTrue<Same<Static<typeof ours>, Static<typeof typeBoxes>>>,
  MustBeTrue<Same<Pick<Example, 'size' | 'until'>, { readonly size?: number; readonly until: string | null }>>,
  // @ts-expect-error an optional member is a difference, at any depth
  MustBeTrue<Same<{ a: { b: 1 } }, { a: { b: 1; c?: 2 } }>>,
];

test('they make the schemas that TypeBox makes', () => {
  assert.deepEqual(JSON.parse(JSON.stringify(ours)), JSON.parse(JSON.stringify(typeBoxes)));
});

test('what they make holds nothing but JSON schema', () => {
  const compiled = new Ajv({ strict: true, validateFormats: false }).compile(ours as TSchema);
  const example: Omit<Example, 'size'> = {
    name: 'vda',
    share: 0.5,
    kinds: ['full'],
    until: null,
    format: 'raw',
    isOpen: false,
    labels: { a: 'b' },
    anything: [1],
    id: 'id-1',
    empty: {},
  };
  assert.equal(compiled(example), true);
  assert.equal(compiled({ ...example, size: -1 }), false);
  assert.equal(compiled({ ...example, other: 1 }), false);
});

test('an optional member leaves the schema that it was made from as it was', () => {
  const text = Type.String();
  Type.Optional(text);
  assert.deepEqual(Type.Object({ text }).required, ['text']);
});
