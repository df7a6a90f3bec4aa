// SPDX-License-Identifier: Apache-2.0
import { API_ROOT, OPERATION_ROUTES, type OperationRoute } from '../operation-routes.ts';
import type { OperationName } from '../operations.ts';
import { OPERATION_SCHEMAS, paramsSchemaOf } from '../schemas/operation-schemas.ts';
import { runReport } from '../schemas/runs.ts';
import type { TSchema } from '../schemas/type.ts';
import { listParameters } from './list-parameters.ts';
import { pathTemplate, placeParameters } from './parameters.ts';
import { describeRoute } from './route-description.ts';
import type { Json, JsonObject, SchemaComponents } from './schema-components.ts';

/** What one route is in the document. */
export interface DocumentedRoute {
  readonly template: string;
  /** In lower case. */
  readonly method: string;
  readonly tag: string;
  readonly operation: JsonObject;
}

export const JSON_TYPE = 'application/json';

/** An operation of the table, as the document describes it. */
export function operationPath(name: OperationName, components: SchemaComponents): DocumentedRoute {
  const route: OperationRoute = OPERATION_ROUTES[name];
  const [method = '', path = ''] = route.http.split(' ');
  const { template, names } = pathTemplate(`${API_ROOT}${path}`);
  const members = paramsSchemaOf(name);
  const { parameters, requestBody } = placeParameters({ method, names }, members, components);
  const [, tag = ''] = path.split('/');
  const operation: JsonObject = {
    operationId: name,
    tags: [tag],
    summary: route.summary,
    description: describeRoute(route),
    parameters: [
      ...parameters,
      ...(route.isList === true ? listParameters(itemsOf(name), Object.keys(members.properties)) : []),
      ...headersOf(method),
    ],
    ...(requestBody === undefined ? {} : { requestBody }),
    responses: { ...success(name, route, components), ...failures(names.length > 0) },
  };
  return { template, method: method.toLowerCase(), tag, operation };
}

function headersOf(method: string): readonly JsonObject[] {
  const names = method === 'GET' ? ['IfNoneMatch'] : ['IdempotencyKey', 'CsrfToken'];
  return names.map((name) => ({ $ref: `#/components/parameters/${name}` }));
}

/** The schema of a list's items. */
function itemsOf(name: OperationName): TSchema {
  const { items } = OPERATION_SCHEMAS[name].result as { readonly items?: TSchema };
  return items ?? {};
}

function success(name: OperationName, route: OperationRoute, components: SchemaComponents): JsonObject {
  const schema = components.use(OPERATION_SCHEMAS[name].result);
  if (route.kind === 'run') return { 202: started(schema, components) };
  const isRead = route.kind === 'read';
  const whole = route.isList === true ? pageOf(components.use(itemsOf(name))) : schema;
  return {
    200: {
      description: route.isList === true ? 'A page of the list.' : 'Done.',
      ...(isRead ? { headers: { ETag: { $ref: '#/components/headers/ETag' } } } : {}),
      content: { [JSON_TYPE]: { schema: whole } },
    },
    ...(isRead ? { 304: { description: 'Not changed since the `If-None-Match`.' } } : {}),
  };
}

function started(result: JsonObject, components: SchemaComponents): JsonObject {
  const run = components.use(runReport);
  return {
    description: 'The run, which has begun or waits for its turn.',
    headers: { Location: { description: 'Of the run.', schema: { type: 'string' } } },
    content: {
      [JSON_TYPE]: {
        schema: { allOf: [run, { type: 'object', properties: { result: { anyOf: [result, { type: 'null' }] } } }] },
      },
    },
  };
}

function pageOf(item: JsonObject): JsonObject {
  return {
    type: 'object',
    required: ['items', 'next', 'total'],
    properties: {
      items: { type: 'array', items: item },
      next: {
        anyOf: [{ type: 'string' }, { type: 'null' }],
        description: 'The `after` of the next page; null on the last.',
      },
      total: { type: 'integer', minimum: 0, description: 'Items on all pages.' },
    },
  };
}

/** The answers that every route of somebody known has. */
export function failures(hasPathParameters: boolean): JsonObject {
  const problem = (name: string): Json => ({ $ref: `#/components/responses/${name}` });
  return {
    400: problem('BadRequest'),
    401: problem('Unauthenticated'),
    403: problem('Denied'),
    ...(hasPathParameters ? { 404: problem('NotFound') } : {}),
    default: problem('Problem'),
  };
}
