// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigurationOperations } from '../../appliance/app/configuration-operations.ts';
import { Hypervisors } from '../../appliance/app/hypervisors.ts';
import { Configuration } from '../../appliance/config/configuration.ts';
import { SETTINGS } from '../../appliance/config/settings.ts';
import { systemClock } from '../../appliance/core/clock.ts';
import { ApplianceError } from '../../appliance/core/errors.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('configuration operations');

const PASSWORD = 'correct horse battery staple';

test('a hypervisor is added, shown without its password, changed and removed', async (t) => {
  const { operations, state } = await rig(t);
  const added = await operations.hypervisorAdd({
    name: 'rack1',
    uri: 'qemu+tcp://rack1/system',
    username: 'ada',
    password: PASSWORD,
  });
  assert.deepEqual([added.hasPassword, added.username, JSON.stringify(added).includes(PASSWORD)], [true, 'ada', false]);
  await rejectsWith(operations.hypervisorAdd({ name: 'rack1', uri: 'qemu:///system' }), 'CONFLICT');
  const moved = await operations.hypervisorUpdate({
    name: 'rack1',
    uri: 'qemu+tcp://rack2/system',
    revision: added.revision,
  });
  assert.deepEqual([moved.uri, moved.hasPassword], ['qemu+tcp://rack2/system', true]);
  await rejectsWith(operations.hypervisorUpdate({ name: 'rack1', revision: added.revision }), 'CONFLICT');
  assert.equal((await operations.hypervisorUpdate({ name: 'rack1', withoutCredentials: true })).hasPassword, false);
  assert.ok(!(await readFile(join(state, 'config', 'hypervisors.json'), 'utf8')).includes(PASSWORD));
  await operations.hypervisorRemove({ name: 'rack1' });
  assert.deepEqual(await operations.hypervisors(), []);
  await rejectsWith(operations.hypervisorShow({ name: 'rack1' }), 'NOT_FOUND');
});

test('a URI that carries a password or a command is refused, and credentials that its transport does not use', async (t) => {
  const { operations } = await rig(t);
  for (const uri of [
    'rack1',
    'qemu+ssh://root:geheim@rack1/system',
    'qemu+ssh://rack1/system?command=/tmp/evil',
    'qemu+ssh://rack1/system?netcat=/tmp/evil',
    'qemu+tcp://rack1/system?authfile=/etc/shadow',
  ]) {
    await rejectsWith(operations.hypervisorAdd({ name: 'rack1', uri }), 'BAD_ARGUMENT');
  }
  const bad = { name: 'rack1', uri: 'qemu:///system' };
  await rejectsWith(operations.hypervisorAdd({ ...bad, sshKeyFile: '/key' }), 'BAD_ARGUMENT');
  await rejectsWith(operations.hypervisorAdd({ ...bad, tlsDirectory: '/pki' }), 'BAD_ARGUMENT');
  await rejectsWith(operations.hypervisorAdd({ ...bad, username: 'ada' }), 'BAD_ARGUMENT');
  await rejectsWith(operations.hypervisorAdd({ ...bad, username: 'ada', password: 'two\nlines' }), 'BAD_ARGUMENT');
});

test('names lead to URIs with where the credentials lie, and without names all that are configured are meant', async (t) => {
  const { operations, hypervisors } = await rig(t);
  assert.deepEqual(hypervisors.all(), [{ name: null, uri: 'qemu:///default' }]);
  assert.equal(hypervisors.uri(undefined), 'qemu:///default');
  await operations.hypervisorAdd({ name: 'rack1', uri: 'qemu+ssh://root@rack1/system', sshKeyFile: '/k/id 1' });
  assert.equal(hypervisors.uri(undefined), 'qemu+ssh://root@rack1/system?keyfile=%2Fk%2Fid%201');
  await operations.hypervisorAdd({ name: 'here', uri: 'qemu:///system' });
  assert.equal(hypervisors.uri('rack1'), 'qemu+ssh://root@rack1/system?keyfile=%2Fk%2Fid%201');
  assert.equal(hypervisors.uri(undefined), 'qemu:///system');
  assert.equal(hypervisors.uri('qemu:///session'), 'qemu:///session');
  assert.equal(hypervisors.labelOf('qemu:///system'), 'here');
  assert.throws(() => hypervisors.uri('rack9'));
});

test('the password lies in a file for the time of opening only', async (t) => {
  const { operations, hypervisors, opened, state } = await rig(t);
  await operations.hypervisorAdd({
    name: 'rack1',
    uri: 'qemu+tcp://rack1/system',
    username: 'ada',
    password: PASSWORD,
  });
  await rejectsWith(hypervisors.open(hypervisors.uri('rack1')), 'LIBVIRT_CONNECT_FAILED');
  const [{ content, mode } = { content: '', mode: 0 }] = opened;
  assert.ok(content.includes(`authname=ada\npassword=${PASSWORD}\n`));
  assert.equal(mode & 0o777, 0o600);
  assert.deepEqual(await readdir(join(state, 'run')), []);
});

