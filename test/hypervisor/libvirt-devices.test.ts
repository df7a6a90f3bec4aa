// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { attributeOf, find, parseXml, textOf } from '../../appliance/hypervisor/libvirt/xml.ts';
import { definePlainMachine, LIBVIRT_REQUIREMENTS, type LibvirtRig, startLibvirt } from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt devices and definitions', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

const CARD = "<interface type='user'><mac address='52:54:00:01:02:03'/><model type='e1000'/></interface>";

async function machineWith(rig: LibvirtRig, devices: string): ReturnType<LibvirtRig['connection']['define']> {
  return await rig.connection.define(
    `<domain type='qemu'><name>machine</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>` +
      `<devices>${devices}</devices></domain>`,
  );
}

test('a cable is pulled out of a running machine and of its definition', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await machineWith(rig, CARD);
  await domain.start({ isPaused: true });
  const pulled = CARD.replace('<model', "<link state='down'/><model");
  await domain.changeDevice({ change: 'update', xml: pulled, affects: ['live', 'config'] });
  for (const isInactive of [true, false]) {
    const card = find(parseXml(await domain.xml({ isInactive })), 'devices/interface');
    assert.equal(attributeOf(find(card, 'link'), 'state'), 'down');
  }
});

test('a picture of the screen comes with its type', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await machineWith(
    rig,
    "<graphics type='vnc'><listen type='socket'/></graphics><video><model type='vga'/></video>",
  );
  await domain.start();
  const picture = await domain.screenshot();
  const magic = Buffer.from(picture.bytes.subarray(0, 8)).toString('latin1');
  assert.ok(picture.mimeType === 'image/png' ? magic.startsWith('\x89PNG') : magic.startsWith('P6'), picture.mimeType);
  assert.ok(picture.bytes.length > 100);
});

test('secrets are in the XML only when they are asked for', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await machineWith(rig, "<graphics type='vnc' passwd='hidden'><listen type='socket'/></graphics>");
  assert.doesNotMatch(await domain.xml(), /hidden/);
  assert.match(await domain.xml({ isSecure: true, isInactive: true }), /hidden/);
});

test('a definition with checkpoints goes only when they may go too', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'machine');
  await domain.start();
  await domain.createCheckpoint('<domaincheckpoint><name>cp1</name></domaincheckpoint>');
  await domain.destroy();
  await rejectsWith(domain.undefine(), 'DOMAIN_WRONG_STATE');
  await domain.undefine({ checkpointsMetadata: true });
  assert.deepEqual(await rig.connection.domains(), []);
});

test('a transient machine is gone when it stops', async (t) => {
  const rig = await startLibvirt(t);
  const stopped = rig.connection.waitForEvent('lifecycle', (event) => event.event === 'stopped');
  const domain = await rig.connection.createTransient(
    "<domain type='qemu'><name>brief</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>",
    { isPaused: true },
  );
  assert.deepEqual([await domain.isPersistent(), (await domain.state()).state], [false, 'paused']);
  await domain.resume();
  assert.equal((await domain.state()).state, 'running');
  await domain.suspend();
  await domain.destroy();
  await stopped;
  await rejectsWith(domain.state(), 'DOMAIN_NOT_FOUND');
});

test('a redefinition of the same UUID changes the machine and is told by an event', async (t) => {
  const rig = await startLibvirt(t);
  const domain = await definePlainMachine(rig, 'machine');
  const updated = rig.connection.waitForEvent('lifecycle', (event) => event.detail === 'updated');
  const xml = await domain.xml({ isInactive: true });
  await rig.connection.define(xml.replace('</name>', '</name><title>Näxt</title>'));
  assert.deepEqual(await updated, { uuid: domain.uuid, name: 'machine', event: 'defined', detail: 'updated' });
  assert.equal(textOf(find(parseXml(await domain.xml()), 'title')), 'Näxt');
});
