// SPDX-License-Identifier: Apache-2.0
import type { FastifyInstance } from 'fastify';
import { API_ROOT } from '../../operation-routes.ts';

/** Where the links lead. What is behind the `#` stays in the browser, and out of every log. */
export const SETUP_PATH = '/setup';

const PAGE = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Understudy</title>
<script src="${SETUP_PATH}.js" defer></script></head>
<body>
<h1>Understudy</h1>
<form id="setup" method="post">
<p><label>Your name, for the first administrator only<br><input name="name" autocomplete="username"></label></p>
<p><label>Password, at least 12 characters<br>
<input name="password" type="password" required minlength="12" autocomplete="new-password"></label></p>
<p><label>The same again<br>
<input name="again" type="password" required minlength="12" autocomplete="new-password"></label></p>
<p><button>Save</button></p>
</form>
<p id="said" role="status"></p>
<noscript>This page needs JavaScript.</noscript>
</body>
</html>
`;

const SCRIPT = `// SPDX-License-Identifier: Apache-2.0
const form = document.getElementById('setup');
const said = document.getElementById('said');
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const { name, password, again } = Object.fromEntries(new FormData(form));
  if (password !== again) { said.textContent = 'The two passwords differ.'; return; }
  const body = { token: location.hash.slice(1), password, ...(name === '' ? {} : { name }) };
  const reply = await fetch('${API_ROOT}/setup', {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  });
  const answer = await reply.json();
  if (reply.ok) { form.remove(); history.replaceState(null, '', location.pathname); }
  said.textContent = reply.ok ? answer.name + ' can log in now.' : answer.message + '. ' + answer.hint;
});
`;

/** The page on which somebody with a link chooses a password. */
export function addSetupPage(app: FastifyInstance): void {
  app.get(SETUP_PATH, { config: { needs: 'public' } }, (_request, reply) =>
    reply.type('text/html; charset=utf-8').send(PAGE),
  );
  app.get(`${SETUP_PATH}.js`, { config: { needs: 'public' } }, (_request, reply) =>
    reply.type('text/javascript; charset=utf-8').send(SCRIPT),
  );
}
