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

/** A machine whose hypervisor does not answer; `again` is what the next service makes of its record. */
async function makeMachine(
  t: TestContext,
): Promise<{ machine: ProtectedMachine; again: () => Promise<ProtectedMachine>; uptime: { uptimeMs: number } }> {
  const uptime = { bootId: 'a', uptimeMs: 0 };
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
    uptime: () => ({ ...uptime }),
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
  const records = new ProtectionRecords(catalog);
  const machine = new ProtectedMachine(parts, records, record);
  const again = async (): Promise<ProtectedMachine> => {
    const [known] = await records.load();
    assert.ok(known !== undefined);
    return new ProtectedMachine(parts, records, known);
  };
  return { machine, again, uptime };
}

const test = suite('a machine under continuous protection');

test('there is one journal over its directory at a time, and none once it is closed', async (t) => {
  const { machine } = await makeMachine(t);
  const [first, same] = await Promise.all([machine.journal(), machine.journal()]);
  assert.equal(first, same);
  await first.beginStretch('writes');
  const closing = machine.close('protection is set up anew');
  await rejectsWith(machine.journal(), 'LOCKED');
  await closing;
  await rejectsWith(machine.journal(), 'LOCKED');
});

test('a pause outlives the service, and its time goes on meanwhile', async (t) => {
  const { machine, again, uptime } = await makeMachine(t);
  await machine.start();
  await machine.pause('paused by the operator', 3_600_000);
  assert.equal(machine.status?.change.state, 'paused');
  await machine.close('the service stops');
  uptime.uptimeMs = 1_800_000;
  const second = await again();
  await second.start();
  assert.deepEqual([second.status?.change.state, second.status?.change.reason], ['paused', 'paused by the operator']);
  await second.close('the service stops');
  uptime.uptimeMs = 3_600_000;
  const third = await again();
  await third.start();
  await until(() => third.record.pause === undefined && third.status?.change.state !== 'paused');
  await third.close('the service stops');
});

test('a machine that is resumed is not paused by the next service, nor by a journal that is opened anew', async (t) => {
  const { machine, again } = await makeMachine(t);
  await machine.start();
  await machine.pause('paused by the operator');
  await machine.resume();
  await machine.close('the service stops');
  const next = await again();
  assert.equal(next.record.pause, undefined);
  await next.start();
  assert.notEqual(next.status?.change.state, 'paused');
  await next.close('the service stops');
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}
