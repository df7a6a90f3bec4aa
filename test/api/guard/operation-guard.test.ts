// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { isAtLeast, type Principal, ROLES, type Role } from '../../../appliance/access/principal.ts';
import { guardedAppliance } from '../../../appliance/api/guard/guarded-appliance.ts';
import { NamedMachines } from '../../../appliance/api/guard/named-machines.ts';
import { type ApprovalGate, OperationGuard } from '../../../appliance/api/guard/operation-guard.ts';
import { neededRole, OPERATION_ROUTES } from '../../../appliance/api/operation-routes.ts';
import type { Appliance, OperationContext, OperationName } from '../../../appliance/api/operations.ts';
import { ApplianceError, hasCode } from '../../../appliance/core/errors.ts';
import { FakeAppliance, type FakeBehaviour } from '../../support/fake-appliance.ts';
import { FAKE_POINT_ID, fakeResults } from '../../support/fake-results.ts';
import { rejectsWith } from '../../support/rejects-with.ts';
import { suite } from '../../support/suite.ts';

const OWN = fakeResults.machine.id;
const OTHER = '11111111-2222-4333-8444-555555555555';
const OTHER_POINT = 'ffffffffffffffff';
const NAMES = Object.keys(OPERATION_ROUTES) as OperationName[];
const test = suite('guard of the operations');

interface Rig {
  readonly fake: FakeAppliance;
  readonly appliance: Appliance;
  readonly requests: unknown[];
}

/** A fake appliance with two machines, `web` (which the restorer may have) and `db`. */
function rig(options: { readonly approvals?: boolean; readonly behaviour?: FakeBehaviour } = {}): Rig {
  const [first] = fakeResults.points;
  assert.ok(first !== undefined);
  const own = { ...first, id: FAKE_POINT_ID, machine: 'web', machineId: OWN };
  const other = { ...own, id: OTHER_POINT, machine: 'db', machineId: OTHER };
  const shown = fakeResults.pointShow;
  const behaviour: FakeBehaviour = {
    points: async () => [own, other],
    protection: async () => [fakeResults.protection, { ...fakeResults.protection, machine: 'db', machineId: OTHER }],
    machineList: async () => [fakeResults.machineSummary, { ...fakeResults.machineSummary, name: 'db', id: OTHER }],
    booted: async () => [
      { ...fakeResults.booted, name: 'web-drill', point: own.id },
      { ...fakeResults.booted, name: 'db-drill', point: OTHER_POINT, machineId: 'other' },
    ],
    pointShow: async ({ point: named }: { readonly point?: string }) => {
      const point = named ?? own.id;
      if (point === own.id || point.startsWith('web@')) {
        return { ...shown, point: { ...shown.point, id: own.id, machine: { id: OWN, name: 'web' } } } as typeof shown;
      }
      if (point !== OTHER_POINT && !point.startsWith('db@')) throw new ApplianceError('POINT_NOT_FOUND', 'no');
      return { ...shown, point: { ...shown.point, machine: { id: OTHER, name: 'db' } } } as typeof shown;
    },
    runShow: async ({ id }) => {
      if (id !== 'own' && id !== 'started' && id !== 'other') throw new ApplianceError('RUN_NOT_FOUND', 'no');
      const machineId = { own: OWN, started: null, other: OTHER }[id];
      const startedBy = { kind: 'user' as const, id: id === 'started' ? 'u1' : 'u2', name: 'somebody' };
      return { machineId, startedBy, result: { connect: 'qemu:///system', at: '/var/x' } } as never;
    },
    ...options.behaviour,
  };
  const fake = new FakeAppliance(behaviour);
  const host = { ...fake.asAppliance(), ...(behaviour.runShow === undefined ? {} : { runShow: behaviour.runShow }) };
  const requests: unknown[] = [];
  const approvals: ApprovalGate = {
    isRequired: options.approvals ?? false,
    request: async (by, request) => {
      requests.push({ by: by.name, ...request });
      return { id: 'a1', revision: 1, value: { expiresAtMs: 0 } as never };
    },
  };
  const guard = new OperationGuard({ machines: new NamedMachines(() => host), approvals });
  return { fake, appliance: guardedAppliance(host, guard), requests };
}

function principal(role: Role, changes: Partial<Principal> = {}): Principal {
  return { kind: 'user', id: 'u1', name: 'ann', role, machines: role === 'restorer' ? [OWN] : null, ...changes };
}

function call(appliance: Appliance, name: OperationName, params: object, by: Principal): Promise<unknown> {
  const context: OperationContext = {
    principal: by,
    signal: new AbortController().signal,
    onProgress: () => undefined,
    onNotice: () => undefined,
  };
  const operation = appliance[name] as (params: object, context: OperationContext) => Promise<unknown>;
  return operation(params, context);
}

