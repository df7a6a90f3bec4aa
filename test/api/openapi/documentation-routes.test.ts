// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fastify, { type FastifyInstance } from 'fastify';
import { openApiDocument } from '../../../appliance/api/openapi/document.ts';
import {
  addDocumentationPage,
  addOpenApiDocument,
  DOCS_PATH,
  OPENAPI_PATH,
} from '../../../appliance/api/openapi/documentation-routes.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const test = suite('documentation of the interface');

async function serve(t: TestContext): Promise<FastifyInstance> {
  const app = fastify({ exposeHeadRoutes: false });
  t.use({ close: () => app.close() });
  addOpenApiDocument(app as unknown as FastifyInstance);
  await addDocumentationPage(app as unknown as FastifyInstance);
  await app.ready();
  return app as unknown as FastifyInstance;
}

/** Path of everything that a page loads. */
function resourcesOf(html: string): readonly string[] {
  return [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path = '']) => path);
}

test('the document is served as it is made, and once for those who have it', async (t) => {
  const app = await serve(t);
  const first = await app.inject({ url: OPENAPI_PATH });
  assert.equal(first.statusCode, 200);
  assert.match(String(first.headers['content-type']), /^application\/json/);
  assert.deepEqual(first.json(), JSON.parse(JSON.stringify(openApiDocument())));
  const again = await app.inject({ url: OPENAPI_PATH, headers: { 'if-none-match': String(first.headers['etag']) } });
  assert.equal(again.statusCode, 304);
  assert.equal(again.body, '');
});

test('the page has no inline script, and loads what this server has and nothing else', async (t) => {
  const app = await serve(t);
  const page = await app.inject({ url: DOCS_PATH });
  assert.equal(page.statusCode, 200);
  assert.match(String(page.headers['content-type']), /^text\/html/);
  assert.deepEqual(
    [...page.body.matchAll(/<script[^>]*>([^<]*)<\/script>/g)].map(([, text = '']) => text.trim()),
    ['', '', ''],
  );
  assert.doesNotMatch(page.body, /<style| on[a-z]+=| style=/);
  const resources = resourcesOf(page.body);
  assert.ok(resources.length >= 5);
  for (const path of resources) {
    assert.ok(path.startsWith(`${DOCS_PATH}/static/`), path);
    const { statusCode } = await app.inject({ url: path });
    assert.equal(statusCode, 200, path);
  }
});

test("the policy lets it run its own scripts only, in nobody else's frame", async (t) => {
  const app = await serve(t);
  for (const path of [DOCS_PATH, `${DOCS_PATH}/`, `${DOCS_PATH}/static/swagger-initializer.js`]) {
    const { headers } = await app.inject({ url: path });
    const policy = String(headers['content-security-policy']);
    const parts = new Map(policy.split(';').map((part) => part.trim().split(/ (.*)/s) as [string, string]));
    assert.equal(parts.get('default-src'), "'none'", path);
    assert.equal(parts.get('script-src'), "'self'", path);
    assert.equal(parts.get('connect-src'), "'self'", path);
    assert.equal(parts.get('frame-ancestors'), "'none'", path);
  }
});

test('the page shows this document, and asks nobody else about it', async (t) => {
  const app = await serve(t);
  const { body } = await app.inject({ url: `${DOCS_PATH}/static/swagger-initializer.js` });
  assert.match(body, /validatorUrl: null/);
  const shown = await app.inject({ url: `${DOCS_PATH}/json` });
  assert.deepEqual(shown.json(), JSON.parse(JSON.stringify(openApiDocument())));
});

test("nothing outside of the page's own files can be named", async (t) => {
  const app = await serve(t);
  for (const path of [
    '../index.js',
    '..%2findex.js',
    '%2e%2e/package.json',
    '....//package.json',
    '/etc/passwd',
    'x\0y',
  ]) {
    const { statusCode, body } = await app.inject({ url: `${DOCS_PATH}/static/${encodeURI(path)}` });
    assert.ok(statusCode >= 400 && statusCode < 500, `${path}: ${statusCode} ${body.slice(0, 100)}`);
  }
});
