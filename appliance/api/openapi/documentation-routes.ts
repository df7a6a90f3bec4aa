// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { API_ROOT } from '../operation-routes.ts';
import { openApiDocument } from './document.ts';

export const OPENAPI_PATH: string = `${API_ROOT}/openapi.json`;

/** The page and everything that it loads lies there. */
export const DOCS_PATH: string = `${API_ROOT}/docs`;

/**
 * What the page may do: run and show what comes from here, and ask here. React sets styles of elements, which no policy without
 * `unsafe-inline` lets through; no script is inline.
 */
const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const LOGO = `<svg xmlns="http://www.w3.org/2000/svg" width="180" height="40"><text x="0" y="28" fill="#fff"
 font-family="sans-serif" font-size="24">Understudy</text></svg>`;

/** The document; it is made when it is first asked for. */
export function addOpenApiDocument(app: FastifyInstance): void {
  let made: { readonly body: string; readonly etag: string } | undefined;
  app.get(OPENAPI_PATH, { config: { needs: 'public' } }, (request, reply) => {
    made ??= encodeDocument();
    const { body, etag } = made;
    reply.header('etag', etag);
    if (request.headers['if-none-match'] === etag) return reply.code(304).send();
    return reply.type('application/json; charset=utf-8').send(body);
  });
}

function encodeDocument(): { readonly body: string; readonly etag: string } {
  const body = JSON.stringify(openApiDocument());
  return { body, etag: `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"` };
}

/** A page that shows the document and can try it out, without anything from elsewhere. For browsers. */
export async function addDocumentationPage(app: FastifyInstance): Promise<void> {
  const { default: swagger } = await import('@fastify/swagger');
  const { default: swaggerUi } = await import('@fastify/swagger-ui');
  const document = openApiDocument();
  await app.register(swagger, { mode: 'static', specification: { document: document as never } });
  await app.register(swaggerUi, {
    routePrefix: DOCS_PATH,
    staticCSP: PAGE_POLICY,
    theme: { title: 'Understudy' },
    uiConfig: { docExpansion: 'none', defaultModelsExpandDepth: 0, displayRequestDuration: true, filter: true },
    logo: { type: 'image/svg+xml', content: LOGO },
  });
}
