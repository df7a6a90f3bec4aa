// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { EXTRA_ROUTES } from '../../../appliance/api/openapi/extra-routes.ts';
import { API_ROOT, isOperationName, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import type { OperationName } from '../../../appliance/api/operations.ts';
import { checkParams, checkResult, defectsOf, paramsFromText } from '../../../appliance/api/schemas/check.ts';
import { OPERATION_SCHEMAS, paramsSchemaOf } from '../../../appliance/api/schemas/operation-schemas.ts';
import { problem } from '../../../appliance/api/schemas/problem.ts';
import { runReport } from '../../../appliance/api/schemas/runs.ts';
import type { TSchema } from '../../../appliance/api/schemas/type.ts';
import { suite } from '../../support/suite.ts';

/* The examples of docs/api.md are requests and answers of this interface. */

const test = suite('docs/api.md');

const PAGE = readFileSync(new URL('../../../docs/api.md', import.meta.url), 'utf8');

interface Request {
  readonly line: string;
  readonly method: string;
  readonly url: URL;
  readonly body: unknown;
}

function blocks(language: string): readonly { readonly about: string; readonly text: string }[] {
  return [...PAGE.matchAll(new RegExp(`^\`\`\`${language}( [a-z ]+)?\n(.*?)^\`\`\``, 'gms'))].map(
    ([, about = '', text = '']) => ({ about: about.trim(), text }),
  );
}

function requests(): readonly Request[] {
  const lines = blocks('sh').flatMap(({ text }) => text.replaceAll('\\\n', ' ').trim().split('\n'));
  return lines.map((line) => {
    const address = /"\$U([^"]*)"|http:\/\/understudy(\S*)/.exec(line);
    const data = /-d '([^']*)'/.exec(line)?.[1];
    return {
      line,
      method: /-X ([A-Z]+)/.exec(line)?.[1] ?? 'GET',
      url: new URL(address?.[1] ?? address?.[2] ?? '', 'https://backup.example.org'),
      body: data === undefined ? undefined : (JSON.parse(data) as unknown),
    };
  });
}

/** The parameters in a path that is of this template. */
function matchPath(template: string, path: string): Readonly<Record<string, string>> | undefined {
  const pattern = new RegExp(`^${template.replace(/:([A-Za-z]+)/g, '(?<$1>[^/]+)')}$`);
  const found = pattern.exec(path);
  return found === null ? undefined : { ...found.groups };
}

function operationOf({ method, url }: Request): readonly [OperationName, Readonly<Record<string, string>>] | undefined {
  for (const name of Object.keys(OPERATION_ROUTES).filter(isOperationName)) {
    const [routeMethod, path = ''] = OPERATION_ROUTES[name].http.split(' ');
    const inPath = matchPath(`${API_ROOT}${path}`, url.pathname);
    if (routeMethod === method && inPath !== undefined) return [name, inPath];
  }
  return undefined;
}

const LIST_MEMBERS: readonly string[] = ['limit', 'after', 'sort'];

/** Of a list, what is asked of the list and not of the operation. */
function isOfList(name: OperationName, member: string): boolean {
  if (OPERATION_ROUTES[name].isList !== true || Object.hasOwn(paramsSchemaOf(name).properties, member)) return false;
  const { items } = OPERATION_SCHEMAS[name].result as { readonly items?: { readonly properties?: object } };
  return LIST_MEMBERS.includes(member) || Object.hasOwn(items?.properties ?? {}, member);
}

test('every request is one of the interface, with parameters that it takes', () => {
  assert.ok(requests().length >= 10);
  for (const request of requests()) {
    const found = operationOf(request);
    const { method, url, line } = request;
    if (found === undefined) {
      const isExtra = EXTRA_ROUTES.some(({ http }) => {
        const [routeMethod, path = ''] = http.split(' ');
        return routeMethod === method && matchPath(path, url.pathname) !== undefined;
      });
      assert.ok(isExtra, line);
      continue;
    }
    const [name, inPath] = found;
    const query = Object.fromEntries([...url.searchParams].filter(([member]) => !isOfList(name, member)));
    checkParams(name, { ...paramsFromText(name, query), ...(request.body as object | undefined), ...inPath });
  }
});

test('every answer is as its schema says', () => {
  assert.ok(blocks('json').length >= 4);
  for (const { about, text } of blocks('json')) {
    const value = JSON.parse(text) as { readonly items?: unknown };
    const [name = '', isPage] = about.split(' ');
    const others: Readonly<Record<string, TSchema>> = { problem, run: runReport };
    if (isOperationName(name)) checkResult(name, isPage === 'page' ? value.items : value);
    else assert.deepEqual(defectsOf(others[name] ?? assert.fail(name), value), [], about);
  }
});