/** Parameters that a restorer may give, for its own machine. */
function ownParams(name: OperationName): Record<string, unknown> {
  const { restorer } = OPERATION_ROUTES[name];
  if (restorer === undefined || !('parameter' in restorer)) return {};
  const value = { machine: 'web', state: FAKE_POINT_ID, booted: 'web-drill', run: 'own' }[restorer.means];
  return { [restorer.parameter]: value, ...Object.fromEntries((restorer.must ?? []).map((must) => [must, 'new'])) };
}

/** Whether the guard let a call pass; how the fake appliance likes its parameters does not matter. */
async function isPassed(appliance: Appliance, name: OperationName, params: object, by: Principal): Promise<boolean> {
  try {
    await call(appliance, name, params, by);
    return true;
  } catch (error) {
    if (!(error instanceof ApplianceError)) throw error;
    return !hasCode(error, 'FORBIDDEN', 'APPROVAL_NEEDED');
  }
}

function isLetThrough(name: OperationName, params: object, by: Principal): Promise<boolean> {
  const behaviour = { runCancel: async () => ({}) as never };
  return isPassed(rig({ behaviour }).appliance, name, params, by);
}

for (const role of ROLES) {
  test(`a ${role} may do what the table says, and nothing else`, async () => {
    for (const name of NAMES) {
      const route = OPERATION_ROUTES[name];
      const params = role === 'restorer' ? ownParams(name) : {};
      const isExpected =
        role === 'restorer' ? route.restorer !== undefined : isAtLeast(role, neededRole(route, params));
      assert.equal(await isLetThrough(name, params, principal(role)), isExpected, `${role} ${name}`);
    }
  });
}

test('what destroys needs an administrator, also where only one of its parameters does', async () => {
  for (const name of NAMES) {
    const { destroys } = OPERATION_ROUTES[name];
    if (destroys === undefined) continue;
    const params = destroys === true ? {} : Object.fromEntries(destroys.map((parameter) => [parameter, true]));
    assert.equal(await isLetThrough(name, params, principal('operator')), false, name);
    assert.equal(await isLetThrough(name, params, principal('admin')), true, name);
    const harmless =
      destroys === true ? undefined : Object.fromEntries(destroys.map((parameter) => [parameter, false]));
    if (harmless !== undefined)
      assert.equal(await isLetThrough(name, harmless, principal(OPERATION_ROUTES[name].needs)), true, name);
  }
});

test('a restorer is refused every machine but its own, by whatever name, and one that does not exist alike', async () => {
  const foreign = {
    machine: ['db', OTHER, OTHER.toUpperCase(), 'nobody', '', '../web', 'db-drill'],
    state: [OTHER_POINT, 'db@latest', 'nobody@latest', 'ffff', ''],
    booted: ['db-drill', 'other', 'nobody', 'db', ''],
    run: ['other', 'nobody', ''],
  } as const;
  const messages = new Set<string>();
  for (const name of NAMES) {
    const { restorer } = OPERATION_ROUTES[name];
    if (restorer === undefined || !('parameter' in restorer)) continue;
    for (const value of foreign[restorer.means]) {
      const { appliance } = rig();
      const params = { ...ownParams(name), [restorer.parameter]: value };
      await rejectsWith(
        call(appliance, name, params, principal('restorer')).catch((error: Error) => {
          messages.add(`${name} ${error.message} ${JSON.stringify(error)}`);
          throw error;
        }),
        'FORBIDDEN',
      );
    }
  }
  const operations = NAMES.filter((name) => 'parameter' in (OPERATION_ROUTES[name].restorer ?? {}));
  assert.equal(messages.size, operations.length, 'one message for each operation, whatever was asked for');
});

test('a name that could mean a machine of somebody else, too, is refused', async () => {
  const { appliance } = rig({
    behaviour: { machineList: async () => [{ ...fakeResults.machineSummary, name: 'web', id: OTHER }] },
  });
  await rejectsWith(call(appliance, 'timeline', { machine: 'web' }, principal('restorer')), 'FORBIDDEN');
  await call(appliance, 'timeline', { machine: OWN }, principal('restorer'));
});

test('a restorer gives no parameter that is not meant for it', async () => {
  const by = principal('restorer');
  for (const [name, params] of [
    ['boot', { point: FAKE_POINT_ID, connect: 'qemu+ssh://evil/system' }],
    ['boot', { point: FAKE_POINT_ID, keepIdentity: true }],
    ['restore', { point: FAKE_POINT_ID }],
    ['restore', { point: FAKE_POINT_ID, as: 'x', to: '/etc/passwd' }],
    ['restore', { point: FAKE_POINT_ID, as: 'x', inPlace: true }],
    ['restore', { point: FAKE_POINT_ID, as: 'x', directory: '/etc' }],
    ['stop', { name: 'web-drill', discard: true }],
    ['points', { machine: 'db' }],
    ['machineList', { connect: 'qemu:///system' }],
  ] as const) {
    const { appliance, fake } = rig();
    await rejectsWith(call(appliance, name, params, by), 'FORBIDDEN');
    assert.equal(
      fake.calls.some((one) => one.name === name && one.context.principal === by),
      false,
    );
  }
  const { appliance } = rig();
  await call(appliance, 'boot', { point: 'web@latest', as: 'mine' }, by);
  await call(appliance, 'restore', { point: 'web@latest', as: 'mine' }, by);
});

