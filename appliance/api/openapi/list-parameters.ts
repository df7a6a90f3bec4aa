// SPDX-License-Identifier: Apache-2.0

import type { TSchema } from '../schemas/type.ts';
import { DEFAULT_PAGE_ITEMS, MAX_PAGE_ITEMS } from '../server/page.ts';
import type { Json, JsonObject } from './schema-components.ts';

/** Members of a list's items by which it can be sorted and chosen: those with one value. */
export function scalarMembers(items: TSchema): readonly { readonly name: string; readonly schema: JsonObject }[] {
  const { properties = {} } = items as { readonly properties?: Readonly<Record<string, TSchema>> };
  return Object.entries(properties).flatMap(([name, schema]) => {
    const scalar = scalarOf(schema as Readonly<Record<string, unknown>>);
    return scalar === undefined ? [] : [{ name, schema: scalar }];
  });
}

/** A schema for the value as the query has it; null is the empty text. */
function scalarOf(schema: Readonly<Record<string, unknown>>): JsonObject | undefined {
  const { type, anyOf } = schema;
  if (Array.isArray(schema['enum'])) return { enum: schema['enum'] as Json };
  if (type === 'string' || type === 'integer' || type === 'number' || type === 'boolean') return { type };
  if (!Array.isArray(anyOf)) return undefined;
  const members = anyOf as readonly Readonly<Record<string, unknown>>[];
  const others = members.filter((member) => member['type'] !== 'null');
  return others.length === 1 && others.length < members.length && scalarOf(others[0] ?? {}) !== undefined
    ? { type: 'string' }
    : undefined;
}

/** The query of a list, besides the operation's own parameters. */
export function listParameters(items: TSchema, taken: readonly string[]): readonly JsonObject[] {
  const members = scalarMembers(items);
  const orders = members.flatMap(({ name }) => [name, `-${name}`]);
  const filters = members.filter(({ name }) => !taken.includes(name));
  return [
    query('limit', `Items of a page.`, {
      type: 'integer',
      minimum: 1,
      maximum: MAX_PAGE_ITEMS,
      default: DEFAULT_PAGE_ITEMS,
    }),
    query('after', 'Where the page begins: the `next` of the page before.', { type: 'string', minLength: 1 }),
    query('sort', "A member of the items, `-` before it for the other direction; otherwise the list's own order.", {
      enum: orders,
    }),
    ...filters.map(({ name, schema }) => query(name, `Only items whose \`${name}\` is this.`, schema)),
  ];
}

function query(name: string, description: string, schema: JsonObject): JsonObject {
  return { name, in: 'query', description, schema };
}
