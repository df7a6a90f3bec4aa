// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import type { ApiContract, ContractOperation, Json } from './api-contract.ts';

/** A request as it is sent, and for which operation it was made. */
export interface HostileRequest {
  readonly operation: ContractOperation;
  readonly bytes: Buffer;
  /** Whether its framing is such that nobody can say where it ends: then it must be refused. */
  readonly isAmbiguous: boolean;
  /** Whether more comes than was said: then the connection may end before its answer was sent. */
  readonly isTooLong: boolean;
}

/** Texts that somebody forgot about. */
const TEXTS: readonly string[] = [
  '',
  ' ',
  '.',
  '..',
  '../../../../etc/passwd',
  '..\\..\\x',
  '/etc/passwd',
  '%2e%2e%2f',
  '\u0000',
  'a\u0000b',
  '__proto__',
  'constructor',
  'hasOwnProperty',
  'toString',
  'null',
  'undefined',
  'NaN',
  '-1',
  '0',
  '1e309',
  '9007199254740993',
  'true',
  '\ud800',
  '\u202e',
  'é'.repeat(300),
  'a'.repeat(5000),
  "' OR 1=1 --",
  '{{7*7}}',
  '$(id)',
  '<script>alert(1)</script>',
  'a\r\nx-injected: 1',
  'web@latest',
  'web@2026-13-45T99:99:99Z',
  'web@99999999999999999d',
  'latest',
  '@',
  '@@',
  ':',
  '-',
  '*',
];

const VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e300,
  -1e-300,
  2 ** 60,
  [],
  [[]],
  {},
  { length: 1e9 },
  { __proto__: null, a: 1 },
  { toString: 1 },
  ...TEXTS,
];

const PATH_PARTS: readonly string[] = [
  '%',
  '%zz',
  '%00',
  '%2e%2e',
  '%2F',
  '%5c..%5c',
  '..%2f..%2f',
  '%c0%ae',
  '%ed%a0%80',
  ';a=b',
  '%252e',
  'a'.repeat(9000),
  '\u00ff',
  '~',
];

const HEADERS: readonly string[] = [
  'Idempotency-Key: a b',
  `Idempotency-Key: ${'k'.repeat(300)}`,
  'Idempotency-Key: same',
  'Idempotency-Key: __proto__',
  'If-None-Match: *',
  'If-None-Match: W/"x", "y",,,',
  `If-None-Match: ${'"x",'.repeat(2000)}`,
  'If-Match: "nothing"',
  'Last-Event-ID: ',
  'Last-Event-ID: __proto__',
  'Last-Event-ID: ffffffff-999999999999999999',
  'Last-Event-ID: -1',
  'X-Request-Id: \t"<script>',
  `X-Request-Id: ${'9'.repeat(64)}`,
  'Authorization: Bearer ',
  'Authorization: Basic YTpi',
  'Cookie: a=b; __proto__=c',
  'Accept: text/html',
  'Accept-Encoding: gzip, br;q=0',
  'Origin: https://evil.example',
  'Range: bytes=0-1,5-,-9',
  'Host: evil.example:99999',
  'X-Forwarded-For: 127.0.0.1',
  'X-HTTP-Method-Override: DELETE',
  'Upgrade: websocket\r\nConnection: Upgrade',
  'Expect: something',
  'Content-Encoding: gzip',
  `X-Long: ${'x'.repeat(20_000)}`,
  `X-Longer: ${'x'.repeat(60_000)}`,
];

const METHODS: readonly string[] = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'CONNECT',
  'PROPFIND',
  'get',
  'X',
];

const TYPES: readonly string[] = [
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/json; charset=utf-16',
  'application/json;;;',
  'application/merge-patch+json',
  '/',
  '',
];

const BODIES: readonly string[] = [
  '',
  '{',
  'null',
  '[]',
  '"text"',
  '1e999',
  '{"a":1,"a":2}',
  '{"__proto__":{"role":"admin"}}',
  '{"constructor":{"prototype":{"role":"admin"}}}',
  '\u0000',
  '\ufeff{}',
  `${'['.repeat(20_000)}${']'.repeat(20_000)}`,
  `${'{"a":'.repeat(8_000)}1${'}'.repeat(8_000)}`,
  `{"target":"${'a'.repeat(70_000)}"}`,
  `{${Array.from({ length: 4000 }, (_, n) => `"m${n}":${n}`).join(',')}}`,
];

/** Framings that two readers can understand differently: RFC 9112, section 6.1 and 11.2. */
const AMBIGUOUS: readonly string[] = [
  'Content-Length: 4\r\nTransfer-Encoding: chunked',
  'Content-Length: 4\r\nContent-Length: 5',
  'Content-Length: +4',
  'Content-Length: 4, 5',
  'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding : chunked',
  'Transfer-Encoding: xchunked',
  'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
  ' Transfer-Encoding: chunked',
  'Content-Length: -1',
  'Content-Length: 4\nX: y',
];

