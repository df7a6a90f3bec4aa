// SPDX-License-Identifier: Apache-2.0
import type { FastifyRequest } from 'fastify';
import type { Access } from '../../access/access.ts';
import type { Principal } from '../../access/principal.ts';
import { ApplianceError } from '../../core/errors.ts';
import type { OperationGuard } from '../guard/operation-guard.ts';
import type { AccessControl } from './api-context.ts';

const BEARER = /^Bearer +([\x21-\x7e]{1,512})$/i;

/** Over the network: who has an API token. */
export function tokenAccess({ tokens }: Pick<Access, 'tokens'>, guard: OperationGuard): AccessControl {
  return {
    authenticate: (request) => principalOf(request, tokens),
    authorize: (call) => guard.authorize({ ...call, requestId: call.request.id }),
  };
}

/** The principal of the request's token; undefined without one. @throws UNAUTHENTICATED for one that is not valid */
async function principalOf({ headers }: FastifyRequest, tokens: Access['tokens']): Promise<Principal | undefined> {
  const { authorization } = headers;
  if (authorization === undefined) return undefined;
  const [, token] = BEARER.exec(authorization) ?? [];
  const principal = token === undefined ? undefined : await tokens.principalOf(token);
  if (principal === undefined) throw new ApplianceError('UNAUTHENTICATED', 'the token is not valid, or not any more');
  return principal;
}
