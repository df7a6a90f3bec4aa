// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { hasCode } from '../../appliance/core/errors.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { type AccessRequest, checkIsLocal, letQemuReach } from '../../appliance/recover/local-hypervisor.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('a hypervisor on this host');
/** A user that owns nothing here. */
const STRANGER = { uid: 64_123, gid: 64_123 } as const;
const isRoot = process.getuid?.() === 0;

async function accessRig(t: TestContext): Promise<AccessRequest & { readonly nvram: string }> {
  const ownDirectory = await t.tempDir();
  const run = join(ownDirectory, 'run');
  const session = join(ownDirectory, 'sessions', 'one');
  await mkdir(run, { mode: 0o700 });
  await mkdir(session, { recursive: true, mode: 0o700 });
  const nvram = join(session, 'nvram');
  await writeFile(nvram, 'variables', { mode: 0o600 });
  const socketPath = join(run, 'nbd.sock');
  t.use(await NbdServer.listen({ listen: { kind: 'unix', path: socketPath } }));
  return { owner: STRANGER, socketPath, ownDirectory, paths: [nvram], nvram };
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode % 0o1000;
}

/** Whether a user can connect to the socket, tried by a process of that user. */
async function canConnect(path: string, user: { uid: number; gid: number }): Promise<boolean> {
  const script = 'import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(len(s.recv(8)))';
  const run = promisify(execFile)('python3', ['-c', script, path], { uid: user.uid, gid: user.gid, cwd: '/' });
  return run.then(
    ({ stdout }) => stdout.trim() === '8',
    () => false,
  );
}

test('only connections to this host are local', () => {
  for (const uri of ['qemu:///system', 'qemu:///session', 'qemu+unix:///session?socket=/a/b', 'test:///default']) {
    assert.equal(checkIsLocal(uri), undefined, uri);
  }
  for (const uri of [
    'qemu+ssh://root@host/system',
    'qemu+tls://host/system',
    'qemu+tcp:///system',
    'qemu://host/system',
  ]) {
    assert.throws(
      () => checkIsLocal(uri),
      (error) => hasCode(error, 'NOT_SUPPORTED'),
      uri,
    );
  }
});

test('nothing is opened for QEMU that runs as the user of the appliance', async (t) => {
  const rig = await accessRig(t);
  const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  for (const owner of [undefined, own]) await letQemuReach({ ...rig, owner });
  assert.equal(await modeOf(rig.ownDirectory), 0o700);
  assert.equal(await modeOf(rig.socketPath), 0o600);
});

test('directories of ours can be passed through, not listed, by QEMU of another user', async (t) => {
  const rig = await accessRig(t);
  await letQemuReach(rig);
  for (const directory of [
    rig.ownDirectory,
    join(rig.ownDirectory, 'run'),
    join(rig.ownDirectory, 'sessions', 'one'),
  ]) {
    assert.equal(await modeOf(directory), 0o711, directory);
  }
  assert.equal(await modeOf(rig.nvram), 0o600);
  const { uid } = await stat(rig.socketPath);
  const mode = await modeOf(rig.socketPath);
  assert.deepEqual({ uid, mode }, isRoot ? { uid: STRANGER.uid, mode: 0o600 } : { uid, mode: 0o666 });
});

test('a directory that is not ours and in the way is named, and left as it is', async (t) => {
  const rig = await accessRig(t);
  const closed = await t.tempDir();
  const ownDirectory = join(closed, 'state');
  await mkdir(ownDirectory);
  const request = { ...rig, ownDirectory, socketPath: join(ownDirectory, 'nbd.sock'), paths: [] };
  await assert.rejects(letQemuReach(request), (error) => {
    assert.ok(hasCode(error, 'BOOT_FAILED'));
    assert.equal(error.details['directory'], closed);
    return true;
  });
  assert.equal(await modeOf(closed), 0o700);
});

if (isRoot) {
  test(
    'after that another user can really connect, and a third one cannot',
    async (t) => {
      const rig = await accessRig(t);
      await chmod(rig.ownDirectory, 0o700);
      assert.equal(await canConnect(rig.socketPath, STRANGER), false);
      await letQemuReach(rig);
      assert.equal(await canConnect(rig.socketPath, STRANGER), true);
      assert.equal(await canConnect(rig.socketPath, { uid: 64_124, gid: 64_124 }), false);
    },
    { requires: ['python3'] },
  );
}
