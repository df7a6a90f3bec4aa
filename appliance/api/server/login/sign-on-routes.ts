// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance } from 'fastify';
import { FLOW_LIFE_MS, SIGN_ON_CALLBACK_PATH } from '../../../access/single-sign-on.ts';
import { principalOfUser } from '../../../access/users.ts';
import { API_ROOT } from '../../operation-routes.ts';
import { clearCookie, cookieOf, setCookie } from './cookies.ts';
import { LoginLog } from './login-log.ts';
import type { LoginParts } from './login-parts.ts';
import { beginSession, eventOf } from './login-routes.ts';

/** Where browsers go to log in at the identity provider. */
export const SIGN_ON_PATH = '/sign-on';

/**
 * A page of ours that leads on: the browser would not send the new cookie, which is `SameSite=Strict`, with a redirection that
 * began at another site.
 */
const ARRIVED = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=${API_ROOT}/docs"><title>Understudy</title></head>
<body><p>You are logged in. <a href="${API_ROOT}/docs">Go on</a></p></body>
</html>
`;

/** Logging in at an identity provider. */
export function addSignOnRoutes(app: FastifyInstance, { access, recorder }: LoginParts): void {
  const log = new LoginLog(recorder, access.clock);
  app.get(SIGN_ON_PATH, { config: { needs: 'public' } }, async (_request, reply) => {
    const { url, flow } = await access.signOn.begin();
    // Lax: it has to come back with the redirection from the provider.
    setCookie(reply, 'sign-on', flow, { sameSite: 'Lax', maxAgeSeconds: FLOW_LIFE_MS / 1000 });
    return reply.redirect(url, 302);
  });
  app.get(SIGN_ON_CALLBACK_PATH, { config: { needs: 'public' } }, async (request, reply) => {
    const mark = request.url.indexOf('?');
    const query = mark === -1 ? '' : request.url.slice(mark);
    clearCookie(reply, 'sign-on');
    try {
      const user = await access.signOn.finish(query, cookieOf(request, 'sign-on'));
      await log.write(eventOf(request, 'sign-on', principalOfUser(user)), undefined);
      await beginSession(access, user, reply);
    } catch (error) {
      await log.write(eventOf(request, 'sign-on', undefined), error);
      throw error;
    }
    return reply.type('text/html; charset=utf-8').send(ARRIVED);
  });
}
