// SPDX-License-Identifier: Apache-2.0
import type { FastifyRequest } from 'fastify';
import type { Access } from '../../../access/access.ts';
import type { Principal } from '../../../access/principal.ts';
import { isSameText } from '../../../access/secret-text.ts';
import { csrfTokenOf } from '../../../access/sessions.ts';
import { principalOfUser } from '../../../access/users.ts';
import { ApplianceError } from '../../../core/errors.ts';
import { type AuditRecorder, deniedEvent } from '../../audited-appliance.ts';
import type { OperationGuard } from '../../guard/operation-guard.ts';
import type { AccessControl, NetworkAccess, OperationCall } from '../api-context.ts';
import { cookieOf } from './cookies.ts';
import type { LoginParts } from './login-parts.ts';
import { addLoginRoutes } from './login-routes.ts';
import { checkOrigin } from './origin.ts';
import { addSetupPage } from './setup-page.ts';
import { addSignOnRoutes } from './sign-on-routes.ts';

/** The header in which a page proves that it is one of ours. */
const CSRF_HEADER = 'x-csrf-token';
const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Who comes over the network: with an API token, or with a session in a cookie; and the routes with which one logs in. */
export function networkAccess(parts: LoginParts): NetworkAccess {
  return {
    access: new NetworkAccessControl(parts),
    extensions: [(app) => addLoginRoutes(app, parts), (app) => addSignOnRoutes(app, parts), (app) => addSetupPage(app)],
  };
}

class NetworkAccessControl implements AccessControl {
  readonly #access: Access;
  readonly #guard: OperationGuard;
  readonly #recorder: AuditRecorder;

  constructor({ access, guard, recorder }: LoginParts) {
    this.#access = access;
    this.#guard = guard;
    this.#recorder = recorder;
  }

  /** @throws UNAUTHENTICATED for a token that does not hold; FORBIDDEN for a session that another site makes use of */
  async authenticate(request: FastifyRequest): Promise<Principal | undefined> {
    const { authorization } = request.headers;
    if (authorization !== undefined) return this.#byToken(authorization);
    const secret = cookieOf(request, 'session');
    if (secret === undefined || secret === '') return undefined;
    const user = await this.#access.sessions.userOf(secret);
    if (user === undefined) return undefined;
    // Who logs in anew has no token yet; what is public does nothing for a session.
    if (request.routeOptions.config.needs !== 'public') checkOwnPage(request, secret);
    return principalOfUser(user);
  }

  authorize({ principal, operation, params, request }: OperationCall): Promise<void> {
    return this.#guard.authorize({ principal, operation, params, requestId: request.id, address: request.ip });
  }

  /** Somebody who is known, and whose role is too little for the operation. */
  async denied(request: FastifyRequest, error: unknown): Promise<void> {
    const { principal, id: requestId, ip: address, routeOptions } = request;
    const { operation } = routeOptions.config;
    if (principal === undefined || operation === undefined) return;
    await this.#recorder.record(deniedEvent({ principal, operation, params: {}, requestId, address }, error));
  }

  visible({ principal, operation }: OperationCall, result: unknown): Promise<unknown> {
    return this.#guard.visible({ principal, operation }, result);
  }

  async #byToken(authorization: string): Promise<Principal> {
    const token = /^Bearer +(\S{1,200})$/i.exec(authorization)?.[1];
    const principal = token === undefined ? undefined : await this.#access.tokens.principalOf(token);
    if (principal === undefined) throw new ApplianceError('UNAUTHENTICATED', 'the token does not hold');
    return principal;
  }
}

/** What changes something with a cookie comes from a page of ours, which alone can know the session's token. @throws FORBIDDEN */
function checkOwnPage(request: FastifyRequest, secret: string): void {
  if (SAFE_METHODS.has(request.method)) return;
  checkOrigin(request);
  const given = request.headers[CSRF_HEADER];
  if (typeof given === 'string' && isSameText(given, csrfTokenOf(secret))) return;
  throw new ApplianceError('FORBIDDEN', `with a session, ${request.method} needs the header X-CSRF-Token`, {
    hint: 'It is `csrfToken` of `GET /api/v1/session`. Programs use an API token instead.',
  });
}
