// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { BackupReport } from '../../appliance/api/operations.ts';
import { Catalog } from '../../appliance/catalog/catalog.ts';
import { ApplianceProcess } from '../support/appliance-process.ts';
import { GUEST_REQUIREMENTS, startGuest, startLibvirt } from '../support/machines.ts';
import { suite } from '../support/suite.ts';

const test = suite('a guest that was left frozen', { requires: GUEST_REQUIREMENTS, timeoutMs: 150_000 });

/** A shell with this write hangs while the file systems are frozen. */
const WRITE = 'echo thawed > /data/note && sync';

test('the next start of the appliance thaws a guest whose backup was killed between freeze and thaw', async (t) => {
  const rig = await startLibvirt(t);
  const { domain, console } = await startGuest(t, rig, 'ice');
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  const words = ['backup', 'ice', '--connect', rig.libvirt.uri];
  assert.equal((await appliance.ask<BackupReport>(...words)).consistency, 'file-system-consistent');

  // What a process leaves that is killed after the freeze: its marker, and the guest as it is.
  const catalog = await Catalog.open(join(appliance.state, 'catalog'));
  await catalog.putRecord('session/', `freeze-${domain.uuid}`, { connectUri: rig.libvirt.uri, machine: domain.uuid });
  await catalog.close();
  assert.ok((await domain.fsFreeze({ timeoutSeconds: 10 })) > 0);
  const written = console.run(WRITE, { timeoutMs: 60_000 });
  assert.equal(await Promise.race([written.then(() => 'written'), delay(1000).then(() => 'frozen')]), 'frozen');

  await appliance.points();
  assert.equal((await written).status, 0, 'the guest goes on');
  const after = await Catalog.open(join(appliance.state, 'catalog'));
  assert.deepEqual([...(await after.records('session/')).keys()], [], 'the marker is gone');
  await after.close();
  await domain.destroy();
});

test('a backup that is killed while the guest is frozen is found by its marker, and the guest goes on', async (t) => {
  const rig = await startLibvirt(t);
  const { domain, console } = await startGuest(t, rig, 'ice');
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  const words = ['backup', 'ice', '--connect', rig.libvirt.uri, '--json'];
  // Killed at moments around the freeze, which the agent tells.
  for (let n = 0; n < 4; n++) {
    const running = appliance.start(...words);
    const ended = running.result.then(() => true);
    while (!(await isFrozen(domain))) if (await Promise.race([ended, delay(5).then(() => false)])) break;
    running.kill('SIGKILL');
    await running.result;
    await appliance.points();
    assert.equal(await isFrozen(domain), false);
    assert.equal((await console.run(WRITE, { timeoutMs: 60_000 })).status, 0);
  }
  assert.equal((await appliance.ask<BackupReport>(...words.slice(0, -1))).consistency, 'file-system-consistent');
  await domain.destroy();
});

async function isFrozen(domain: Awaited<ReturnType<typeof startGuest>>['domain']): Promise<boolean> {
  return (await domain.agentCommand({ execute: 'guest-fsfreeze-status' }, { timeoutSeconds: 10 })) === 'frozen';
}

test('a marker of a machine that is gone is given up, and one of a hypervisor that is away is kept', async (t) => {
  const rig = await startLibvirt(t);
  const appliance = new ApplianceProcess(t, join(await t.tempDir(), 'state'));
  await appliance.ask('init');
  await appliance.points();
  const gone = '6f9619ff-8b86-4d01-b42d-00cf4fc964ff';
  const away = '6f9619ff-8b86-4d01-b42d-00cf4fc964fe';
  const catalog = await Catalog.open(join(appliance.state, 'catalog'));
  await catalog.putRecord('session/', `freeze-${gone}`, { connectUri: rig.libvirt.uri, machine: gone });
  const nowhere = `qemu+unix:///session?socket=${join(rig.libvirt.directory, 'nobody')}`;
  await catalog.putRecord('session/', `freeze-${away}`, { connectUri: nowhere, machine: away });
  await catalog.close();
  await appliance.points();
  const after = await Catalog.open(join(appliance.state, 'catalog'));
  const left = [...(await after.records('session/')).keys()];
  await after.close();
  assert.deepEqual(left, [`freeze-${away}`]);
});