test('a connection test says what is missing', async (t) => {
  const { operations, state } = await rig(t);
  const key = join(state, 'id_rack1');
  await operations.hypervisorAdd({ name: 'rack1', uri: 'qemu+ssh://rack1/system', sshKeyFile: key });
  const missing = await operations.hypervisorTest({ name: 'rack1' });
  assert.deepEqual(
    missing.steps.map(({ what, isOk }) => [what, isOk]),
    [
      ['address', true],
      ['ssh key', false],
    ],
  );
  await writeFile(key, 'key');
  await chmod(key, 0o644);
  assert.match((await operations.hypervisorTest({ name: 'rack1' })).steps[1]?.detail ?? '', /others may read/);
  await chmod(key, 0o600);
  const refused = await operations.hypervisorTest({ name: 'rack1' });
  assert.equal(refused.isOk, false);
  assert.match(refused.steps.at(-1)?.detail ?? '', /^LIBVIRT_CONNECT_FAILED/);
});

test('settings are shown, set and reset, and the page has each of them', async (t) => {
  const { operations } = await rig(t);
  assert.equal((await operations.settingSet({ name: 'selfbackup.keep', value: '5' })).value, 5);
  assert.deepEqual(
    (await operations.settings()).filter(({ isSet }) => isSet).map(({ name }) => name),
    ['selfbackup.keep'],
  );
  assert.equal((await operations.settingReset({ name: 'selfbackup.keep' })).isSet, false);
  const page = await readFile(new URL('../../docs/settings.md', import.meta.url), 'utf8');
  const named = [...page.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = '']) => name);
  assert.deepEqual(named.sort(), Object.keys(SETTINGS).sort());
});

const PASSPHRASE = 'a passphrase of some length';

test('an exported configuration makes another appliance the same, with passwords under the passphrase only', async (t) => {
  const [here, there] = [await rig(t), await rig(t)];
  await here.operations.hypervisorAdd({ name: 'rack1', uri: 'qemu+tcp://a/', username: 'ada', password: PASSWORD });
  await here.operations.settingSet({ name: 'selfbackup.keep', value: '5' });
  await there.operations.hypervisorAdd({ name: 'old', uri: 'qemu:///system' });
  const { document, hasSecrets } = await here.operations.configExport({ passphrase: PASSPHRASE });
  assert.deepEqual([hasSecrets, document.includes(PASSWORD)], [true, false]);
  await rejectsWith(there.operations.configImport({ document }), 'BAD_ARGUMENT');
  await rejectsWith(there.operations.configImport({ document, passphrase: `${PASSPHRASE}!` }), 'SECRET_UNREADABLE');
  const plan = await there.operations.configImport({ document, passphrase: PASSPHRASE, dryRun: true });
  assert.deepEqual(plan, {
    applied: false,
    differences: [
      { collection: 'hypervisors', added: ['rack1'], changed: [], removed: ['old'] },
      { collection: 'settings', added: ['selfbackup.keep'], changed: [], removed: [] },
    ],
  });
  assert.deepEqual(
    (await there.operations.hypervisors()).map(({ name }) => name),
    ['old'],
  );
  await there.operations.configImport({ document, passphrase: PASSPHRASE });
  await rejectsWith(there.hypervisors.open(there.hypervisors.uri('rack1')), 'LIBVIRT_CONNECT_FAILED');
  assert.ok(there.opened[0]?.content.includes(PASSWORD));
  const again = await there.operations.configImport({ document, passphrase: PASSPHRASE, dryRun: true });
  assert.ok(
    again.differences.every(({ added, changed, removed }) => added.length + changed.length + removed.length === 0),
  );
});

test('an import that is changed, unknown or bad anywhere changes nothing; a password that it leaves out stays', async (t) => {
  const { operations, hypervisors, opened } = await rig(t);
  await operations.hypervisorAdd({ name: 'rack1', uri: 'qemu+tcp://a/', username: 'ada', password: PASSWORD });
  const { document, hasSecrets } = await operations.configExport({});
  assert.equal(hasSecrets, false);
  await rejectsWith(operations.configImport({ document: document.replace('ada', 'eve') }), 'CONFIG_DAMAGED');
  await rejectsWith(operations.configImport({ document: 'x' }), 'CONFIG_DAMAGED');
  await rejectsWith(operations.configImport({ document: '{}' }), 'CONFIG_FORMAT');
  await operations.configImport({ document });
  await rejectsWith(hypervisors.open(hypervisors.uri('rack1')), 'LIBVIRT_CONNECT_FAILED');
  assert.ok(opened[0]?.content.includes(PASSWORD));
});

interface Rig {
  readonly operations: ConfigurationOperations;
  readonly hypervisors: Hypervisors;
  readonly state: string;
  /** The login files that were there when a connection was opened. */
  readonly opened: { readonly content: string; readonly mode: number }[];
}

async function rig(t: TestContext): Promise<Rig> {
  const state = await t.tempDir();
  const runtimePath = join(state, 'run');
  await mkdir(runtimePath);
  const configuration = await Configuration.open(state);
  const opened: { readonly content: string; readonly mode: number }[] = [];
  const hypervisors = new Hypervisors({
    configuration,
    defaultUri: 'qemu:///default',
    runtimePath,
    open: async (uri) => {
      const path = new URLSearchParams(uri.split('?')[1]).get('authfile');
      if (path !== null) opened.push({ content: await readFile(path, 'utf8'), mode: (await stat(path)).mode });
      throw new ApplianceError('LIBVIRT_CONNECT_FAILED', 'nobody there');
    },
  });
  return {
    operations: new ConfigurationOperations({ configuration, hypervisors, clock: systemClock, more: [] }),
    hypervisors,
    state,
    opened,
  };
}
