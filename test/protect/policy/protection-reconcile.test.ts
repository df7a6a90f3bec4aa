// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { ApplianceError } from '../../../appliance/core/errors.ts';
import { ageMs } from '../../../appliance/protect/policy/moment.ts';
import { type Policy, type PolicyDocument, readPolicy } from '../../../appliance/protect/policy/policy.ts';
import { type EnginePorts, PolicyEngine } from '../../../appliance/protect/policy/policy-engine.ts';
import type { SelectableMachine } from '../../../appliance/protect/policy/selection.ts';
import { policyDocument } from '../../support/policy-simulation.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: continuous protection, and machines on two hypervisors');
const [HERE, THERE] = ['qemu:///system', 'qemu+ssh://there/system'] as const;

function continuous(name: string, over: Partial<PolicyDocument> = {}): PolicyDocument {
  const { schedule: _, ...document } = policyDocument(name, { mode: 'continuous', ...over });
  return document;
}

/** Two hypervisors, and the machines that somebody protects: by name of the policy, null for the operator. */
class World {
  readonly machines = new Map<string, SelectableMachine[]>([
    [HERE, []],
    [THERE, []],
  ]);
  readonly protection = new Map<string, string | null>();
  readonly log: string[] = [];
  policies: readonly Policy[] = [];
  isThereGone = false;
  refusal: ApplianceError | undefined;
  uptimeMs = 0;
  readonly engine: PolicyEngine;

  constructor() {
    this.engine = new PolicyEngine(this.#ports());
  }

  put(
    name: string,
    { host = HERE, isActive = true }: { readonly host?: string; readonly isActive?: boolean } = {},
  ): void {
    const machine = { id: `id-${name}`, name, host, hostName: host, isActive, tags: [], folder: null, excluded: null };
    this.machines.get(host)?.push(machine);
  }

  set(...documents: readonly PolicyDocument[]): void {
    this.policies = documents.map(readPolicy);
    this.engine.refresh();
  }

  /** Everything that is to be done within the next minutes. */
  async go(minutes = 1): Promise<string[]> {
    for (let n = 0; n < minutes * 6; n++) {
      this.engine.step();
      for (let turns = 0; turns < 10; turns++) await turn();
      this.uptimeMs += 10_000;
    }
    return this.log.splice(0);
  }

  #ports(): EnginePorts {
    const nothing = (): Promise<void> => Promise.resolve();
    return {
      moment: () => ({ wallMs: 1_800_000_000_000 + this.uptimeMs, bootId: 'one', uptimeMs: this.uptimeMs }),
      hosts: () => [HERE, THERE],
      machines: (host) =>
        host === THERE && this.isThereGone
          ? Promise.reject(new ApplianceError('LIBVIRT_CONNECT_FAILED', 'gone'))
          : Promise.resolve([...(this.machines.get(host) ?? [])]),
      policies: () => this.policies,
      limits: () => ({ perHost: 2, perRepository: 4 }),
      newestPoints: () => Promise.resolve(new Map()),
      protection: () =>
        Promise.resolve(new Map([...this.protection].map(([id, policy]) => [id, { policy, isAsWished: () => true }]))),
      backup: (machine) => {
        this.log.push(`backup ${machine.name} ${machine.host}`);
        return Promise.resolve(1_800_000_000_000 + this.uptimeMs);
      },
      protect: (machine, policy) => {
        this.log.push(`protect ${machine.name} ${policy.name}`);
        if (this.refusal !== undefined) return Promise.reject(this.refusal);
        this.protection.set(machine.id, policy.name);
        return Promise.resolve();
      },
      unprotect: (machine, owner) => {
        this.log.push(`unprotect ${machine.name} ${owner}`);
        this.protection.delete(machine.id);
        return Promise.resolve();
      },
      retain: nothing,
      retentionProblem: () => Promise.resolve(null),
      records: { load: () => Promise.resolve([]), put: nothing, remove: nothing },
      onNotice: () => undefined,
      onChange: () => undefined,
    };
  }
}

