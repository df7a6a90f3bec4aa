// SPDX-License-Identifier: Apache-2.0
import type { FastifyReply, FastifyRequest } from 'fastify';

/**
 * Cookies (RFC 6265bis). Over HTTPS their names begin with `__Host-`, so that browsers take them from nobody but this very host, and send them
 * back over HTTPS only. Over plain HTTP, which is for this machine itself, they have neither prefix nor `Secure`, which browsers would refuse.
 */

export type CookieName = 'session' | 'device' | 'sign-on';

interface CookieOptions {
  readonly sameSite: 'Strict' | 'Lax';
  /** Until the browser ends when left out. */
  readonly maxAgeSeconds?: number;
}

/** Longest header of cookies that is looked at. */
const MAX_HEADER_CHARACTERS = 16_384;

export function cookieOf(request: FastifyRequest, name: CookieName): string | undefined {
  const header = request.headers.cookie;
  if (header === undefined || header.length > MAX_HEADER_CHARACTERS) return undefined;
  const wanted = `${fullName(request, name)}=`;
  const found = header
    .split(';')
    .map((one) => one.trim())
    .find((one) => one.startsWith(wanted));
  return found?.slice(wanted.length);
}

/** Values are of our own making: base64url, and what seals have. */
export function setCookie(
  reply: FastifyReply,
  name: CookieName,
  value: string,
  { sameSite, maxAgeSeconds }: CookieOptions,
): void {
  const age = maxAgeSeconds === undefined ? '' : `; Max-Age=${maxAgeSeconds}`;
  const secure = isSecure(reply.request) ? '; Secure' : '';
  const cookie = `${fullName(reply.request, name)}=${value}; Path=/; HttpOnly; SameSite=${sameSite}${secure}${age}`;
  reply.header('set-cookie', cookie);
}

export function clearCookie(reply: FastifyReply, name: CookieName): void {
  setCookie(reply, name, '', { sameSite: 'Strict', maxAgeSeconds: 0 });
}

function fullName(request: FastifyRequest, name: CookieName): string {
  return isSecure(request) ? `__Host-${name}` : name;
}

export function isSecure(request: FastifyRequest): boolean {
  return request.protocol === 'https';
}
