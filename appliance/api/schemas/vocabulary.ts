// SPDX-License-Identifier: Apache-2.0
import type { TArray, TBoolean, TEnum, TInteger, TNull, TNumber, TOptional, TString, TUnion, TUnsafe } from 'typebox';
import { type TObject, type TProperties, type TSchema, Type } from './type.ts';

/**
 * What the schemas of parameters and results are made of. Sizes in bytes, times as ISO 8601 in UTC, durations in
 * milliseconds. A schema with a `title` is a component of that name in the OpenAPI document.
 */

/** Longest string that any parameter may hold; paths and NBD URIs are the longest. */
export const MAX_PARAMETER_CHARACTERS = 4096;

// Parameters: bounded, and nothing but what is named.

/** Parameters of these members and no others. */
export function params<Members extends TProperties>(members: Members, description?: string): TObject<Members> {
  return Type.Object(members, { additionalProperties: false, ...describe(description) });
}

/** A string that is not empty. The example is one that most appliances would take. */
export function word(description?: string, example?: string): TString {
  const examples = example === undefined ? {} : { examples: [example] };
  return Type.String({ minLength: 1, maxLength: MAX_PARAMETER_CHARACTERS, ...describe(description), ...examples });
}

/** A whole number within bounds. */
export function number(bounds: { readonly from: number; readonly to: number }, description?: string): TInteger {
  return Type.Integer({ minimum: bounds.from, maximum: bounds.to, ...describe(description) });
}

export function maybe<Schema extends TSchema>(schema: Schema): TOptional<Schema> {
  return Type.Optional(schema);
}

/** Parameters of an operation that takes none. */
export const noParams: TUnsafe<Record<string, never>> = Type.Unsafe<Record<string, never>>(params({}));

// Both.

export function flag(description?: string): TBoolean {
  return Type.Boolean(describe(description));
}

/** One of these words. */
export function oneOf<Words extends string[]>(words: readonly [...Words], description?: string): TEnum<Words> {
  return Type.Enum(words, describe(description));
}

export function list<Items extends TSchema>(items: Items, description?: string): TArray<Items> {
  return Type.Array(items, describe(description));
}

// Results.

/** A result, or a part of one, that the OpenAPI document knows by its title. */
export function report<Members extends TProperties>(
  title: string,
  members: Members,
  description?: string,
): TObject<Members> {
  return Type.Object(members, { title, ...describe(description) });
}

/** A part of a result without a name of its own. */
export function part<Members extends TProperties>(members: Members, description?: string): TObject<Members> {
  return Type.Object(members, describe(description));
}

export function text(description?: string): TString {
  return Type.String(describe(description));
}

/** A moment: ISO 8601 in UTC. */
export function time(description?: string): TString {
  return Type.String({ format: 'date-time', ...describe(description) });
}

/** So many of something, bytes among them. */
export function count(description?: string): TInteger {
  return Type.Integer({ minimum: 0, ...describe(description) });
}

/** A quantity that is not counted: milliseconds, a rate. */
export function amount(description?: string): TNumber {
  return Type.Number({ minimum: 0, ...describe(description) });
}

export function orNull<Schema extends TSchema>(schema: Schema, description?: string): TUnion<[Schema, TNull]> {
  return Type.Union([schema, Type.Null()], describe(description));
}

/** The result of an operation that has nothing to say. */
export const nothing: TUnsafe<Record<string, never>> = Type.Unsafe<Record<string, never>>(Type.Object({}));

function describe(description: string | undefined): { readonly description?: string } {
  return description === undefined ? {} : { description };
}
