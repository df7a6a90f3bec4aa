// SPDX-License-Identifier: Apache-2.0
import type {
  Static,
  TArray,
  TArrayOptions,
  TBoolean,
  TEnum,
  TInteger,
  TLiteral,
  TNull,
  TNumber,
  TNumberOptions,
  TObject,
  TObjectOptions,
  TOptional,
  TProperties,
  TRecord,
  TSchema,
  TSchemaOptions,
  TString,
  TStringOptions,
  TUnion,
  TUnknown,
  TUnsafe,
} from 'typebox';

/**
 * TypeBox's builders of JSON schemas, as far as they are used here: its types, and the same schemas (a test compares the two).
 * Loading TypeBox itself takes a command that checks its parameters longer than everything else of the check.
 */

export type { Static, TObject, TProperties, TSchema };

/** What a schema describes, as it is handed around: nothing of it can be changed. */
export type Immutable<T> = unknown extends T
  ? T
  : T extends string | number | boolean | null | undefined
    ? T
    : T extends readonly (infer Item)[]
      ? readonly Immutable<Item>[]
      : { readonly [K in keyof T]: Immutable<T[K]> };

/** Whether two types are the same, down to the last optional member; `readonly` aside. */
export type Same<A, B> =
  (<T>() => T extends Immutable<A> ? 1 : 2) extends <T>() => T extends Immutable<B> ? 1 : 2 ? true : false;

/** Does not compile for anything but true: `type Proof = MustBeTrue<Same<…>>`. */
export type MustBeTrue<T extends true> = T;

/** TypeBox's own mark of a member that may be missing; not enumerable, and so no part of the JSON schema. */
const OPTIONAL = '~optional';

function create<Schema extends TSchema>(schema: object, options: object = {}): Schema {
  return { ...schema, ...options } as unknown as Schema;
}

function objectOf<Properties extends TProperties>(
  properties: Properties,
  options?: TObjectOptions,
): TObject<Properties> {
  const required = Object.keys(properties).filter((name) => !Object.hasOwn(properties[name] ?? {}, OPTIONAL));
  return create({ type: 'object', ...(required.length > 0 ? { required } : {}), properties }, options);
}

function optional<Schema extends TSchema>(schema: Schema): TOptional<Schema> {
  return Object.defineProperty({ ...schema }, OPTIONAL, { value: true, enumerable: false }) as TOptional<Schema>;
}

export const Type = {
  Object: objectOf,
  Optional: optional,
  String: (options?: TStringOptions): TString => create({ type: 'string' }, options),
  Integer: (options?: TNumberOptions): TInteger => create({ type: 'integer' }, options),
  Number: (options?: TNumberOptions): TNumber => create({ type: 'number' }, options),
  Boolean: (options?: TSchemaOptions): TBoolean => create({ type: 'boolean' }, options),
  Null: (options?: TSchemaOptions): TNull => create({ type: 'null' }, options),
  Unknown: (options?: TSchemaOptions): TUnknown => create({}, options),
  Literal: <Value extends string | number | boolean>(value: Value, options?: TSchemaOptions): TLiteral<Value> =>
    create({ type: typeof value, const: value }, options),
  Enum: <Values extends (string | number)[]>(values: readonly [...Values], options?: TSchemaOptions): TEnum<Values> =>
    create({ enum: values }, options),
  Array: <Items extends TSchema>(items: Items, options?: TArrayOptions): TArray<Items> =>
    create({ type: 'array', items }, options),
  Union: <Members extends TSchema[]>(members: [...Members], options?: TSchemaOptions): TUnion<Members> =>
    create({ anyOf: members }, options),
  /** Members of any name. */
  Record: <Value extends TSchema>(value: Value, options?: TObjectOptions): TRecord<'^.*$', Value> =>
    create({ type: 'object', patternProperties: { '^.*$': value } }, options),
  /** A schema of which the compiler believes what it describes. */
  Unsafe: <T>(schema: TSchema): TUnsafe<T> => create(schema),
} as const;
