// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import type { Caller } from '../../appliance/hypervisor/libvirt/checkpoint.ts';
import { Domain } from '../../appliance/hypervisor/libvirt/domain.ts';
import { toApplianceError } from '../../appliance/hypervisor/libvirt/errors.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('list of checkpoints');

/** A domain whose libvirt fails the first calls with these numbers. */
function domainFailing(...codes: readonly number[]): { readonly domain: Domain; readonly calls: string[] } {
  const calls: string[] = [];
  const caller = {
    call: async (operation: string) => {
      const code = codes[calls.length];
      calls.push(operation);
      if (code === undefined) return [{ name: 'understudy-1', parent: null }];
      const message = 'invalid argument: name in virGetDomainCheckpoint must not be NULL';
      throw toApplianceError({ code, domain: 0, level: 2, message }, { operation: 'listCheckpoints', isAlive: true });
    },
  };
  const identity = { uuid: '4c4c4544-0050-3510-8052-b4c04f4d3232', name: 'web' };
  return { domain: new Domain(caller as unknown as Caller, identity), calls };
}

test('a list that meets the deletion of a checkpoint is asked for once more', async () => {
  const { domain, calls } = domainFailing(8);
  assert.deepEqual(
    (await domain.checkpoints()).map(({ name }) => name),
    ['understudy-1'],
  );
  assert.equal(calls.length, 2);
});

test('a second refusal, and any other failure, is what it is', async () => {
  const twice = domainFailing(8, 8);
  await rejectsWith(twice.domain.checkpoints(), 'LIBVIRT_FAILED');
  assert.equal(twice.calls.length, 2);
  const other = domainFailing(42);
  await rejectsWith(other.domain.checkpoints(), 'DOMAIN_NOT_FOUND');
  assert.equal(other.calls.length, 1);
});
