// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import { OPERATION_ROUTES } from '../operation-routes.ts';
import type { OperationName } from '../operations.ts';
import { checkParams, paramsFromText } from '../schemas/check.ts';
import { paramsSchemaOf } from '../schemas/operation-schemas.ts';

export interface RequestParts {
  readonly params: unknown;
  readonly query: unknown;
  readonly body?: unknown;
}

export interface RequestParams {
  /** The operation's parameters, checked. */
  readonly params: Readonly<Record<string, unknown>>;
  /** Of a list's query, what is not a parameter of the operation. */
  readonly rest: Readonly<Record<string, string>>;
}

type Texts = Readonly<Record<string, string | readonly string[]>>;

/**
 * What a request asks of an operation: parameters from the path, and from the query (GET, DELETE) or the JSON body.
 * @throws BAD_ARGUMENT
 */
export function requestParams(name: OperationName, parts: RequestParts): RequestParams {
  const { http, isList } = OPERATION_ROUTES[name];
  const [method = ''] = http.split(' ');
  const hasBody = method !== 'GET' && method !== 'DELETE';
  const inPath = paramsFromText(name, textsOf(parts.params));
  const query = textsOf(parts.query);
  const own = hasBody || isList !== true ? query : pick(query, (member) => isParameter(name, member));
  const rest = hasBody || isList !== true ? {} : pick(query, (member) => !isParameter(name, member));
  if (hasBody && Object.keys(query).length > 0) throw wrong(`${method} takes its parameters in the body`);
  if (!hasBody && parts.body !== undefined && parts.body !== null) {
    throw wrong(`${method} takes its parameters in the query, not in a body`);
  }
  const given = hasBody ? bodyOf(parts.body) : paramsFromText(name, own);
  const twice = Object.keys(inPath).filter((member) => Object.hasOwn(given, member));
  if (twice.length > 0) throw wrong(`${twice.join(' and ')} stands in the path already`);
  const params = checkParams(name, { ...inPath, ...given }) as Readonly<Record<string, unknown>>;
  return { params, rest: single(rest) };
}

function bodyOf(body: unknown): Readonly<Record<string, unknown>> {
  if (body === undefined || body === null) return {};
  if (typeof body === 'object' && !Array.isArray(body)) return { ...body };
  throw wrong('the body must be a JSON object');
}

function isParameter(name: OperationName, member: string): boolean {
  return Object.hasOwn(paramsSchemaOf(name).properties, member);
}

/** What fastify has parsed. */
function textsOf(value: unknown): Texts {
  return typeof value === 'object' && value !== null ? { ...(value as Texts) } : {};
}

function pick(texts: Texts, isChosen: (member: string) => boolean): Texts {
  return Object.fromEntries(Object.entries(texts).filter(([member]) => isChosen(member)));
}

function single(texts: Texts): Readonly<Record<string, string>> {
  const found = Object.entries(texts).map(([member, text]): readonly [string, string] => {
    if (typeof text !== 'string') throw wrong(`${member} stands in the query more than once`);
    return [member, text];
  });
  return Object.fromEntries(found);
}

function wrong(message: string): ApplianceError {
  return new ApplianceError('BAD_ARGUMENT', message);
}