test('a policy begins continuous protection, of machines that come, too, and ends what it began', async () => {
  const world = new World();
  world.put('a');
  world.set(continuous('core'));
  assert.deepEqual(await world.go(), ['protect a core']);
  assert.deepEqual(await world.go(10), [], 'once');
  world.put('b');
  assert.deepEqual(await world.go(3), ['protect b core']);
  world.set(continuous('core', { machines: { names: ['b'] } }));
  assert.deepEqual(await world.go(), ['unprotect a core']);
  world.set();
  assert.deepEqual(await world.go(), ['unprotect b core']);
});

test('what the operator protects by hand stays as it is, whatever policies say', async () => {
  const world = new World();
  world.put('a');
  world.protection.set('id-a', null);
  world.set(continuous('core'));
  assert.deepEqual(await world.go(5), []);
  world.set();
  assert.deepEqual(await world.go(5), []);
});

test('a machine goes from one policy to another without a gap, and to a schedule with an end', async () => {
  const world = new World();
  world.put('a');
  world.set(continuous('core'));
  await world.go();
  world.set(continuous('core'), continuous('more', { priority: 1 }));
  assert.deepEqual(await world.go(), ['protect a more'], 'set up anew, never ended');
  world.set(policyDocument('hourly', { schedule: 'every 1h' }));
  assert.deepEqual((await world.go()).sort(), [`backup a ${HERE}`, 'unprotect a more']);
});

test('of a hypervisor that is gone nothing is ended, also when its policy is', async () => {
  const world = new World();
  world.put('a', { host: THERE });
  world.set(continuous('core'));
  assert.deepEqual(await world.go(), ['protect a core']);
  world.isThereGone = true;
  await world.go(3);
  world.set();
  assert.deepEqual(await world.go(10), []);
  world.isThereGone = false;
  assert.deepEqual(await world.go(6), ['unprotect a core']);
});

test('a service that ends has failed nobody', async () => {
  const world = new World();
  world.put('a');
  world.refusal = new ApplianceError('INTERRUPTED', 'the service stops');
  world.set(continuous('core'));
  await world.go();
  assert.equal(world.engine.state('id-a')?.failure, null);
});

test('protection that cannot be begun is tried again, ever more seldom', async () => {
  const world = new World();
  world.put('a');
  world.refusal = new ApplianceError('NOT_SUPPORTED', 'it cannot be mirrored');
  world.set(continuous('core'));
  assert.equal((await world.go(240)).length, 3);
});

test('a machine that two hypervisors define belongs to the one on which it runs', async () => {
  const world = new World();
  world.put('a', { host: HERE, isActive: false });
  world.put('a', { host: THERE, isActive: true });
  world.set(policyDocument('often', { schedule: 'every 5m' }));
  const runs = await world.go(60);
  assert.deepEqual(new Set(runs), new Set([`backup a ${THERE}`]));
});

test('an age is counted by the uptime, and by the clock only after a restart of the host', () => {
  const then = { wallMs: 1_000_000, bootId: 'one', uptimeMs: 500 };
  assert.equal(ageMs(then, { wallMs: 9_999_999, bootId: 'one', uptimeMs: 700 }), 200);
  assert.equal(ageMs(then, { wallMs: 1_000_300, bootId: 'two', uptimeMs: 10 }), 300);
  assert.equal(ageMs(then, { wallMs: 999_000, bootId: 'two', uptimeMs: 10 }), null);
});

test('a change while the machines are being read is not lost: they are read once more', async () => {
  const world = new World();
  world.set(policyDocument('often', { schedule: 'every 5m' }));
  await world.go(3);
  world.engine.refresh();
  world.engine.step();
  world.put('late');
  world.engine.refresh();
  assert.deepEqual(await world.go(), [`backup late ${HERE}`]);
});
