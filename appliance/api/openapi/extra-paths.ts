// SPDX-License-Identifier: Apache-2.0
import type { ExtraReply, ExtraRoute } from './extra-routes.ts';
import { type DocumentedRoute, failures, JSON_TYPE } from './operation-paths.ts';
import { pathTemplate, placeParameters } from './parameters.ts';
import type { JsonObject, SchemaComponents } from './schema-components.ts';

/** A route that is not an operation, as the document describes it. */
export function extraPath(route: ExtraRoute, components: SchemaComponents): DocumentedRoute {
  const [method = '', path = ''] = route.http.split(' ');
  const { template, names } = pathTemplate(path);
  const { parameters, requestBody } = placeParameters(
    { method, names },
    route.params ?? { properties: {} },
    components,
  );
  const replies = Object.entries(route.replies).map(([status, reply]) => [status, replyOf(reply, components)]);
  const isPublic = route.needs === 'public';
  const operation: JsonObject = {
    operationId: route.id,
    tags: [route.tag],
    summary: route.summary,
    ...(route.description === undefined ? {} : { description: route.description }),
    parameters: [...parameters, ...(route.headers ?? [])],
    ...(requestBody === undefined ? {} : { requestBody }),
    responses: {
      ...(isPublic ? { default: { $ref: '#/components/responses/Problem' } } : failures(names.length > 0)),
      ...(Object.fromEntries(replies) as JsonObject),
    },
    // Empty: nobody needs to be known.
    ...(isPublic ? { security: [] } : {}),
  };
  return { template, method: method.toLowerCase(), tag: route.tag, operation };
}

function replyOf({ description, schema, type = JSON_TYPE }: ExtraReply, components: SchemaComponents): JsonObject {
  return { description, ...(schema === undefined ? {} : { content: { [type]: { schema: components.use(schema) } } }) };
}
