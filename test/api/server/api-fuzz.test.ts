// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { pino } from 'pino';
import { openApiDocument } from '../../../appliance/api/openapi/document.ts';
import { ApiServer } from '../../../appliance/api/server/api-server.ts';
import { FakeAppliance } from '../../support/fake-appliance.ts';
import type { Json } from '../../support/fuzz/api-contract.ts';
import { fuzzApi } from '../../support/fuzz/api-fuzz.ts';
import { suite } from '../../support/suite.ts';

const test = suite('the interface under hostile requests');

/** Of each operation; many more in test/campaigns/api-fuzz.ts. */
const RUNS = 30;
const SEED = 20_261_122;

test('no request makes it fail, and each answer is as the document of the interface says', async (t) => {
  const directory = await t.tempDir();
  const fake = new FakeAppliance();
  const defects: Error[] = [];
  t.use(
    await ApiServer.listen({
      host: fake.asAppliance(),
      stateDirectory: directory,
      logger: pino({ level: 'silent' }),
      onDefect: (violation) => defects.push(violation),
      onStop: () => undefined,
    }),
  );
  const { requests, statuses } = await fuzzApi({
    peer: { path: `${directory}/control.sock` },
    document: openApiDocument() as Json,
    seed: SEED,
    runs: RUNS,
    afterEach: () => [...defects, ...fake.defects].map(String).join('; '),
  });
  assert.ok(requests > 500);
  // It gets past the first checks, too.
  assert.ok((statuses[200] ?? 0) > requests / 20, JSON.stringify(statuses));
  assert.ok((statuses[400] ?? 0) > requests / 20, JSON.stringify(statuses));
});
