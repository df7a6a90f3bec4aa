// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { systemClock } from '../../../appliance/core/clock.ts';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { parseMachineId } from '../../../appliance/core/ids.ts';
import type { LibvirtConnection } from '../../../appliance/hypervisor/libvirt/connection.ts';
import { ContinuousService } from '../../../appliance/protect/continuous/continuous-service.ts';
import { ProtectionRecords } from '../../../appliance/protect/continuous/protection-record.ts';
import { DEFAULT_SESSION_SETTINGS } from '../../../appliance/protect/continuous/session-settings.ts';
import { ProtectService } from '../../../appliance/protect/protect-service.ts';
import { FixtureRepository } from '../../support/fixture-repository.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';
import type { TestContext } from '../../support/test-scope.ts';

const OLD = parseMachineId('0b1c2d3e-4f50-4617-8899-aabbccddee01');
const NEW = parseMachineId('0b1c2d3e-4f50-4617-8899-aabbccddee02');

interface Scene {
  readonly service: ContinuousService;
  /** What the hypervisor has: names by UUID. */
  readonly domains: Map<string, string>;
  /** A service over the same state directory, and an empty catalog. */
  readonly withoutCatalog: () => Promise<{ readonly service: ContinuousService; readonly notices: readonly string[] }>;
  /** A service over the same state directory and catalog. */
  readonly again: () => Promise<ContinuousService>;
  readonly uptime: { uptimeMs: number };
  isReachable: boolean;
}

/** A service that knows protected machines by the names that they had. */
async function makeScene(t: TestContext, known: Readonly<Record<string, string>>): Promise<Scene> {
  const directory = await t.tempDir();
  const { repository, catalog } = t.use(await FixtureRepository.create(directory));
  const records = new ProtectionRecords(catalog);
  for (const [id, name] of Object.entries(known)) {
    const since = '2026-11-21T10:00:00.000Z';
    await records.put({
      machineId: parseMachineId(id),
      name,
      connect: 'test:///',
      intervalMs: 0,
      durability: 'group',
      since,
    });
  }
  const domains = new Map<string, string>();
  const scene = { isReachable: true };
  const domainByUuid = async (uuid: string): Promise<{ uuid: string; name: string }> => {
    const name = domains.get(uuid);
    if (name === undefined) throw new ApplianceError('DOMAIN_NOT_FOUND', `there is no domain ${uuid}`);
    return { uuid, name };
  };
  const connect = async (): Promise<LibvirtConnection> => {
    if (!scene.isReachable) throw new ApplianceError('LIBVIRT_CONNECT_FAILED', 'nobody answers');
    return { domainByUuid } as unknown as LibvirtConnection;
  };
  const own = {
    repository,
    catalog,
    clock: systemClock,
    runtimeDirectory: directory,
    scratchDirectory: directory,
    connect,
  };
  const notices: string[] = [];
  const uptime = { bootId: 'a', uptimeMs: 0 };
  const parts = {
    ...own,
    protect: new ProtectService(own),
    stateDirectory: directory,
    settings: DEFAULT_SESSION_SETTINGS,
    uptime: () => ({ ...uptime }),
    onNotice: (sentence: string): void => void notices.push(sentence),
  };
  const service = t.use(await ContinuousService.open(parts));
  const withoutCatalog = async (): Promise<{ service: ContinuousService; notices: string[] }> => {
    const { catalog: empty } = t.use(await FixtureRepository.create(await t.tempDir()));
    return { service: t.use(await ContinuousService.open({ ...parts, catalog: empty })), notices };
  };
  const again = async (): Promise<ContinuousService> => t.use(await ContinuousService.open(parts));
  return Object.assign(scene, { service, domains, withoutCatalog, again, uptime });
}

const test = suite('machines under continuous protection, by name');

test('a machine that was renamed is found under its name of now, and not under that which another one took', async (t) => {
  const scene = await makeScene(t, { [OLD]: 'web' });
  scene.domains.set(OLD, 'web-old').set(NEW, 'web');
  await rejectsWith(scene.service.pause('web', 'for a snapshot'), 'MACHINE_NOT_FOUND');
  const record = await scene.service.pause('web-old', 'for a snapshot');
  assert.deepEqual([record.machineId, record.name], [OLD, 'web-old']);
  const [status] = await scene.service.protection();
  assert.equal(status?.record.name, 'web-old');
});

test('of two that had one name the one that has it now is meant, and one that is gone only when none has it', async (t) => {
  const scene = await makeScene(t, { [OLD]: 'web', [NEW]: 'web' });
  scene.domains.set(NEW, 'web');
  assert.equal((await scene.service.pause('web', 'for a snapshot')).machineId, NEW);
  assert.equal((await scene.service.pause(OLD.toUpperCase(), 'for a snapshot')).machineId, OLD);
  scene.domains.clear();
  assert.equal((await scene.service.pause('web', 'for a snapshot')).machineId, OLD);
});

test('while the hypervisor does not answer, the last known name counts', async (t) => {
  const scene = await makeScene(t, { [OLD]: 'web' });
  scene.isReachable = false;
  assert.equal((await scene.service.pause('web', 'for a snapshot')).machineId, OLD);
  await rejectsWith(scene.service.pause('other', 'for a snapshot'), 'MACHINE_NOT_FOUND');
});

test('a catalog that is lost does not end protection: the records stand beside the journals, too', async (t) => {
  const { withoutCatalog } = await makeScene(t, { [OLD]: 'web', [NEW]: 'db' });
  const { service, notices } = await withoutCatalog();
  const names = (await service.protection()).map(({ record }) => `${record.machineId} ${record.name}`);
  assert.deepEqual(names.sort(), [`${OLD} web`, `${NEW} db`]);
  assert.equal(notices.length, 2, notices.join());
});

test('the journal of a machine whose protection ended goes after a day of the host, whatever the clock says', async (t) => {
  const scene = await makeScene(t, { [OLD]: 'web' });
  await scene.service.unprotect('web');
  const hours = async (uptimeMs: number): Promise<boolean> => {
    scene.uptime.uptimeMs = uptimeMs;
    const service = await scene.again();
    // What is done each hour is done once at the start, too.
    await new Promise<void>((resolve) => {
      service.startSessions(async () => resolve());
    });
    const isThere = (await service.journalOf(OLD)) !== undefined;
    await service.close();
    return isThere;
  };
  assert.equal(await hours(10 * 3_600_000), true);
  assert.equal(await hours(20 * 3_600_000), true);
  assert.equal(await hours(24 * 3_600_000), false);
});
