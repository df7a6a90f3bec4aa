// SPDX-License-Identifier: Apache-2.0
import type { Configuration, IDToken } from 'openid-client';
import type { SealedSecret, SecretBox, SecretPlace } from '../config/secret-box.ts';
import type { Clock } from '../core/clock.ts';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { AccessSettingsStore, GroupRole, SingleSignOnSettings } from './access-settings.ts';
import { hashSecret } from './secret-text.ts';
import { Turns } from './turns.ts';
import { checkName, type Identity, type UserEntry, type Users } from './users.ts';

/** Where the provider sends the browser back to, below the origin of the appliance. */
export const SIGN_ON_CALLBACK_PATH = '/sign-on/callback';

export const CLIENT_SECRET_PLACE: SecretPlace = {
  collection: 'access',
  id: 'access',
  field: 'singleSignOn.clientSecret',
};

/** A login has to come back from the provider within this time. */
export const FLOW_LIFE_MS = 10 * 60_000;
const FLOW_PLACE: SecretPlace = { collection: 'sign-on', id: 'browser', field: 'flow' };

/** What the provider says of itself is asked for again after this time. */
const DISCOVERY_LIFE_MS = 60 * 60_000;
const PROVIDER_TIMEOUT_SECONDS = 10;
const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]']);

/** What the browser carries to the provider and back, sealed. */
interface Flow {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
  readonly expiresAtMs: number;
}

type Claims = Readonly<Record<string, unknown>>;

/**
 * Logging in by OpenID Connect: authorization code with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636). Between the two
 * steps nothing is kept here: the browser has it in a cookie that only we can read, so that nobody can fill our memory.
 * Users are known by issuer and subject, never by a name or address, which providers let people change.
 */
export class SingleSignOn {
  readonly #settings: AccessSettingsStore;
  readonly #users: Users;
  readonly #box: SecretBox;
  readonly #clock: Clock;
  readonly #turns = new Turns({ atOnce: 4, waiting: 32 });
  #discovered: { readonly key: string; readonly atMs: number; readonly configuration: Configuration } | undefined;

  constructor(parts: {
    readonly settings: AccessSettingsStore;
    readonly users: Users;
    readonly box: SecretBox;
    readonly clock: Clock;
  }) {
    this.#settings = parts.settings;
    this.#users = parts.users;
    this.#box = parts.box;
    this.#clock = parts.clock;
  }

