// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type PolicyDocument, readPolicy } from '../../../appliance/protect/policy/policy.ts';
import { globTest, PolicySelector, type SelectableMachine } from '../../../appliance/protect/policy/selection.ts';
import { policyDocument } from '../../support/policy-simulation.ts';
import { suite } from '../../support/suite.ts';

const test = suite('policies: which machine has which policy');

const WEB: SelectableMachine = {
  id: '4c4c4544-0050-3510-8052-b4c04f4d3232',
  name: 'web-1',
  host: 'qemu:///system',
  hostName: 'lab',
  isActive: true,
  tags: ['gold', 'web'],
  folder: '/prod/web',
  excluded: null,
};

function assigned(machine: SelectableMachine, ...documents: PolicyDocument[]): readonly [string | undefined, string] {
  const { policy, reason } = new PolicySelector(documents.map(readPolicy)).assign(machine);
  return [policy?.name, reason];
}

test('a policy selects by name, id, tag, folder, or everything, without its exceptions', () => {
  const by = (machines: PolicyDocument['machines']): readonly [string | undefined, string] =>
    assigned(WEB, policyDocument('p', { machines }));
  assert.deepEqual(by({ names: ['db-*', 'web-?'] }), ['p', 'by name (web-?)']);
  assert.deepEqual(by({ ids: [WEB.id.toUpperCase()] }), ['p', 'by its id']);
  assert.deepEqual(by({ tags: ['gold'] }), ['p', 'by tag (gold)']);
  assert.deepEqual(by({ folders: ['/prod/'] }), ['p', 'by folder (/prod)']);
  assert.deepEqual(by({ all: true }), ['p', 'it takes every machine']);
  assert.deepEqual(by({ all: true, hypervisors: ['lab'] }), ['p', 'it takes every machine']);
  const none = [undefined, 'no policy selects it'];
  assert.deepEqual(by({ folders: ['/pro'] }), none);
  assert.deepEqual(by({ tags: ['Gold'] }), none);
  assert.deepEqual(by({ all: true, except: ['web-*'] }), none);
  assert.deepEqual(by({ all: true, except: [WEB.id] }), none);
  assert.deepEqual(by({ all: true, hypervisors: ['qemu+ssh://other/system'] }), none);
});

test('the highest priority wins, then the first name, and the reason says so', () => {
  const low = policyDocument('a-low', { priority: -1 });
  const [b, c] = [policyDocument('b', {}), policyDocument('c', {})];
  assert.deepEqual(assigned(WEB, c, low, b), ['b', 'it takes every machine; before c, a-low by name']);
  assert.deepEqual(assigned(WEB, low, b), ['b', 'it takes every machine; before a-low by priority']);
});

test('a disabled policy has no machine, and the reason names it', () => {
  const off = policyDocument('nightly', { enabled: false, priority: 5 });
  assert.deepEqual(assigned(WEB, off), [undefined, 'the policy that would select it is disabled: nightly']);
  assert.deepEqual(assigned(WEB, off, policyDocument('rest', {})), ['rest', 'it takes every machine']);
});

test('a machine that runs from the appliance has no policy', () => {
  const booted = { ...WEB, excluded: 'it runs from the appliance' };
  assert.deepEqual(assigned(booted, policyDocument('p', {})), [undefined, 'it runs from the appliance']);
});

test('a machine has at most one policy, and the order in which they are given does not matter', () => {
  const one = fc.record({
    name: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    priority: fc.integer({ min: -2, max: 2 }),
    enabled: fc.boolean(),
  });
  const several = fc.uniqueArray(one, { selector: ({ name }) => name, maxLength: 5 });
  fc.assert(
    fc.property(several, fc.integer(), (wishes, turn) => {
      const documents = wishes.map(({ name, ...over }) => policyDocument(name, over));
      const turned = [
        ...documents.slice(turn % (documents.length || 1)),
        ...documents.slice(0, turn % (documents.length || 1)),
      ];
      assert.deepEqual(assigned(WEB, ...documents), assigned(WEB, ...turned.reverse()));
      const best = documents
        .filter(({ enabled }) => enabled)
        .sort((a, b) => b.priority - a.priority || (a.name < b.name ? -1 : 1));
      assert.equal(assigned(WEB, ...documents)[0], best[0]?.name);
    }),
    { numRuns: 200 },
  );
});

test('a pattern matches as the same regular expression does, and takes no longer for being odd', () => {
  const pattern = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?', '.', '^'), maxLength: 8 });
  const name = fc.string({ unit: fc.constantFrom('a', 'b', '.', '^', 'ü'), maxLength: 10 });
  fc.assert(
    fc.property(pattern, name, (glob, text) => {
      const source = glob.replace(/[.^]/g, '\\$&').replaceAll('*', '.*').replaceAll('?', '.');
      assert.equal(globTest(glob)(text), new RegExp(`^${source}$`, 'u').test(text));
    }),
    { numRuns: 1000 },
  );
  assert.equal(globTest(`${'a*'.repeat(200)}b`)('a'.repeat(2000)), false);
});

test('a document that contradicts itself is refused', () => {
  const wrong: Partial<PolicyDocument>[] = [
    { name: '../x' },
    { priority: 1.5 },
    { machines: {} },
    { machines: { folders: ['prod'] } },
    { mode: 'continuous' },
    { mode: 'interval', interval: '5s' },
    { interval: '5s' },
    { timeZone: 'Mars/Olympus' },
    { rpo: 'soon' },
    { window: 'night' },
    { bandwidth: '3' },
    { keep: { daily: 0 } },
    { keep: { within: 'ever' } },
    { durability: 'write' },
  ];
  for (const over of wrong)
    assert.throws(() => readPolicy(policyDocument('p', over)), { code: 'BAD_ARGUMENT' }, JSON.stringify(over));
});

test('without a target a machine is overdue when half as much time again has passed', () => {
  const { schedule: _, ...session } = policyDocument('c', { mode: 'continuous' });
  const targets = [policyDocument('d', { schedule: 'daily 22:00' }), policyDocument('h', { rpo: '90m' }), session].map(
    (document) => readPolicy(document).rpoTargetMs,
  );
  assert.deepEqual(targets, [36 * 3_600_000, 90 * 60_000, 60_000]);
});
