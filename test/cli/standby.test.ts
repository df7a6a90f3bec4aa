// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { CliTest } from '../support/cli-harness.ts';
import { fakeStandbyResults } from '../support/fake-standby.ts';
import { suite } from '../support/suite.ts';

const test = suite('understudy standby, in front of a fake appliance');

test('networks may be repeated, and memory is a whole number of MiB', async () => {
  const asked: unknown[] = [];
  const behaviour = {
    standbyCreate: async (params: unknown) => {
      asked.push(params);
      return fakeStandbyResults.standby;
    },
  };
  const words = ['standby', 'create', 'web', '--on', 'qemu:///system', '--connect', 'qemu:///session'];
  const wishes = ['--network', 'a=b', '--network', 'c=d', '--memory', '512'];
  const { exitCode, stdout } = await new CliTest({ behaviour }).run(...words, ...wishes);
  assert.equal(exitCode, 0);
  assert.match(stdout, /web-standby is defined on/);
  assert.deepEqual(asked, [
    { name: 'web', on: 'qemu:///system', network: 'a=b,c=d', memory: 512, connect: 'qemu:///session' },
  ]);
  assert.equal((await new CliTest({ behaviour }).run(...words, '--memory', '1.5')).exitCode, 2);
  assert.equal((await new CliTest({ behaviour }).run('standby', 'create', 'web')).exitCode, 2);
});

test('the list says where failovers stand, and what to do', async () => {
  const unfinished = { ...fakeStandbyResults.standby, phase: 'returning', standing: 'Do not start it.' } as const;
  const { stdout } = await new CliTest({ behaviour: { standbyList: async () => [unfinished] } }).run('standby', 'list');
  assert.match(stdout, /returning[^]*Do not start it\./);
  const none = await new CliTest({ behaviour: { standbyList: async () => [] } }).run('standby', 'list', '--json');
  assert.deepEqual(JSON.parse(none.stdout), []);
});
