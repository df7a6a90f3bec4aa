// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, RequestListener, Server } from 'node:http';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Role } from '../../access/principal.ts';
import type { ErrorCode } from '../../core/error-codes.ts';
import { ApplianceError, hasCode, toError } from '../../core/errors.ts';
import { InvariantViolation, invariant } from '../../core/invariant.ts';
import { addMetricsRoute } from '../metrics/metrics-route.ts';
import { addDocumentationPage, addOpenApiDocument, DOCS_PATH } from '../openapi/documentation-routes.ts';
import { MAX_PARAMETER_CHARACTERS } from '../schemas/vocabulary.ts';
import type { AccessControl, ApiContext, ApiExtension, Need } from './api-context.ts';
import { refuseConnection } from './client-error.ts';
import { addOperations } from './operation-handler.ts';
import { PROBLEM_TYPE, problemOf } from './problem.ts';
import { addSecurityHeaders, refuseForeignHosts } from './security-headers.ts';
import { addServiceRoutes } from './service-routes.ts';
import type { StreamRoutes } from './stream-routes.ts';

/** Largest request that the service reads; parameters are short. */
export const MAX_REQUEST_BYTES: number = 64 * 1024;

/** An id that a client may give its request. */
const REQUEST_ID = /^[A-Za-z0-9._-]{8,64}$/;

const RANKS: Readonly<Record<Role, number>> = { restorer: 0, viewer: 1, operator: 2, admin: 3 };

export interface ApiAppOptions {
  readonly context: ApiContext;
  readonly access: AccessControl;
  readonly streams: StreamRoutes;
  /** `local`: the unix socket, which only the owner of the appliance can open. */
  readonly transport: 'local' | 'http' | 'https';
  readonly extensions: readonly ApiExtension[];
  readonly createServer: (handler: RequestListener) => Server;
}

/** The whole HTTP interface, for one listener. */
export async function buildApiApp(options: ApiAppOptions): Promise<FastifyInstance> {
  const { context, access, streams, extensions, createServer, transport } = options;
  const app: FastifyInstance = fastify({
    bodyLimit: MAX_REQUEST_BYTES,
    routerOptions: { maxParamLength: MAX_PARAMETER_CHARACTERS },
    exposeHeadRoutes: false,
    genReqId: requestId,
    // Paths that are not percent-encoded.
    frameworkErrors: (thrown, request, reply) => {
      void refuse(request, reply, { error: frameworkError(thrown), isLocal: transport === 'local' });
    },
    clientErrorHandler: refuseConnection,
    serverFactory: (handler) => createServer(handler),
  });
  // Expectations that nobody knows are not met, and need not be (RFC 9110, section 10.1.1); Node's own answer has no body.
  app.server.on('checkExpectation', (request, response) => app.routing(request, response));
  // Only JSON: what a form of another site can send is not read.
  app.removeContentTypeParser('text/plain');
  app.decorateRequest('principal', undefined);
  if (transport !== 'local') await addSecurityHeaders(app, transport);
  if (transport === 'http') refuseForeignHosts(app);
  addHooks(app, access);
  addErrorHandlers(app, options);
  addOperations(app, context, access);
  addServiceRoutes(app, context);
  addMetricsRoute(app, context);
  streams.add(app, access);
  addOpenApiDocument(app);
  if (transport !== 'local') await addDocumentationPage(app);
  for (const extension of extensions) await extension(app, context);
  return app;
}

function addHooks(app: FastifyInstance, access: AccessControl): void {
  app.addHook('onRoute', (route) => {
    // The page's routes come from a package, and hold nothing that is not in it.
    if (route.url.startsWith(DOCS_PATH)) route.config = { ...route.config, needs: 'public' };
    const { config, method, url } = route;
    invariant(config?.needs !== undefined, `the route ${String(method)} ${url} says who may use it`);
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id).header('cache-control', 'no-store');
    const { needs = 'admin' } = request.routeOptions.config;
    if (request.is404) return;
    request.principal = await access.authenticate(request);
    try {
      checkNeed(request, needs);
    } catch (error) {
      await access.denied?.(request, error);
      throw error;
    }
  });
}

function checkNeed({ principal, method, url }: FastifyRequest, need: Need): void {
  if (need === 'public') return;
  if (principal === undefined) throw new ApplianceError('UNAUTHENTICATED', 'this needs a token or a session');
  if (need === 'anybody' || RANKS[principal.role] >= RANKS[need]) return;
  throw new ApplianceError('FORBIDDEN', `${principal.name} (${principal.role}) may not ${method} ${url.split('?')[0]}`);
}

function addErrorHandlers(app: FastifyInstance, { context, transport }: ApiAppOptions): void {
  const isLocal = transport === 'local';
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0] ?? '';
    const error = new ApplianceError('PATH_UNKNOWN', `there is no ${request.method} ${path.slice(0, 200)}`);
    return refuse(request, reply, { error, isLocal });
  });
  app.setErrorHandler((thrown, request, reply) => {
    if (thrown instanceof InvariantViolation) context.onDefect(thrown);
    const error = thrown instanceof ApplianceError ? thrown : frameworkError(thrown);
    if (hasCode(error, 'INTERNAL')) context.logger.error({ err: thrown, request: request.id }, 'a request failed');
    return refuse(request, reply, { error, isLocal });
  });
}

/** What fastify refuses: a body that is too large, or is not JSON. */
function frameworkError(thrown: unknown): Error {
  const error = toError(thrown);
  const status = 'statusCode' in error && typeof error.statusCode === 'number' ? error.statusCode : 500;
  if (status >= 500) return error;
  return new ApplianceError('BAD_ARGUMENT', error.message, { details: { status } });
}

const RETRY_CODES: readonly ErrorCode[] = ['TOO_BUSY', 'SERVICE_UNREACHABLE', 'LOCKED'];

function refuse(
  request: FastifyRequest,
  reply: FastifyReply,
  { error, isLocal }: { readonly error: Error; readonly isLocal: boolean },
): FastifyReply {
  const { status: wished } = error instanceof ApplianceError ? error.details : {};
  const problem = problemOf(error, { requestId: request.id, isLocal });
  const status = problem.code === 'BAD_ARGUMENT' && typeof wished === 'number' ? wished : problem.status;
  if (RETRY_CODES.includes(problem.code)) reply.header('retry-after', '1');
  if (problem.code === 'UNAUTHENTICATED') reply.header('www-authenticate', 'Bearer');
  return reply
    .code(status)
    .type(PROBLEM_TYPE)
    .send(JSON.stringify({ ...problem, status }));
}

function requestId(request: { readonly headers: IncomingMessage['headers'] }): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
}
