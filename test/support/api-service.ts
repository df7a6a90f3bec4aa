// SPDX-License-Identifier: Apache-2.0
import { pino } from 'pino';
import type { Principal } from '../../appliance/access/principal.ts';
import { LocalEndpoint } from '../../appliance/api/client/endpoint.ts';
import { type RemoteAppliance, remoteAppliance } from '../../appliance/api/client/remote-appliance.ts';
import type { AccessControl } from '../../appliance/api/server/api-context.ts';
import { ApiServer } from '../../appliance/api/server/api-server.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { FakeAppliance, type FakeBehaviour } from './fake-appliance.ts';
import type { TestContext } from './test-scope.ts';

export interface ApiService {
  readonly directory: string;
  readonly fake: FakeAppliance;
  readonly server: ApiServer;
  readonly remote: RemoteAppliance;
  readonly endpoint: LocalEndpoint;
  /** Lines of the log. */
  readonly log: string[];
}

/** A service over a fake appliance, at the socket of a fresh state directory. */
export async function apiService(t: TestContext, behaviour: FakeBehaviour = {}): Promise<ApiService> {
  const directory = await t.tempDir();
  const fake = new FakeAppliance(behaviour);
  const log: string[] = [];
  const server = t.use(
    await ApiServer.listen({
      host: fake.asAppliance(),
      stateDirectory: directory,
      logger: pino({ level: 'debug' }, { write: (line) => void log.push(line) }),
      onDefect: (violation) => void fake.defects.push(violation),
      onStop: () => undefined,
      recheckIntervalMs: 20,
    }),
  );
  const endpoint = new LocalEndpoint(directory);
  return { directory, fake, server, endpoint, remote: t.use(remoteAppliance(endpoint)), log };
}

export const TOKEN = 'the-right-token';

/** Lets in whoever has the token, as this principal. */
export function tokenAccess(principal: Principal): AccessControl {
  return {
    authenticate: ({ headers }) => {
      if (headers.authorization === undefined) return undefined;
      if (headers.authorization === `Bearer ${TOKEN}`) return principal;
      throw new ApplianceError('UNAUTHENTICATED', 'the token is not valid');
    },
    authorize: () => undefined,
  };
}

export function user(role: Principal['role'], machines: Principal['machines'] = null): Principal {
  return { kind: 'user', id: `id-of-${role}`, name: role, role, machines };
}

/** A request to an endpoint, and what came. */
export async function ask(
  endpoint: Pick<LocalEndpoint, 'send'>,
  method: string,
  path: string,
  options: { readonly body?: unknown; readonly headers?: Readonly<Record<string, string>> } = {},
): Promise<{
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly value: unknown;
}> {
  const outgoing = endpoint.send({ method, path, ...options });
  return new Promise((resolve, reject) => {
    outgoing.on('error', reject);
    outgoing.once('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.once('end', () => {
        const { statusCode: status = 0, headers } = response;
        const isJson = String(headers['content-type']).includes('json');
        resolve({ status, headers, value: isJson && text !== '' ? JSON.parse(text) : text });
      });
    });
  });
}
