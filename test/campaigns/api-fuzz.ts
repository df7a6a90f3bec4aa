// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pino } from 'pino';
import type { ApplianceHost } from '../../appliance/api/appliance-host.ts';
import { openApiDocument } from '../../appliance/api/openapi/document.ts';
import { ApiServer } from '../../appliance/api/server/api-server.ts';
import { withAccess } from '../../appliance/app/access/with-access.ts';
import { accessRig, LOCAL } from '../support/access-rig.ts';
import { FakeAppliance } from '../support/fake-appliance.ts';
import type { Json } from '../support/fuzz/api-contract.ts';
import { type FuzzReport, fuzzApi } from '../support/fuzz/api-fuzz.ts';
import { TestScope } from '../support/test-scope.ts';

/*
 * Hostile requests for every operation of the interface, made from its OpenAPI document, over the unix socket and over HTTPS with and
 * without a token; the suite has some of each:
 *
 *     node test/campaigns/api-fuzz.ts [--runs 500] [--seed 1]
 *
 * No answer is a 5xx that was not meant, each is as the document says, and nothing hangs. What breaks that is shrunk and printed with its
 * seed. With 500 of each operation it takes some two minutes.
 */
const { values } = parseArgs({
  options: { runs: { type: 'string', default: '500' }, seed: { type: 'string', default: '1' } },
});
const runs = Number(values.runs);
const seed = Number(values.seed);
const document = openApiDocument() as Json;

const errors = await new TestScope('api fuzz').run(async (t) => {
  const { access } = await accessRig(t);
  const fake = new FakeAppliance();
  const recorder = { record: async () => ({ sequence: 1 }) };
  const host: ApplianceHost = withAccess(fake.asAppliance(), access, { whole: () => host, recorder });
  const directory = await t.tempDir();
  const server = t.use(
    await ApiServer.listen({
      host,
      stateDirectory: directory,
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => fake.defects.push(violation),
      onStop: () => undefined,
    }),
  );
  if (host.networkAccess === undefined) throw new Error('there is no access from the network');
  const [listener] = await server.listenOnNetwork({ https: '127.0.0.1:0' }, host.networkAccess);
  const tls = { rejectUnauthorized: false };
  const network = { port: Number(new URL(listener?.url ?? '').port), tls };
  const { token } = await access.tokens.create(LOCAL, { name: 'fuzz', role: 'admin' });
  const common = { document, seed, afterEach: () => fake.defects.map(String).join('; ') };
  const path = join(directory, 'control.sock');
  report('unix socket', await fuzzApi({ ...common, runs, peer: { path } }));
  const headers = [`Authorization: Bearer ${token}`];
  report('HTTPS, with a token', await fuzzApi({ ...common, runs: runs / 5, peer: network, headers }));
  report('HTTPS, without', await fuzzApi({ ...common, runs: runs / 10, peer: network }));
}, 3_600_000);

for (const error of errors) process.stdout.write(`${error.stack}\n`);
process.exitCode = errors.length === 0 ? 0 : 1;

function report(name: string, { requests, statuses }: FuzzReport): void {
  const counts = Object.entries(statuses).map(([status, count]) => `${status}: ${count}`);
  process.stdout.write(`${name}: ${requests} requests; ${counts.join(', ')}\n`);
}
