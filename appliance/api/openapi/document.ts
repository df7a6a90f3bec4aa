// SPDX-License-Identifier: Apache-2.0
import { invariant } from '../../core/invariant.ts';
import { isOperationName, OPERATION_ROUTES } from '../operation-routes.ts';
import { problem } from '../schemas/problem.ts';
import { extraPath } from './extra-paths.ts';
import { EXTRA_ROUTES } from './extra-routes.ts';
import { type DocumentedRoute, operationPath } from './operation-paths.ts';
import { type JsonObject, SchemaComponents } from './schema-components.ts';
import { TAGS } from './tags.ts';

/** Of the interface, not of the program: it changes with what clients have to know. */
const INTERFACE_VERSION = '1.0.0';

const DESCRIPTION = `Everything that the appliance does. Sizes are in bytes, times are ISO 8601 in UTC, durations are in milliseconds.
What takes its time is a run. Errors are problem details with a code. How it is used: docs/api.md.`;

/** Name of the cookie of a session; browsers take one of such a name from nobody but us, over HTTPS. */
export const SESSION_COOKIE = '__Host-session';

/**
 * The HTTP interface as OpenAPI 3.1, made from the table of operations, their schemas, and the table of the other routes.
 * The same at every call.
 */
export function openApiDocument(): JsonObject {
  const components = new SchemaComponents();
  const routes = [
    ...Object.keys(OPERATION_ROUTES)
      .filter(isOperationName)
      .map((name) => operationPath(name, components)),
    ...EXTRA_ROUTES.map((route) => extraPath(route, components)),
  ];
  const responses = problemResponses(components.use(problem));
  return {
    openapi: '3.1.0',
    info: {
      title: 'Understudy',
      version: INTERFACE_VERSION,
      description: DESCRIPTION,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }, { session: [] }],
    tags: tagsOf(routes),
    paths: pathsOf(routes),
    components: {
      schemas: components.all(),
      responses,
      parameters: PARAMETERS,
      headers: {
        ETag: { description: 'Names this answer, for `If-None-Match`.', schema: { type: 'string' } },
        RetryAfter: { description: 'Seconds to wait before another try.', schema: { type: 'integer' } },
      },
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', description: 'A token, or a session of the command line.' },
        session: { type: 'apiKey', in: 'cookie', name: SESSION_COOKIE, description: 'The session of a browser.' },
      },
    },
  };
}

const PARAMETERS: JsonObject = {
  IdempotencyKey: {
    name: 'Idempotency-Key',
    in: 'header',
    description:
      'Chosen by the client: a request that comes twice with the same key is done once, and answered the same both times.',
    schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x21-\\x7e]+$' },
  },
  CsrfToken: {
    name: 'X-CSRF-Token',
    in: 'header',
    description: 'The `csrfToken` of the session, where the request has the cookie of one. An API token needs none.',
    schema: { type: 'string' },
  },
  IfNoneMatch: {
    name: 'If-None-Match',
    in: 'header',
    description: 'The `ETag` of an earlier answer: 304 when this one would be the same.',
    schema: { type: 'string' },
  },
};

function problemResponses(schema: JsonObject): JsonObject {
  const response = (description: string): JsonObject => ({
    description,
    content: { 'application/problem+json': { schema } },
  });
  return {
    BadRequest: response('Parameters that are missing, unknown or wrong; each stands in `details.defects`.'),
    Unauthenticated: response('Nobody known: no token or session, or one that has ended.'),
    Denied: response('Known, but it may not do this.'),
    NotFound: response('What the path names does not exist.'),
    Problem: {
      ...response('Any other problem: its `code` tells which.'),
      headers: { 'Retry-After': { $ref: '#/components/headers/RetryAfter' } },
    },
  };
}

/**
 * Routes by path. Two paths that differ in the names of their parameters alone are one (OpenAPI 3.1, section 4.8.8): the first
 * names them.
 */
function pathsOf(routes: readonly DocumentedRoute[]): JsonObject {
  const paths: Record<string, JsonObject> = {};
  const templates = new Map<string, string>();
  for (const { template, method, operation } of routes) {
    const shape = template.replace(NAME, '{}');
    const first = templates.get(shape) ?? template;
    templates.set(shape, first);
    const path = paths[first] ?? {};
    invariant(!Object.hasOwn(path, method), `${method} ${template} is there once`);
    paths[first] = { ...path, [method]: first === template ? operation : renamed(operation, template, first) };
  }
  return paths;
}

const NAME = /\{([A-Za-z]+)\}/g;

/** The operation at a path whose parameters have other names, in the same places. */
function renamed(operation: JsonObject, from: string, to: string): JsonObject {
  const after = [...to.matchAll(NAME)].map(([, name = '']) => name);
  const names = new Map([...from.matchAll(NAME)].map(([, name = ''], index) => [name, after[index] ?? '']));
  const parameters = operation['parameters'] as readonly (JsonObject & { readonly name: string })[];
  return {
    ...operation,
    parameters: parameters.map((one) => (one['in'] === 'path' ? { ...one, name: names.get(one.name) ?? '' } : one)),
  };
}

function tagsOf(routes: readonly DocumentedRoute[]): JsonObject[] {
  const names = [...new Set(routes.map(({ tag }) => tag))].toSorted();
  return names.map((name) => ({ name, description: TAGS[name] ?? '' }));
}
