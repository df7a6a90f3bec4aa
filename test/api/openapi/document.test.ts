// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv } from 'ajv';
import { openApiDocument } from '../../../appliance/api/openapi/document.ts';
import { EXTRA_ROUTES } from '../../../appliance/api/openapi/extra-routes.ts';
import { pathTemplate } from '../../../appliance/api/openapi/parameters.ts';
import { TAGS } from '../../../appliance/api/openapi/tags.ts';
import { API_ROOT, isOperationName, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import { paramsSchemaOf } from '../../../appliance/api/schemas/operation-schemas.ts';
import { suite } from '../../support/suite.ts';

const test = suite('openapi document');

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
}

interface Operation {
  readonly operationId: string;
  readonly tags: readonly string[];
  readonly summary: string;
  readonly parameters: readonly (Parameter & { readonly $ref?: string })[];
  readonly requestBody?: {
    readonly required: boolean;
    readonly content: { readonly 'application/json': { readonly schema: BodySchema } };
  };
  readonly responses: Readonly<Record<string, unknown>>;
}

interface BodySchema {
  readonly required?: readonly string[];
  readonly properties: Readonly<Record<string, unknown>>;
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: Readonly<Record<string, Readonly<Record<string, object>>>>;
  readonly tags: readonly { readonly name: string; readonly description: string }[];
}

const document = openApiDocument() as unknown as Document;
const NAMES = Object.keys(OPERATION_ROUTES).filter(isOperationName);
const HTTP: readonly string[] = [
  ...NAMES.map((name) => {
    const [method = '', path = ''] = OPERATION_ROUTES[name].http.split(' ');
    return `${method} ${API_ROOT}${path}`;
  }),
  ...EXTRA_ROUTES.map(({ http }) => http),
];

function operations(): readonly (Operation & { readonly http: string })[] {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ ...operation, http: `${method.toUpperCase()} ${path}` })),
  );
}

/** A path without the names of its parameters. */
function shapeOf(path: string): string {
  return path.replace(/\{[A-Za-z]+\}/g, '{}');
}

function referencesIn(value: unknown): readonly string[] {
  if (typeof value !== 'object' || value === null) return [];
  if ('$ref' in value && typeof value.$ref === 'string') return [value.$ref];
  return Object.values(value).flatMap(referencesIn);
}

test('it is OpenAPI 3.1', async () => {
  const { valid, errors } = await new Validator().validate(openApiDocument() as Record<string, unknown>);
  assert.deepEqual({ valid, errors }, { valid: true, errors: undefined });
});

test('every reference leads to a component, and every component is used', () => {
  const references = new Set(referencesIn(document));
  const components = Object.entries(document.components).flatMap(([kind, members]) =>
    Object.keys(members).map((name) => `#/components/${kind}/${name}`),
  );
  assert.deepEqual(
    [...references].filter((one) => !components.includes(one)),
    [],
  );
  assert.deepEqual(
    components.filter((one) => !references.has(one) && !one.startsWith('#/components/securitySchemes/')),
    [],
  );
});

test('every component is a JSON schema', () => {
  const ajv = new Ajv({ strict: false, validateFormats: false });
  ajv.addSchema({ ...document, $id: 'document' }, 'document');
  for (const name of Object.keys(document.components['schemas'] ?? {})) {
    ajv.compile({ $ref: `document#/components/schemas/${name}` });
  }
});

test('it has the routes of both tables, each once, and no other', () => {
  const documented = operations().map(({ http }) => http);
  assert.deepEqual(
    documented.map(shapeOf).toSorted(),
    HTTP.map((http) => shapeOf(pathTemplate(http).template)).toSorted(),
  );
  assert.equal(new Set(HTTP).size, HTTP.length);
});

