// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { chmod, chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { grantAccess, grantInherited, MAY } from '../../appliance/core/access-list.ts';
import { letQemuConnect, letQemuListen } from '../../appliance/hypervisor/libvirt/qemu-access.ts';
import { NbdServer } from '../../appliance/nbd/server/nbd-server.ts';
import { canConnect, QEMU_USER, runAs, SERVICE_USER, STRANGER } from '../support/other-user.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('access for QEMU', { requires: ['python3', 'setpriv'] });
const isRoot = process.getuid?.() === 0;

async function passable(t: TestContext): Promise<string> {
  const directory = await t.tempDir();
  await chmod(directory, 0o711);
  return directory;
}

async function listen(t: TestContext, directory: string): Promise<string> {
  const path = join(directory, 's');
  t.use(await NbdServer.listen({ listen: { kind: 'unix', path } }));
  return path;
}

/** Listens with the umask that libvirt gives QEMU, connects as another user; prints what came of it. */
const LISTEN = `import os,socket,sys
os.umask(0o002)
s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(5); print('listening', flush=True)
s.settimeout(20)
for i in range(int(sys.argv[2])): c,_=s.accept(); c.send(b'NBDMAGIC'); c.close()`;

test('nothing changes for QEMU of the same user', async (t) => {
  const path = await listen(t, await passable(t));
  await letQemuConnect(path, undefined);
  await letQemuConnect(path, { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 });
  if (isRoot) assert.equal(await canConnect(path, QEMU_USER), false);
});

if (isRoot) {
  test("a socket of root can be reached by QEMU's user and by no other", async (t) => {
    const path = await listen(t, await passable(t));
    assert.equal(await canConnect(path, QEMU_USER), false);
    await letQemuConnect(path, QEMU_USER);
    assert.equal(await canConnect(path, QEMU_USER), true);
    assert.equal(await canConnect(path, STRANGER), false);
  });

  test("a socket of an ordinary user can be reached by its owner and QEMU's user, and by no other", async (t) => {
    const path = await listen(t, await passable(t));
    await chown(path, SERVICE_USER.uid, SERVICE_USER.gid);
    // What letQemuConnect does for a service that is not root.
    await grantAccess(path, { uid: QEMU_USER.uid, rights: MAY.read + MAY.write });
    const reached = await Promise.all([QEMU_USER, SERVICE_USER, STRANGER].map((user) => canConnect(path, user)));
    assert.deepEqual(reached, [true, true, false]);
    assert.equal(await canConnect(path, { uid: STRANGER.uid, gid: SERVICE_USER.gid }), false);
  });

  test("QEMU's user can listen in a directory of an ordinary user, who can connect, and nobody else can", async (t) => {
    const directory = join(await passable(t), 'run');
    await mkdir(directory, { mode: 0o700 });
    await chown(directory, SERVICE_USER.uid, SERVICE_USER.gid);
    // What letQemuListen does for a service that is not root.
    grantInherited(directory, [{ uid: SERVICE_USER.uid, rights: MAY.read + MAY.write }]);
    await grantAccess(directory, { uid: QEMU_USER.uid, rights: MAY.write + MAY.search });
    const path = join(directory, 's');
    const served = runAs(QEMU_USER, LISTEN, path, '1');
    while (!(await canConnect(path, SERVICE_USER))) assert.equal(await canConnect(path, STRANGER), false);
    assert.match((await served) ?? '', /listening/);
  });

  test('a directory of root is given to QEMU, whose socket root can reach', async (t) => {
    const directory = join(await passable(t), 'run');
    await mkdir(directory, { mode: 0o700 });
    await letQemuListen(directory, QEMU_USER);
    const path = join(directory, 's');
    const served = runAs(QEMU_USER, LISTEN, path, '1');
    while (!(await canConnect(path, { uid: 0, gid: 0 }))) assert.equal(await canConnect(path, STRANGER), false);
    assert.match((await served) ?? '', /listening/);
  });
}
