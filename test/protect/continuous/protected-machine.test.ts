// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { systemClock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import { ProtectedMachine } from '../../../appliance/protect/continuous/protected-machine.ts';
import { ProtectionRecords } from '../../../appliance/protect/continuous/protection-record.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../../appliance/protect/continuous/session-settings.ts';
import { ProtectService } from '../../../appliance/protect/protect-service.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const MACHINE = parseMachineId('0b1c2d3e-4f50-4617-8899-aabbccddeeff');

/** A machine whose hypervisor does not answer. */
async function makeMachine(t: TestContext): Promise<ProtectedMachine> {
  const directory = await t.tempDir();
  const { repository, catalog } = t.use(await FixtureRepository.create(directory));
  const own = {
    repository,
    catalog,
    clock: systemClock,
    runtimeDirectory: directory,
    scratchDirectory: directory,
    connect: (): Promise<never> =>
      Promise.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', 'nobody answers on that socket')),
  };
  const parts = {
    ...own,
    protect: new ProtectService(own),
    stateDirectory: directory,
    settings: DEFAULT_SESSION_SETTINGS,
    onNotice: (): void => undefined,
  };
  const record = {
    machineId: MACHINE,
    name: 'web',
    connect: 'test:///',
    intervalMs: 0,
    durability: 'group',
    since: '2026-11-21T10:00:00.000Z',
  } as const;
  return new ProtectedMachine(parts, new ProtectionRecords(catalog), record);
}

const test = suite('a machine under continuous protection');

test('there is one journal over its directory at a time, and none once it is closed', async (t) => {
  const machine = await makeMachine(t);
  const [first, same] = await Promise.all([machine.journal(), machine.journal()]);
  assert.equal(first, same);
  await first.beginStretch('writes');
  const closing = machine.close('protection is set up anew');
  await rejectsWith(machine.journal(), 'LOCKED');
  await closing;
  await rejectsWith(machine.journal(), 'LOCKED');
});