/** A value of a schema, mostly; sometimes anything else. */
function valueOf(contract: ApiContract, schema: Json): fc.Arbitrary<unknown> {
  return fc.oneof(
    { weight: 3, arbitrary: goodValue(contract, contract.resolve(schema), 0) },
    { weight: 1, arbitrary: fc.constantFrom(...VALUES) },
  );
}

function goodValue(contract: ApiContract, schema: Json, depth: number): fc.Arbitrary<unknown> {
  const {
    type,
    anyOf,
    const: constant,
    enum: choices,
    items,
    properties = {},
    required = [],
  } = contract.resolve(schema);
  if (constant !== undefined) return fc.constant(constant);
  if (Array.isArray(choices)) return fc.constantFrom(...(choices as unknown[]));
  if (Array.isArray(anyOf) && depth < 4) {
    return fc.oneof(...(anyOf as Json[]).map((one) => goodValue(contract, one, depth + 1)));
  }
  if (type === 'integer') return fc.integer({ min: 0, max: 5000 });
  if (type === 'number') return fc.double({ noNaN: true, min: 0, max: 1e6 });
  if (type === 'boolean') return fc.boolean();
  if (type === 'null') return fc.constant(null);
  if (type === 'array') return fc.array(goodValue(contract, (items ?? {}) as Json, depth + 1), { maxLength: 3 });
  if (type === 'object') {
    const members = Object.entries(properties as Json).map(([name, one]) => [
      name,
      goodValue(contract, one as Json, depth + 1),
    ]);
    return fc.record(Object.fromEntries(members) as Record<string, fc.Arbitrary<unknown>>, {
      requiredKeys: required as string[],
    });
  }
  return fc.constantFrom('web', 'web@latest', '2026-11-20T12:00:00Z', '1d', 'x'.repeat(40), ...TEXTS);
}

/** Requests for an operation: some as they should be, most with something wrong, some that are no HTTP at all. */
export function hostileRequest(contract: ApiContract, operation: ContractOperation): fc.Arbitrary<HostileRequest> {
  return fc
    .record({
      path: pathOf(contract, operation),
      query: queryOf(contract, operation),
      method: rarely(fc.constantFrom(...METHODS), operation.method),
      body: bodyOf(contract, operation),
      type: rarely(fc.constantFrom(...TYPES), 'application/json'),
      headers: fc.array(fc.constantFrom(...HEADERS), { maxLength: 2 }),
      framing: fc.oneof(
        { weight: 12, arbitrary: fc.constant('right' as const) },
        { weight: 1, arbitrary: fc.constant('truncated' as const) },
        { weight: 1, arbitrary: fc.constant('chunked' as const) },
        { weight: 1, arbitrary: fc.constantFrom(...AMBIGUOUS) },
      ),
      version: rarely(fc.constantFrom('HTTP/1.0', 'HTTP/2.0', 'HTTP/9.9', 'ICY', ''), 'HTTP/1.1'),
    })
    .map(({ path, query, method, body, type, headers, framing, version }) => {
      const text = body ?? '';
      const hasBody = body !== undefined;
      const head = [
        `${method} ${path}${query === '' ? '' : `?${query}`} ${version}`.trimEnd(),
        'Host: understudy',
        'Connection: close',
        ...headers,
        ...(hasBody ? [`Content-Type: ${type}`] : []),
      ];
      const bytes = frame(head, hasBody ? text : undefined, framing);
      const isAmbiguous = !['right', 'truncated', 'chunked'].includes(framing) && framing !== 'Content-Length: 4\nX: y';
      return { operation, bytes, isAmbiguous, isTooLong: framing === 'truncated' };
    });
}

function frame(head: readonly string[], text: string | undefined, framing: string): Buffer {
  const body = Buffer.from(text ?? '', 'utf8');
  const send = (lines: readonly string[], rest: Buffer): Buffer =>
    Buffer.concat([Buffer.from(`${[...head, ...lines].join('\r\n')}\r\n\r\n`, 'latin1'), rest]);
  if (framing === 'right')
    return text === undefined ? send([], Buffer.alloc(0)) : send([`Content-Length: ${body.length}`], body);
  if (framing === 'truncated') return send(['Content-Length: 10'], Buffer.from('{"a":1}xyz1', 'latin1'));
  if (framing === 'chunked') {
    const chunk = Buffer.from(`${body.length.toString(16)}\r\n`, 'latin1');
    const end = Buffer.from('\r\n0\r\n\r\n', 'latin1');
    return send(
      ['Transfer-Encoding: chunked'],
      body.length === 0 ? end.subarray(2) : Buffer.concat([chunk, body, end]),
    );
  }
  // What follows would be a request of its own for whoever believes the wrong header.
  return send([framing], Buffer.from('0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n', 'latin1'));
}

