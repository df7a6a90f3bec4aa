// SPDX-License-Identifier: Apache-2.0
import type { TSchema } from '../schemas/type.ts';
import type { JsonObject, SchemaComponents } from './schema-components.ts';

/** Members of parameters: those that a schema names. */
export interface Members {
  readonly properties: Readonly<Record<string, TSchema>>;
  readonly required?: readonly string[] | undefined;
}

export interface PlacedParameters {
  /** Of path and query. */
  readonly parameters: readonly JsonObject[];
  /** Undefined where there is nothing to send. */
  readonly requestBody: JsonObject | undefined;
}

/** `/points/:point/hold` as OpenAPI writes it, and the names in it. */
export function pathTemplate(path: string): { readonly template: string; readonly names: readonly string[] } {
  const names = [...path.matchAll(/:([A-Za-z]+)/g)].map(([, name = '']) => name);
  return { template: path.replace(/:([A-Za-z]+)/g, '{$1}'), names };
}

/** Where each parameter stands: in the path, in the query of GET and DELETE, in the JSON body of the others. */
export function placeParameters(
  route: { readonly method: string; readonly names: readonly string[] },
  members: Members,
  components: SchemaComponents,
): PlacedParameters {
  const { method, names } = route;
  const required = members.required ?? [];
  const rest = Object.entries(members.properties).filter(([name]) => !names.includes(name));
  const inPath = names.map((name) =>
    parameter(name, { in: 'path', required: true }, components.use(members.properties[name] ?? { type: 'string' })),
  );
  if (method === 'GET' || method === 'DELETE') {
    const inQuery = rest.map(([name, schema]) =>
      parameter(name, { in: 'query', required: required.includes(name) }, components.use(schema)),
    );
    return { parameters: [...inPath, ...inQuery], requestBody: undefined };
  }
  if (rest.length === 0) return { parameters: inPath, requestBody: undefined };
  const needed = required.filter((name) => !names.includes(name));
  const schema = components.use({
    type: 'object',
    ...(needed.length > 0 ? { required: needed } : {}),
    properties: Object.fromEntries(rest),
    additionalProperties: false,
  });
  return {
    parameters: inPath,
    requestBody: { required: needed.length > 0, content: { 'application/json': { schema } } },
  };
}

/** A parameter whose description stands beside its schema, where readers look for it. */
function parameter(name: string, place: JsonObject, whole: JsonObject): JsonObject {
  const { description, examples, ...schema } = whole;
  const [example] = Array.isArray(examples) ? (examples as readonly string[]) : [];
  return {
    name,
    ...place,
    ...(description === undefined ? {} : { description }),
    schema,
    ...(example === undefined ? {} : { example }),
  };
}
