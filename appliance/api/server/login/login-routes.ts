// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Access } from '../../../access/access.ts';
import type { Principal } from '../../../access/principal.ts';
import { csrfTokenOf } from '../../../access/sessions.ts';
import { principalOfUser, type UserEntry } from '../../../access/users.ts';
import type { AuditEvent } from '../../../audit/entry.ts';
import { ApplianceError } from '../../../core/errors.ts';
import { API_ROOT } from '../../operation-routes.ts';
import { clearCookie, cookieOf, setCookie } from './cookies.ts';
import { LoginLog } from './login-log.ts';
import type { LoginParts } from './login-parts.ts';
import { checkOrigin } from './origin.ts';

const DEVICE_LIFE_SECONDS: number = 365 * 24 * 3600;
const MAX_NAME_CHARACTERS = 200;
const MAX_PASSWORD_CHARACTERS = 1024;
const MAX_CODE_CHARACTERS = 64;

/** Logging in and out with a password, and the links that work once. */
export function addLoginRoutes(app: FastifyInstance, parts: LoginParts): void {
  const { access } = parts;
  const log = new LoginLog(parts.recorder, access.clock);
  const path = `${API_ROOT}/session`;
  app.post(path, { config: { needs: 'public' } }, async (request, reply) => {
    checkOrigin(request);
    const user = await checkLogin(access, log, request);
    return beginSession(access, user, reply);
  });
  app.get(path, { config: { needs: 'anybody' } }, (request) => sessionOf(request));
  app.delete(path, { config: { needs: 'anybody' } }, async (request, reply) => {
    const secret = cookieOf(request, 'session');
    if (secret !== undefined) await access.sessions.endBySecret(secret);
    clearCookie(reply, 'session');
    return {};
  });
  app.post(`${API_ROOT}/setup`, { config: { needs: 'public' } }, async (request) => {
    checkOrigin(request);
    const body = membersOf(request);
    const name = optional(body, 'name', MAX_NAME_CHARACTERS);
    const password = required(body, 'password', MAX_PASSWORD_CHARACTERS);
    const answer = { password, ...(name === undefined ? {} : { name }) };
    const user = await access.invitations.accept(required(body, 'token', MAX_NAME_CHARACTERS), answer);
    await log.write(eventOf(request, 'setup', principalOfUser(user)), undefined);
    return { name: user.value.name };
  });
}

async function checkLogin(access: Access, log: LoginLog, request: FastifyRequest): Promise<UserEntry> {
  const body = membersOf(request);
  const name = required(body, 'name', MAX_NAME_CHARACTERS);
  const credentials = {
    name,
    password: required(body, 'password', MAX_PASSWORD_CHARACTERS),
    code: optional(body, 'code', MAX_CODE_CHARACTERS),
  };
  try {
    const user = await access.login.check(credentials, { address: request.ip, device: cookieOf(request, 'device') });
    await log.write(eventOf(request, 'login', principalOfUser(user)), undefined);
    return user;
  } catch (error) {
    await log.write({ ...eventOf(request, 'login', undefined), target: name }, error);
    throw error;
  }
}

/** Sets the cookies of a user who proved who they are; gives what pages need to know. */
export async function beginSession(access: Access, user: UserEntry, reply: FastifyReply): Promise<object> {
  const { request } = reply;
  const agent = request.headers['user-agent'] ?? '';
  const secret = await access.sessions.begin(user, { address: request.ip, agent });
  setCookie(reply, 'session', secret, { sameSite: 'Strict' });
  const device = access.login.deviceOf(user);
  setCookie(reply, 'device', device, { sameSite: 'Strict', maxAgeSeconds: DEVICE_LIFE_SECONDS });
  return { csrfToken: csrfTokenOf(secret), ...shown(principalOfUser(user)) };
}

function sessionOf(request: FastifyRequest): object {
  const { principal } = request;
  if (principal === undefined) throw new ApplianceError('UNAUTHENTICATED', 'nobody is logged in');
  const secret = request.headers.authorization === undefined ? cookieOf(request, 'session') : undefined;
  return { csrfToken: secret === undefined ? null : csrfTokenOf(secret), ...shown(principal) };
}

function shown({ id, name, role, machines }: Principal): object {
  return { user: { id, name, role, machines } };
}

/** What is written down of a login, without what it was done with. */
export function eventOf(request: FastifyRequest, action: string, who: Principal | undefined): AuditEvent {
  return {
    phase: 'event',
    action,
    who: {
      kind: who?.kind ?? 'unknown',
      id: who?.id ?? '',
      name: who?.name ?? '',
      role: who?.role ?? '',
    } as AuditEvent['who'],
    from: request.ip,
    requestId: request.id,
    target: null,
    params: {},
    outcome: 'ok',
    code: null,
    approval: null,
  };
}

function membersOf({ body }: FastifyRequest): Readonly<Record<string, unknown>> {
  if (typeof body === 'object' && body !== null && !Array.isArray(body)) return body as Record<string, unknown>;
  throw new ApplianceError('BAD_ARGUMENT', 'the body has to be a JSON object');
}

function required(body: Readonly<Record<string, unknown>>, name: string, maxCharacters: number): string {
  const text = optional(body, name, maxCharacters);
  if (text === undefined) throw new ApplianceError('BAD_ARGUMENT', `${name} is missing`);
  return text;
}

function optional(body: Readonly<Record<string, unknown>>, name: string, maxCharacters: number): string | undefined {
  const value = Object.hasOwn(body, name) ? body[name] : undefined;
  if (value === undefined) return undefined;
  if (typeof value === 'string' && value !== '' && value.length <= maxCharacters) return value;
  throw new ApplianceError('BAD_ARGUMENT', `${name} has to be a text of 1 to ${maxCharacters} characters`);
}