function pathOf(contract: ApiContract, { template, parameters }: ContractOperation): fc.Arbitrary<string> {
  const names = [...template.matchAll(/\{([A-Za-z]+)\}/g)].map(([, name = '']) => name);
  const good = names.map((name) => {
    const schema = parameters.find((one) => one.name === name)?.schema ?? { type: 'string' };
    return fc.oneof(
      { weight: 3, arbitrary: valueOf(contract, schema).map((value) => encoded(textOf(value))) },
      { weight: 1, arbitrary: fc.constantFrom(...PATH_PARTS) },
    );
  });
  const filled = fc.tuple(...good).map((values) => {
    let path = template;
    for (const [n, name] of names.entries()) path = path.replace(`{${name}}`, () => values[n] ?? '');
    return path;
  });
  return fc.oneof(
    { weight: 12, arbitrary: filled },
    {
      weight: 1,
      arbitrary: filled.chain((path) =>
        fc.constantFrom(
          `${path}/`,
          `/${path}`,
          `${path}/..`,
          path.toUpperCase(),
          `http://x${path}`,
          `${path}#x`,
          path.slice(1),
        ),
      ),
    },
  );
}

function queryOf(contract: ApiContract, { parameters }: ContractOperation): fc.Arbitrary<string> {
  const known = parameters.filter((one) => one.in === 'query');
  const pairs = known.map((one) =>
    valueOf(contract, one.schema).map((value) => `${one.name}=${encoded(textOf(value))}`),
  );
  const names = ['limit', 'after', 'sort', 'type', '__proto__', 'constructor', 'id', 'x', ''];
  const wild = fc
    .tuple(
      fc.constantFrom(...names),
      fc.constantFrom(
        ...TEXTS,
        'WyIiLCJhIixudWxsLDFd',
        'WyIiLG51bGwsbnVsbCwtMV0',
        '-createdAt',
        '--',
        'a&limit=1&limit=2',
      ),
    )
    .map(([name, text]) => `${name}=${encoded(text)}`);
  const broken = fc.constantFrom(
    '%',
    '%zz=1',
    '&&&',
    '=',
    'a[b]=1',
    'limit=1&limit=2',
    'a=1&'.repeat(2000),
    'limit=0',
    'limit=1001',
    'sort=createdAt,id',
  );
  return fc.oneof(
    {
      weight: 3,
      arbitrary: fc
        .subarray(pairs)
        .chain((chosen) => fc.tuple(...chosen))
        .map((list) => list.join('&')),
    },
    { weight: 2, arbitrary: fc.constant('') },
    { weight: 2, arbitrary: wild },
    { weight: 1, arbitrary: broken },
  );
}

function bodyOf(contract: ApiContract, { body, method }: ContractOperation): fc.Arbitrary<string | undefined> {
  const wild = fc.constantFrom(...BODIES);
  if (method === 'GET' || method === 'DELETE') return rarely<string | undefined>(wild, undefined);
  const schema = contract.resolve(body ?? { type: 'object' });
  const { properties = {} } = schema;
  const names = [...Object.keys(properties as Json), 'unknown', 'toString'];
  const good = goodValue(contract, schema, 0);
  const wrong = fc
    .tuple(good, fc.constantFrom(...names), fc.constantFrom(...VALUES))
    .map(([value, name, other]) => ({ ...(value as object), [name]: other }));
  const less = fc
    .tuple(good, fc.constantFrom(...names))
    .map(([value, name]) => Object.fromEntries(Object.entries(value as object).filter(([member]) => member !== name)));
  return fc.oneof(
    { weight: 3, arbitrary: good.map((value) => JSON.stringify(value)) },
    { weight: 3, arbitrary: wrong.map((value) => JSON.stringify(value)) },
    { weight: 1, arbitrary: less.map((value) => JSON.stringify(value)) },
    { weight: 2, arbitrary: wild },
    { weight: 1, arbitrary: fc.constant(undefined) },
  );
}

function rarely<T>(arbitrary: fc.Arbitrary<T>, usual: T): fc.Arbitrary<T> {
  return fc.oneof({ weight: 12, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary });
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

/** Percent-encoded; half a surrogate pair as the bytes it would have. */
function encoded(text: string): string {
  return text.isWellFormed() ? encodeURIComponent(text) : '%ed%a0%80';
}
