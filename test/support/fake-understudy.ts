// SPDX-License-Identifier: Apache-2.0
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { processIo } from '../../appliance/cli/io.ts';
import { runCli } from '../../appliance/cli/run-cli.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { FileLock } from '../../appliance/core/file-lock.ts';
import { tokenAccess, user } from './api-service.ts';
import { FakeAppliance, type FakeBehaviour } from './fake-appliance.ts';
import { fakeResults } from './fake-results.ts';

/*
 * The command line as a process, over a fake appliance: processes, signals, sockets, locks and streams are real.
 * FAKE_BEHAVIOUR chooses what it does: `no-booted` (nothing runs), `fail-open`, `slow-open` (longer than a command waits for
 * the state directory), `slow-backup` (until aborted).
 */

const chosen = process.env['FAKE_BEHAVIOUR'] ?? '';

/** A catalog that takes its time, as on a busy machine. */
const SLOW_OPEN_MS = 3_000;

const behaviours: Readonly<Record<string, FakeBehaviour>> = {
  'no-booted': { booted: async () => [] },
  'slow-backup': {
    backup: async (_params, context) => {
      context.onNotice('the backup has begun');
      await delay(60_000, undefined, { signal: context.signal });
      return fakeResults.backup;
    },
  },
};

process.exitCode = await runCli(process.argv.slice(2), processIo(homedir()), {
  openAppliance: async ({ stateDirectory }) => {
    if (chosen === 'fail-open') throw new ApplianceError('CATALOG_DAMAGED', 'the catalog is damaged');
    const lock = await FileLock.acquire(join(stateDirectory, 'lock'));
    if (chosen === 'slow-open') await delay(SLOW_OPEN_MS);
    const host = new FakeAppliance(behaviours[chosen], () => lock.release()).asAppliance();
    return { ...host, networkAccess: { access: tokenAccess(user('admin')) } };
  },
  initialize: async ({ stateDirectory }) => ({
    repository: join(stateDirectory, 'repository'),
    repositoryId: fakeResults.status.repositoryId,
    recoveryKey: 'AAAA-BBBB',
  }),
  selfCommand: [process.execPath, fileURLToPath(import.meta.url)],
});
