// SPDX-License-Identifier: Apache-2.0
import { API_ROOT } from '../operation-routes.ts';
import { type TSchema, Type } from '../schemas/type.ts';
import { list, maybe, oneOf, orNull, params, part, report, text, word } from '../schemas/vocabulary.ts';
import type { ExtraRoute } from './extra-routes.ts';

const HTML = 'text/html';

const session: TSchema = report('Session', {
  csrfToken: orNull(text(), 'For the header `X-CSRF-Token`; null with an API token, which needs none.'),
  user: part({
    id: text(),
    name: text(),
    role: oneOf(['restorer', 'viewer', 'operator', 'admin']),
    machines: orNull(list(text()), 'Of a restorer; null for every other role.'),
  }),
});

/** Logging in and out, on every listener but the unix socket. */
export const LOGIN_ROUTES: readonly ExtraRoute[] = [
  {
    http: `POST ${API_ROOT}/session`,
    id: 'login',
    tag: 'session',
    needs: 'public',
    summary: 'Log in',
    description:
      'Sets the cookie of a session. `SECOND_FACTOR_NEEDED`: the same again, with a code. After failures from one place one has to wait ' +
      '(`LOGIN_LIMITED`, with `details.retryAfterMs`).',
    params: params({ name: word(), password: word(), code: maybe(word('Of the app, or a recovery code.')) }),
    replies: { 200: { description: 'Logged in.', schema: session } },
  },
  {
    http: `GET ${API_ROOT}/session`,
    id: 'session',
    tag: 'session',
    needs: 'anybody',
    summary: 'Who is logged in, and the token that changes need',
    replies: { 200: { description: 'The session.', schema: session } },
  },
  {
    http: `DELETE ${API_ROOT}/session`,
    id: 'logout',
    tag: 'session',
    needs: 'anybody',
    summary: 'Log out',
    replies: { 200: { description: 'Logged out.', schema: Type.Object({}) } },
  },
  {
    http: `POST ${API_ROOT}/setup`,
    id: 'setup',
    tag: 'session',
    needs: 'public',
    summary: 'Choose a password with a link that works once',
    params: params({
      token: word('What stands behind the `#` of the link.'),
      name: maybe(word('Of the first administrator; needed for that link, and only there.')),
      password: word('At least 12 characters.'),
    }),
    replies: { 200: { description: 'The user can log in.', schema: Type.Object({ name: text() }) } },
  },
  {
    http: 'GET /setup',
    id: 'setupPage',
    tag: 'session',
    needs: 'public',
    summary: 'The page where such links lead',
    replies: { 200: { description: 'A page.', type: HTML, schema: Type.String() } },
  },
  {
    http: 'GET /setup.js',
    id: 'setupScript',
    tag: 'session',
    needs: 'public',
    summary: 'What the page does',
    replies: { 200: { description: 'JavaScript.', type: 'text/javascript', schema: Type.String() } },
  },
  {
    http: 'GET /sign-on',
    id: 'signOn',
    tag: 'session',
    needs: 'public',
    summary: 'Log in at the identity provider',
    replies: { 302: { description: 'To the provider.' } },
  },
  {
    http: 'GET /sign-on/callback',
    id: 'signOnCallback',
    tag: 'session',
    needs: 'public',
    summary: 'Back from the identity provider',
    params: params({ code: maybe(word()), state: maybe(word()), iss: maybe(word()), error: maybe(word()) }),
    replies: { 200: { description: 'Logged in; a page that leads on.', type: HTML, schema: Type.String() } },
  },
];
