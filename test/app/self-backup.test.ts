// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { localPrincipal } from '../../appliance/access/principal.ts';
import type { ApplianceHost } from '../../appliance/api/appliance-host.ts';
import type { OperationContext } from '../../appliance/api/operations.ts';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { Configuration } from '../../appliance/config/configuration.ts';
import { initialize, openAppliance } from '../../appliance/main.ts';
import { suite } from '../support/suite.ts';

const test = suite('self-backup', { timeoutMs: 60_000 });

const PASSWORD = 'violin-under-the-42-stairs';
const MACHINE = '4c4c4544-0050-3510-8052-b4c04f4d3232';

const STANDBY = {
  name: 'web-standby',
  spareId: '5c4c4544-0050-3510-8052-b4c04f4d3232',
  connect: 'qemu:///system',
  machine: { id: MACHINE, name: 'web' },
  originalConnect: 'qemu:///system',
  networks: {},
  memoryMiB: null,
  createdAt: '2026-11-21T14:04:05.000Z',
  definition: null,
  takeover: null,
};

test('a lost appliance comes back from its repository and the recovery key', async (t) => {
  const [lost, fresh, repository] = [await t.tempDir(), await t.tempDir(), join(await t.tempDir(), 'repository')];
  const { recoveryKey } = await initialize({ stateDirectory: lost, repository, encryption: true });
  await using(lost, async (appliance, context) => {
    await appliance.hypervisorAdd(
      { name: 'rack1', uri: 'qemu+tcp://rack1/system', username: 'ada', password: PASSWORD },
      context,
    );
    await appliance.settingSet({ name: 'selfbackup.keep', value: '3' }, context);
    await appliance.userCreate({ name: 'ada', role: 'operator', password: PASSWORD }, context);
    await appliance.userCreate({ name: 'invited', role: 'viewer' }, context);
    await appliance.tokenCreate({ name: 'monitoring', role: 'viewer' }, context);
    await appliance.policyCreate(
      { name: 'nightly', machines: { all: true }, mode: 'scheduled', schedule: 'daily 22:00', timeZone: 'UTC' },
      context,
    );
  });
  await putStandby(lost);
  await using(lost, async (appliance, context) => {
    await appliance.points({}, context);
    await appliance.settingSet({ name: 'audit.syslog', value: 'off' }, context);
  });
  const last = await using(lost, (appliance, context) => appliance.audit({}, context));
  await rm(lost, { recursive: true });

  const made = await initialize({ stateDirectory: fresh, encryption: true, from: repository, ...keyOf(recoveryKey) });
  const { documents } = made.restored ?? {};
  assert.deepEqual(documents, { hypervisors: 1, policies: 1, settings: 2, tokens: 1, users: 2 });
  assert.deepEqual([made.restored?.records, made.restored?.hasSecrets], [1, true]);
  await using(fresh, async (appliance, context) => {
    const [hypervisor] = await appliance.hypervisors({}, context);
    assert.deepEqual([hypervisor?.name, hypervisor?.hasPassword], ['rack1', true]);
    const names = (all: readonly { readonly name: string }[]): readonly string[] => all.map(({ name }) => name);
    assert.deepEqual(names(await appliance.userList({}, context)), ['ada', 'invited']);
    assert.deepEqual(names(await appliance.tokenList({}, context)), ['monitoring']);
    assert.deepEqual(names(await appliance.policyList({}, context)), ['nightly']);
    assert.deepEqual(await appliance.standbyList({}, context).then((all) => all.map(({ name }) => name)), [
      'web-standby',
    ]);
    await appliance.settingReset({ name: 'audit.syslog' }, context);
    const verdict = await appliance.auditVerify({}, context);
    assert.deepEqual([verdict.bad, verdict.first], [null, (last[0]?.sequence ?? 0) + 2]);
    assert.ok((await appliance.check({}, context)).ok);
  });
  const { secrets, hypervisors } = await Configuration.open(fresh);
  const { password } = hypervisors.get('rack1').value;
  assert.ok(password !== undefined);
  assert.equal(secrets.open({ collection: 'hypervisors', id: 'rack1', field: 'password' }, password), PASSWORD);
  assert.ok(!(await readdir(fresh)).includes('restored-records.json'));
});

test('a repository without a kept state is taken over as before', async (t) => {
  const [first, second, repository] = [await t.tempDir(), await t.tempDir(), join(await t.tempDir(), 'repository')];
  await initialize({ stateDirectory: first, repository, encryption: false });
  const made = await initialize({ stateDirectory: second, encryption: false, from: repository });
  assert.equal(made.restored, null);
  await using(second, async (appliance, context) => {
    assert.deepEqual(await appliance.hypervisors({}, context), []);
  });
});

test('in a repository that everybody can read there is no key, so no secret', async (t) => {
  const [first, second, repository] = [await t.tempDir(), await t.tempDir(), join(await t.tempDir(), 'repository')];
  await initialize({ stateDirectory: first, repository, encryption: false });
  await using(first, (appliance, context) =>
    appliance.hypervisorAdd(
      { name: 'rack1', uri: 'qemu+tcp://rack1/system', username: 'ada', password: PASSWORD },
      context,
    ),
  );
  const made = await initialize({ stateDirectory: second, encryption: false, from: repository });
  assert.equal(made.restored?.hasSecrets, false);
  const { secrets, hypervisors } = await Configuration.open(second);
  const { password } = hypervisors.get('rack1').value;
  assert.ok(password !== undefined);
  assert.throws(() => secrets.open({ collection: 'hypervisors', id: 'rack1', field: 'password' }, password));
});

test('states are kept after changes only, and only so many', async (t) => {
  const [state, repository] = [await t.tempDir(), join(await t.tempDir(), 'repository')];
  await initialize({ stateDirectory: state, repository, encryption: false });
  const kept = async (): Promise<number> => (await readdir(join(repository, 'appliance')).catch(() => [])).length;
  await using(state, (appliance, context) => appliance.hypervisors({}, context));
  assert.equal(await kept(), 0);
  for (let count = 2; count < 6; count++) {
    await using(state, (appliance, context) => appliance.settingSet({ name: 'selfbackup.keep', value: '2' }, context));
  }
  assert.equal(await kept(), 2);
  await using(state, (appliance, context) =>
    appliance.settingSet({ name: 'selfbackup.enabled', value: 'off' }, context),
  );
  assert.equal(await kept(), 2);
});

function keyOf(recoveryKey: string | null): { readonly recoveryKey?: string } {
  return recoveryKey === null ? {} : { recoveryKey };
}

async function using<T>(
  stateDirectory: string,
  work: (appliance: ApplianceHost, context: OperationContext) => Promise<T>,
): Promise<T> {
  const notices: string[] = [];
  const context = {
    principal: localPrincipal(),
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: (sentence: string) => notices.push(sentence),
  };
  const appliance = await openAppliance({ stateDirectory, onNotice: (sentence) => notices.push(sentence) });
  try {
    return await work(appliance, context);
  } finally {
    await appliance[Symbol.asyncDispose]();
    assert.deepEqual(notices, []);
  }
}

async function putStandby(stateDirectory: string): Promise<void> {
  await openAppliance({ stateDirectory }).then(async (appliance) => {
    await appliance.points(
      {},
      {
        principal: localPrincipal(),
        signal: new AbortController().signal,
        onProgress: () => undefined,
        onNotice: () => undefined,
      },
    );
    await appliance[Symbol.asyncDispose]();
  });
  const catalog = await Catalog.open(join(stateDirectory, 'catalog'));
  await catalog.putRecord('session/', `standby-${MACHINE}`, STANDBY);
  await catalog.close();
}