test('paths differ in more than the names of their parameters, and name exactly the parameters that they have', () => {
  const paths = Object.keys(document.paths);
  assert.equal(new Set(paths.map(shapeOf)).size, paths.length);
  for (const { http, parameters } of operations()) {
    const inPath = parameters.filter((one) => one.in === 'path').map((one) => `{${one.name}}`);
    assert.deepEqual(http.match(/\{[A-Za-z]+\}/g) ?? [], inPath, http);
  }
});

test('each operation has an id of its own, a tag with a description, and a summary', () => {
  const all = operations();
  assert.equal(new Set(all.map(({ operationId }) => operationId)).size, all.length);
  for (const { tags, summary, operationId } of all) {
    assert.equal(tags.length, 1, operationId);
    assert.ok(TAGS[tags[0] ?? ''], `${operationId}: the tag ${String(tags[0])} has a description`);
    assert.match(summary, /^[A-Z].*[^.]$/, operationId);
  }
});

test('no fixed part of a path stands where another route of the method has a parameter', () => {
  const collisions = HTTP.flatMap((http) =>
    HTTP.filter((other) => other !== http && takesPlaceOf(http.split(/[ /]+/), other.split(/[ /]+/))).map(
      (other) => `${http}, ${other}`,
    ),
  );
  assert.deepEqual(collisions, []);
});

/** Whether a request for the first could be one for the second: parameters take what stands fixed in the other. */
function takesPlaceOf(parts: readonly string[], others: readonly string[]): boolean {
  return (
    parts.length === others.length &&
    parts.every((part, index) => part === others[index] || (others[index] ?? '').startsWith(':'))
  );
}

for (const name of NAMES) {
  test(`${name}: every parameter stands in one place, and is required there as in its schema`, () => {
    const found = operations().find(({ operationId }) => operationId === name);
    assert.ok(found !== undefined);
    const { properties, required = [] } = paramsSchemaOf(name);
    const body = found.requestBody?.content['application/json'].schema;
    const isList = OPERATION_ROUTES[name].isList === true;
    const places = found.parameters.filter(
      (one) => one.$ref === undefined && (one.in === 'path' || one.in === 'query'),
    );
    // The document may have another name for what stands in the path.
    const inPath = [...OPERATION_ROUTES[name].http.matchAll(/:([A-Za-z]+)/g)].map(([, one = '']) => one);
    assert.equal(places.filter((one) => one.in === 'path').length, inPath.length);
    const inQuery = places.filter((one) => one.in === 'query' && (!isList || Object.hasOwn(properties, one.name)));
    assert.deepEqual(
      [...inPath, ...inQuery.map((one) => one.name), ...Object.keys(body?.properties ?? {})].toSorted(),
      Object.keys(properties).toSorted(),
    );
    const needed = [
      ...inPath,
      ...inQuery.filter((one) => one.required === true).map((one) => one.name),
      ...(body?.required ?? []),
    ];
    assert.deepEqual(needed.toSorted(), [...required].toSorted());
    assert.equal(new Set(places.map((one) => one.name)).size, places.length, 'no name twice');
  });
}

test('a list can be sorted and chosen by the members of its items that have one value', () => {
  const points = operations().find(({ operationId }) => operationId === 'points');
  const names = points?.parameters.map((one) => one.name).filter((one) => one !== undefined) ?? [];
  for (const name of ['limit', 'after', 'sort', 'machine', 'machineId', 'kind', 'lost'])
    assert.ok(names.includes(name), name);
  assert.ok(!names.includes('hold'));
});

test('long work answers with a run, everything else with its result', () => {
  for (const name of NAMES) {
    const found = operations().find(({ operationId }) => operationId === name);
    assert.equal(Object.hasOwn(found?.responses ?? {}, '202'), OPERATION_ROUTES[name].kind === 'run', name);
    assert.equal(Object.hasOwn(found?.responses ?? {}, '200'), OPERATION_ROUTES[name].kind !== 'run', name);
  }
});

test('it is the same each time', () => {
  assert.equal(JSON.stringify(openApiDocument()), JSON.stringify(document));
});