  /** Where to send the browser, and what it has to bring back. @throws NOT_FOUND when it is not set up; SIGN_ON_FAILED */
  async begin(): Promise<{ readonly url: string; readonly flow: string }> {
    const settings = this.#required();
    const client = await import('openid-client');
    const configuration = await this.#turns.run(() => this.#discover(settings));
    const [state, nonce, verifier] = [client.randomState(), client.randomNonce(), client.randomPKCECodeVerifier()];
    const url = client.buildAuthorizationUrl(configuration, {
      redirect_uri: `${settings.origin}${SIGN_ON_CALLBACK_PATH}`,
      scope: ['openid', ...settings.scopes].join(' '),
      state,
      nonce,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    const flow: Flow = { state, nonce, verifier, expiresAtMs: this.#clock.nowMs() + FLOW_LIFE_MS };
    return { url: url.href, flow: this.#box.seal(FLOW_PLACE, JSON.stringify(flow)) };
  }

  /** The user who came back. `query` is that of the callback, with its `?`. @throws SIGN_ON_FAILED, NOT_FOUND */
  async finish(query: string, sealedFlow: string | undefined): Promise<UserEntry> {
    const settings = this.#required();
    const flow = this.#openFlow(sealedFlow);
    const claims = await this.#turns.run(() => this.#claims(settings, flow, query));
    return this.#userOf(settings, claims);
  }

  #required(): SingleSignOnSettings {
    const { singleSignOn } = this.#settings.current;
    if (singleSignOn === null) throw new ApplianceError('NOT_FOUND', 'single sign-on is not set up');
    return singleSignOn;
  }

  #openFlow(sealed: string | undefined): Flow {
    try {
      const flow = JSON.parse(this.#box.open(FLOW_PLACE, (sealed ?? '') as SealedSecret)) as Flow;
      if (this.#clock.nowMs() < flow.expiresAtMs) return flow;
    } catch (error) {
      if (!hasCode(error, 'SECRET_UNREADABLE')) throw error;
    }
    throw new ApplianceError('SIGN_ON_FAILED', 'the login took too long, or was begun in another browser', {
      hint: 'Begin again.',
    });
  }

  async #claims(settings: SingleSignOnSettings, flow: Flow, query: string): Promise<Claims> {
    const client = await import('openid-client');
    const configuration = await this.#discover(settings);
    try {
      const answer = new URL(`${settings.origin}${SIGN_ON_CALLBACK_PATH}${query}`);
      const tokens = await client.authorizationCodeGrant(configuration, answer, {
        expectedState: flow.state,
        expectedNonce: flow.nonce,
        pkceCodeVerifier: flow.verifier,
        idTokenExpected: true,
      });
      const claims: IDToken | undefined = tokens.claims();
      if (claims === undefined) throw new ApplianceError('SIGN_ON_FAILED', 'the provider did not say who it is');
      const { groupsClaim } = settings;
      if (configuration.serverMetadata().userinfo_endpoint === undefined) return claims;
      if (groupsClaim === null || Object.hasOwn(claims, groupsClaim)) return claims;
      const more = await client.fetchUserInfo(configuration, tokens.access_token, claims.sub);
      return { ...more, ...claims };
    } catch (error) {
      throw failed('the identity provider did not confirm the login', error);
    }
  }

  async #discover(settings: SingleSignOnSettings): Promise<Configuration> {
    const { issuer, clientId, clientSecret } = settings;
    const key = JSON.stringify([issuer, clientId, clientSecret]);
    const nowMs = this.#clock.elapsedMs();
    const known = this.#discovered;
    if (known?.key === key && nowMs - known.atMs < DISCOVERY_LIFE_MS) return known.configuration;
    const client = await import('openid-client');
    const url = checkSignOnUrl(issuer, 'issuer');
    const secret = clientSecret === null ? undefined : this.#box.open(CLIENT_SECRET_PLACE, clientSecret);
    try {
      const configuration = await client.discovery(
        url,
        clientId,
        secret,
        secret === undefined ? client.None() : client.ClientSecretBasic(secret),
        {
          timeout: PROVIDER_TIMEOUT_SECONDS,
          execute: url.protocol === 'http:' ? [client.allowInsecureRequests] : [],
        },
      );
      this.#discovered = { key, atMs: nowMs, configuration };
      return configuration;
    } catch (error) {
      throw failed('the identity provider could not be reached', error);
    }
  }

  async #userOf(settings: SingleSignOnSettings, claims: Claims): Promise<UserEntry> {
    const identity = identityOf(claims);
    const given = settings.groupsClaim === null ? undefined : roleOf(settings, claims);
    const user = this.#users.findByIdentity(identity);
    if (settings.groupsClaim !== null && given === undefined) throw notAllowed('none of the groups has a role here');
    if (user === undefined) return this.#create(settings, claims, given);
    if (user.value.isDisabled) throw notAllowed(`the user ${user.value.name} is disabled`);
    const isOther = given !== undefined && !hasRole(user, given);
    if (!isOther) return user;
    return this.#users.change(user.id, { role: given.role, machines: given.machines ?? undefined });
  }

  async #create(settings: SingleSignOnSettings, claims: Claims, given: GroupRole | undefined): Promise<UserEntry> {
    if (!settings.createsUsers || given === undefined) throw notAllowed('nobody here has this identity');
    const identity = identityOf(claims);
    const displayName = typeof claims['name'] === 'string' ? claims['name'].slice(0, 200) : '';
    const { role, machines } = given;
    for (const name of namesFor(claims, identity)) {
      // A name that somebody has already is another person's, whatever the provider says.
      if (this.#users.findByName(name) !== undefined) continue;
      return this.#users.create({ name, displayName, role, machines: machines ?? undefined, identity });
    }
    throw notAllowed('its names belong to other users');
  }
}

/** An address that is safe to send people and secrets to: HTTPS, or this very host. @throws BAD_ARGUMENT */
export function checkSignOnUrl(text: string, what: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isSafe = url?.protocol === 'https:' || (url?.protocol === 'http:' && LOOPBACK.has(url.hostname));
  if (url !== undefined && isSafe && url.username === '' && url.password === '' && url.hash === '') return url;
  throw new ApplianceError('BAD_ARGUMENT', `the ${what} ${JSON.stringify(text.slice(0, 200))} is no https:// address`);
}

function identityOf({ iss, sub }: Claims): Identity {
  if (typeof iss === 'string' && typeof sub === 'string' && sub !== '') return { issuer: iss, subject: sub };
  throw new ApplianceError('SIGN_ON_FAILED', 'the provider did not say who it is');
}

function roleOf({ groupsClaim, roles }: SingleSignOnSettings, claims: Claims): GroupRole | undefined {
  const claim = claims[groupsClaim ?? ''];
  const groups: readonly unknown[] = Array.isArray(claim) ? claim : [claim];
  return roles.find(({ group }) => groups.includes(group));
}

function hasRole({ value }: UserEntry, { role, machines }: GroupRole): boolean {
  if (value.role !== role) return false;
  const wanted = machines === null ? null : [...new Set(machines.map((machine) => machine.toLowerCase()))].sort();
  return JSON.stringify(wanted) === JSON.stringify(value.machines);
}

/** What a new user may be called, best first. */
function namesFor(claims: Claims, identity: Identity): string[] {
  const wished = [claims['preferred_username'], claims['email']].flatMap((name) =>
    typeof name === 'string' ? [name] : [],
  );
  const usable = wished.filter(isUsable);
  return [...usable, `user-${hashSecret(JSON.stringify(identity)).slice(0, 12)}`];
}

function isUsable(name: string): boolean {
  try {
    checkName(name);
    return true;
  } catch (error) {
    if (hasCode(error, 'BAD_ARGUMENT')) return false;
    throw error;
  }
}

function notAllowed(why: string): ApplianceError {
  return new ApplianceError('SIGN_ON_FAILED', `the provider knows you, and ${why}`, {
    hint: 'Ask an administrator of the appliance.',
  });
}

function failed(message: string, cause: unknown): ApplianceError {
  return hasCode(cause, 'SIGN_ON_FAILED')
    ? cause
    : new ApplianceError('SIGN_ON_FAILED', message, { cause: toError(cause) });
}
