// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { grantAccess, MAY } from '../../appliance/core/access-list.ts';
import { hasCode } from '../../appliance/core/errors.ts';
import { letQemuReach, type ReachRequest } from '../../appliance/hypervisor/libvirt/qemu-access.ts';
import { canList, QEMU_USER, runAs, STRANGER } from '../support/other-user.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('the way of QEMU to our files');
const isRoot = process.getuid?.() === 0;
const READ = 'import sys\nopen(sys.argv[1]).read()';

async function accessRig(t: TestContext): Promise<ReachRequest & { readonly state: string; readonly nvram: string }> {
  const state = await t.tempDir();
  const session = join(state, 'sessions', 'one');
  await mkdir(session, { recursive: true, mode: 0o700 });
  const nvram = join(session, 'nvram');
  await writeFile(nvram, 'variables', { mode: 0o644 });
  return { owner: QEMU_USER, ownDirectories: [state], paths: [nvram], state, nvram };
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode % 0o1000;
}

test('nothing is opened for QEMU that runs as the user of the appliance', async (t) => {
  const rig = await accessRig(t);
  const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  for (const owner of [undefined, own]) await letQemuReach({ ...rig, owner });
  assert.equal(await modeOf(rig.state), 0o700);
  assert.equal(await modeOf(join(rig.state, 'sessions')), 0o700);
});

test('a directory that is not ours and in the way is named, and left as it is', async (t) => {
  const rig = await accessRig(t);
  const closed = await t.tempDir();
  const state = join(closed, 'state');
  await mkdir(state);
  const request = { ...rig, ownDirectories: [state], paths: [join(state, 'nvram')] };
  await assert.rejects(letQemuReach(request), (error) => {
    assert.ok(hasCode(error, 'QEMU_ACCESS'));
    assert.equal(error.details['directory'], closed);
    return true;
  });
  assert.equal(await modeOf(closed), 0o700);
});

test('a directory of somebody else that lets QEMU in by its access list is not in the way', async (t) => {
  const rig = await accessRig(t);
  const closed = await t.tempDir();
  await grantAccess(closed, { uid: QEMU_USER.uid, rights: MAY.search });
  await letQemuReach({ ...rig, ownDirectories: [], paths: [join(closed, 'disk')] });
});

if (isRoot) {
  test(
    'directories of ours can be passed through by QEMU of another user, not listed, and by nobody else',
    async (t) => {
      const rig = await accessRig(t);
      assert.equal(await runAs(QEMU_USER, READ, rig.nvram), undefined);
      await letQemuReach(rig);
      assert.equal(await runAs(QEMU_USER, READ, rig.nvram), '');
      assert.equal(await runAs(STRANGER, READ, rig.nvram), undefined);
      for (const directory of [rig.state, join(rig.state, 'sessions'), join(rig.state, 'sessions', 'one')]) {
        assert.equal(await canList(directory, QEMU_USER), false, directory);
        assert.equal((await modeOf(directory)) % 0o10, 0, directory);
      }
    },
    { requires: ['python3', 'setpriv'] },
  );
}
