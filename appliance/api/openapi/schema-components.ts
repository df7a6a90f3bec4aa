// SPDX-License-Identifier: Apache-2.0
import { isDeepStrictEqual } from 'node:util';
import { invariant } from '../../core/invariant.ts';
import type { TSchema } from '../schemas/type.ts';

/** JSON, as the document consists of it. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [name: string]: Json;
}

/** The schemas that have a title, by it: each stands once in the document, and everything else points there. */
export class SchemaComponents {
  readonly #schemas = new Map<string, JsonObject>();

  /** The schema as the document has it where it is used: without its named parts, which become components. */
  use(schema: TSchema): JsonObject {
    return this.#put(schema) as JsonObject;
  }

  /** All components so far, by name. */
  all(): JsonObject {
    return Object.fromEntries([...this.#schemas].toSorted(([left], [right]) => (left < right ? -1 : 1)));
  }

  #put(value: unknown): Json {
    if (Array.isArray(value)) return value.map((one) => this.#put(one));
    if (typeof value !== 'object' || value === null) return value as Json;
    const { title, ...rest } = value as Readonly<Record<string, unknown>>;
    if (typeof title !== 'string') return this.#members(value);
    const schema = this.#members(rest);
    const known = this.#schemas.get(title);
    invariant(known === undefined || isDeepStrictEqual(known, schema), `one schema has the name ${title}`);
    this.#schemas.set(title, schema);
    return { $ref: `#/components/schemas/${title}` };
  }

  #members(value: object): JsonObject {
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, this.#put(member)]));
  }
}
