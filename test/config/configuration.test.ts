// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CollectionDefinition } from '../../appliance/config/collection.ts';
import { Configuration } from '../../appliance/config/configuration.ts';
import type { SealedSecret } from '../../appliance/config/secret-box.ts';
import { SETTINGS } from '../../appliance/config/settings.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('configuration');

const NOTES: CollectionDefinition<{ readonly text: SealedSecret }> = {
  name: 'notes',
  check: (value) => value as { readonly text: SealedSecret },
};

test('a setting holds its initial value until it is set, and again after a reset', async (t) => {
  const state = await t.tempDir();
  const { settings } = await Configuration.open(state);
  assert.equal(settings.value('selfbackup.keep'), SETTINGS['selfbackup.keep'].initial);
  const shown = await settings.set('selfbackup.keep', '7');
  assert.deepEqual([shown.value, shown.isSet], [7, true]);
  assert.equal((await Configuration.open(state)).settings.value('selfbackup.keep'), 7);
  await settings.reset('selfbackup.keep');
  await settings.reset('selfbackup.keep');
  assert.equal((await Configuration.open(state)).settings.show('selfbackup.keep').isSet, false);
});

test('a setting takes only what it may be', async (t) => {
  const { settings } = await Configuration.open(await t.tempDir());
  await rejectsWith(settings.set('nothing', 'x'), 'NOT_FOUND');
  await rejectsWith(settings.set('__proto__', 'x'), 'NOT_FOUND');
  for (const bad of ['', 'many', '0', '1.5', '101', '-3']) {
    await rejectsWith(settings.set('selfbackup.keep', bad), 'BAD_ARGUMENT');
  }
  await rejectsWith(settings.set('selfbackup.enabled', 'perhaps'), 'BAD_ARGUMENT');
  await rejectsWith(settings.set('audit.syslog', 'file:///etc/passwd'), 'BAD_ARGUMENT');
  await settings.set('audit.syslog', 'udp://loghost:514');
  assert.equal(settings.value('audit.syslog'), 'udp://loghost:514');
});

test('a hypervisor needs a name, a URI, and a password that is sealed', async (t) => {
  const { hypervisors, secrets } = await Configuration.open(await t.tempDir());
  await rejectsWith(hypervisors.create('qemu:///system', { uri: 'qemu:///system' }), 'BAD_ARGUMENT');
  await rejectsWith(hypervisors.create('../one', { uri: 'qemu:///system' }), 'BAD_ARGUMENT');
  await rejectsWith(hypervisors.create('one', {} as never), 'BAD_ARGUMENT');
  await rejectsWith(hypervisors.create('one', { uri: 'u', password: 'plain' as SealedSecret }), 'BAD_ARGUMENT');
  await rejectsWith(hypervisors.create('one', { uri: 'u', sshKeyFile: 'relative' }), 'BAD_ARGUMENT');
  const password = secrets.seal({ collection: 'hypervisors', id: 'one', field: 'password' }, 'geheim');
  await hypervisors.create('one', { uri: 'qemu+tls://one/system', username: 'backup', password });
});

test('a collection is opened once, whoever asks, and its changes are announced by name', async (t) => {
  const configuration = await Configuration.open(await t.tempDir());
  const heard: string[] = [];
  configuration.onChange((name) => heard.push(name));
  const [one, two] = await Promise.all([configuration.collection(NOTES), configuration.collection(NOTES)]);
  assert.equal(one, two);
  await one.create('a', { text: configuration.secrets.seal(placeOf('a'), 'x') });
  await configuration.settings.set('selfbackup.keep', 3);
  assert.deepEqual(heard, ['notes', 'settings']);
});

test('with a new key every secret still opens, and nothing is under the old one any more', async (t) => {
  const state = await t.tempDir();
  const configuration = await Configuration.open(state);
  const notes = await configuration.collection(NOTES);
  await notes.create('a', { text: configuration.secrets.seal(placeOf('a'), 'geheim') });
  const old = configuration.keys.current.id;
  const blind = await Configuration.open(state);
  await rejectsWith(blind.rotateKey(), 'CONFLICT');
  await configuration.rotateKey();
  assert.notEqual(configuration.keys.current.id, old);
  assert.ok(!(await readFile(join(state, 'config', 'notes.json'), 'utf8')).includes(old));
  const fresh = await Configuration.open(state);
  const { text } = (await fresh.collection(NOTES)).get('a').value;
  assert.equal(fresh.secrets.open(placeOf('a'), text), 'geheim');
});

function placeOf(id: string): { readonly collection: string; readonly id: string; readonly field: string } {
  return { collection: 'notes', id, field: 'text' };
}
