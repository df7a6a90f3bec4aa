// SPDX-License-Identifier: Apache-2.0
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Configuration, type KoaContextWithOIDC, Provider } from 'oidc-provider';

/** Somebody at the provider. */
export interface Account {
  readonly name: string;
  readonly email: string;
  readonly groups: readonly string[];
}

export interface IdentityProvider extends AsyncDisposable {
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** Who logs in next, by subject. */
  subject: string;
  readonly accounts: Map<string, Account>;
  /** Goes through a login as a browser would; gives the address to which it is sent back at the end. */
  follow(url: string): Promise<URL>;
}

/** A real OpenID provider on the loopback interface, whose users log in by themselves. */
export async function startIdentityProvider(redirectUri: string): Promise<IdentityProvider> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const accounts = new Map<string, Account>();
  const [clientId, clientSecret] = ['understudy', 'a secret of the client, long enough'];
  const handle = { subject: '' };
  const provider = new Provider(issuer, configurationOf({ clientId, clientSecret, redirectUri, accounts }));
  const callback = provider.callback();
  server.on('request', (request, response) => {
    if (request.url?.startsWith('/interaction/') !== true) return void callback(request, response);
    void provider.interactionFinished(request, response, { login: { accountId: handle.subject } });
  });
  return Object.assign(handle, {
    issuer,
    clientId,
    clientSecret,
    accounts,
    follow: (url: string) => follow(url, issuer),
    [Symbol.asyncDispose]: () => closeServer(server),
  });
}

function configurationOf(parts: {
  readonly clientId: string;
  readonly clientSecret: string;
  readonly redirectUri: string;
  readonly accounts: ReadonlyMap<string, Account>;
}): Configuration {
  const { clientId, clientSecret, redirectUri, accounts } = parts;
  return {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: [redirectUri],
        response_types: ['code'],
        grant_types: ['authorization_code'],
      },
    ],
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email'], groups: ['groups'] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    cookies: { keys: ['for this test only'] },
    pkce: { required: () => true },
    findAccount: (_context, subject) => {
      const account = accounts.get(subject);
      if (account === undefined) return undefined;
      const { name, email, groups } = account;
      return { accountId: subject, claims: () => ({ sub: subject, name, preferred_username: name, email, groups }) };
    },
    loadExistingGrant: async (context: KoaContextWithOIDC) => {
      const { client, session, provider } = context.oidc;
      const grant = new provider.Grant({ clientId: client?.clientId ?? '', accountId: session?.accountId ?? '' });
      grant.addOIDCScope('openid profile email groups');
      await grant.save();
      return grant;
    },
    ttl: { Grant: 60, Session: 60, Interaction: 60, IdToken: 60, AccessToken: 60 },
  };
}

async function follow(start: string, issuer: string): Promise<URL> {
  const cookies = new Map<string, string>();
  let url = new URL(start);
  for (let step = 0; step < 10 && url.origin === issuer; step += 1) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, { redirect: 'manual', headers: { cookie } });
    await response.arrayBuffer();
    for (const line of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      cookies.set(name, value);
    }
    const location = response.headers.get('location');
    if (location === null) throw new Error(`the provider answered ${response.status} at ${url.pathname}`);
    url = new URL(location, url);
  }
  return url;
}

async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeAllConnections();
  await closed;
}
