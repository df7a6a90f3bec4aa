// SPDX-License-Identifier: Apache-2.0
// time limit: 400 s
import assert from 'node:assert/strict';
import { hasCode } from '../../appliance/core/errors.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { GUEST_REQUIREMENTS } from '../support/machines.ts';
import { suite } from '../support/suite.ts';
import { assertGoesOn, assertIsNotOurs, makeKillRig, roundAfter, roundBefore, unheard } from './migrate-kill-rig.ts';

/* Some of the steps; `test/campaigns/migrate-kill.ts` has them all. */
const test = suite('a migration that is killed', { requires: GUEST_REQUIREMENTS, timeoutMs: 200_000 });
const rig = test.share((t) => makeKillRig(t));
const booted = test.share(async () => (await rig()).boot('booted'));

test('before the first disk has gone over it runs from the appliance as before, and nothing is left', async (t) => {
  await roundBefore(t, await rig(), await booted(), ['making room', 1]);
  await roundBefore(t, await rig(), await booted(), ['copying 2 disks', 1]);
});

test('between two disks it runs from both places, and the next start moves the other one if its copy is still kept equal', async (t) => {
  const it = await rig();
  const domain = await it.boot('half');
  await it.kill('half', 'going over', 1);
  const { appliance, notices } = await it.serve();
  assert.ok(
    notices.some((notice) => notice.startsWith('half has been moved')),
    notices.join(' '),
  );
  await assertIsNotOurs(appliance, domain.name);
  await appliance[Symbol.asyncDispose]();
  await assertGoesOn(t, it, domain);
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
  await domain.destroy();
});

test('a machine that runs from both places is not stopped, and is finished by another migrate', async (t) => {
  const it = await rig();
  const domain = await it.boot('other');
  await it.kill('other', 'going over', 1);
  await domain.abortBlockJob('vdb');
  const { appliance, notices } = await it.serve();
  assert.ok(
    notices.some((notice) => notice.startsWith('other runs half from the appliance')),
    notices.join(' '),
  );
  await assert.rejects(appliance.stop({ name: 'other' }, unheard()), { code: 'MIGRATION_UNFINISHED' });
  await (await assertGoesOn(t, it, domain)).close();
  const report = await appliance.migrate({ name: 'other' }, unheard());
  assert.equal(report.disks.length, 2);
  await assertIsNotOurs(appliance, domain.name);
  await appliance[Symbol.asyncDispose]();
  await assertGoesOn(t, it, domain);
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
  await domain.destroy();
});

test('after the last disk the next start lets it go', async (t) => {
  await roundAfter(t, await rig(), 'after', ['letting it go', 2]);
});

// The last: the rig's connection does not survive this.
test('a libvirtd that is killed in the middle leaves it running from the appliance, and the next migrate moves it', async (t) => {
  const it = await rig();
  const { libvirt, place } = it;
  await booted();
  const { appliance } = await it.serve();
  let death: Promise<void> | undefined;
  const migration = appliance.migrate(
    { name: 'booted', directory: place, bandwidth: 4 * 2 ** 20 },
    {
      ...unheard(),
      onProgress: ({ phase, done }) => {
        if (phase.startsWith('copying') && done > 0) death ??= libvirt.killDaemon();
      },
    },
  );
  await assert.rejects(migration, (error) => hasCode(error, 'LIBVIRT_CONNECTION_LOST', 'LIBVIRT_CONNECT_FAILED'));
  await death;
  await libvirt.startDaemon();
  const connection = t.use(await LibvirtConnection.open(libvirt.uri));
  const domain = await connection.domainByName('booted');
  await (await assertGoesOn(t, it, domain)).close();
  assert.match(await domain.xml(), /nbd/);
  const report = await appliance.migrate({ name: 'booted', directory: place }, unheard());
  assert.equal(report.disks.length, 2);
  await appliance[Symbol.asyncDispose]();
  await (await assertGoesOn(t, it, domain)).close();
  assert.doesNotMatch(await domain.xml(), /nbd|understudy\.dev/);
});