test('lists have only the machines of a restorer, and nothing tells where anything is', async () => {
  const { appliance } = rig();
  for (const name of ['points', 'protection', 'machineList', 'booted'] as const) {
    const all = (await call(appliance, name, {}, principal('viewer'))) as readonly unknown[];
    const own = (await call(appliance, name, {}, principal('restorer'))) as readonly unknown[];
    assert.deepEqual([all.length, own.length], [2, 1], name);
    const none = await call(appliance, name, {}, principal('restorer', { machines: [] }));
    assert.deepEqual(none, []);
    const text = JSON.stringify(own);
    for (const place of [OTHER, 'qemu:', '/var/lib', '/dev/'])
      assert.equal(text.includes(place), false, `${name} ${place}`);
  }
  for (const [name, params] of [
    ['machineShow', { name: 'web' }],
    ['pointShow', { point: FAKE_POINT_ID }],
    ['boot', { point: FAKE_POINT_ID }],
  ] as const) {
    const text = JSON.stringify(await call(appliance, name, params, principal('restorer')));
    for (const place of ['qemu:', 'nbd', '/var/', '/dev/'])
      assert.equal(text.includes(place), false, `${name} ${place}`);
  }
});

test('a restorer follows the runs of its machines, and those it started, without their places', async () => {
  const { appliance } = rig();
  for (const id of ['own', 'started']) {
    const shown = JSON.stringify(await call(appliance, 'runShow', { id }, principal('restorer')));
    assert.equal(/qemu|var/.test(shown), false);
  }
  await rejectsWith(call(appliance, 'runShow', { id: 'other' }, principal('restorer')), 'FORBIDDEN');
});

test('a hypervisor that is away takes nothing from a restorer', async () => {
  const { appliance } = rig({
    behaviour: {
      machineList: () => Promise.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', 'away')),
    },
  });
  await call(appliance, 'timeline', { machine: 'web' }, principal('restorer'));
});

test('with approvals, destructive acts and changes of who may do what wait, and nothing is done', async () => {
  const waiting: string[] = [];
  for (const name of NAMES) {
    const route = OPERATION_ROUTES[name];
    const { appliance, fake, requests } = rig({
      approvals: true,
      behaviour: { runCancel: async () => ({}) as never },
    });
    const always = route.destroys === true || route.secondPerson === true;
    for (const by of [
      principal('admin'),
      principal('admin', { kind: 'local' }),
      principal('admin', { kind: 'token' }),
    ]) {
      if (always) await rejectsWith(call(appliance, name, {}, by), 'APPROVAL_NEEDED');
      else assert.equal(await isPassed(appliance, name, {}, by), true, name);
    }
    if (!always) continue;
    waiting.push(name);
    assert.equal(requests.length, 3);
    assert.equal(
      fake.calls.some((one) => one.name === name),
      false,
    );
    assert.equal(await isPassed(appliance, name, {}, principal('admin', { approvedBy: ['bob'] })), true, name);
    assert.equal(await isPassed(appliance, name, {}, principal('admin', { kind: 'policy' })), true, name);
    assert.equal(await isPassed(appliance, name, {}, principal('admin', { kind: 'appliance' })), true, name);
  }
  for (const name of [
    'delete',
    'release',
    'retentionApply',
    'userCreate',
    'userUpdate',
    'accessSettingsUpdate',
    'signOnSet',
  ]) {
    assert.ok(waiting.includes(name), name);
  }
});

test('a request keeps the state that was meant, and shows no secret', async () => {
  const { appliance, requests } = rig({ approvals: true });
  const by = principal('admin');
  await rejectsWith(call(appliance, 'delete', { point: 'web@latest' }, by), 'APPROVAL_NEEDED');
  const password = 'tangerine ladder';
  await rejectsWith(call(appliance, 'userCreate', { name: 'bob', role: 'viewer', password }, by), 'APPROVAL_NEEDED');
  const pinned = { point: FAKE_POINT_ID };
  assert.deepEqual(requests, [
    { by: 'ann', operation: 'delete', params: pinned, shown: pinned },
    {
      by: 'ann',
      operation: 'userCreate',
      params: { name: 'bob', role: 'viewer', password },
      shown: { name: 'bob', role: 'viewer' },
    },
  ]);
  await rejectsWith(call(appliance, 'delete', { point: 'web@latest' }, principal('operator')), 'FORBIDDEN');
  assert.equal(requests.length, 2);
});
