// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '../../appliance/core/clock.ts';
import { LibvirtConnection } from '../../appliance/hypervisor/libvirt/connection.ts';
import { PrivateLibvirt } from '../../lab/libvirtd.ts';
import { freePort, makeAuthority } from '../support/certificates.ts';
import { LIBVIRT_REQUIREMENTS } from '../support/machines.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { runProcess } from '../support/run-process.ts';
import { suite } from '../support/suite.ts';

const test = suite('libvirt transports', { requires: LIBVIRT_REQUIREMENTS, timeoutMs: 60_000 });

test(
  'qemu+ssh reaches the daemon behind the ssh program, and never asks on a terminal',
  async (t) => {
    const libvirt = t.use(await PrivateLibvirt.start());
    const directory = await t.tempDir();
    const socket = join(libvirt.directory, 'r/libvirt/libvirt-sock');
    const program = join(directory, 'ssh');
    // Stands in for ssh: notes its arguments and connects to the socket that the other side would connect to.
    const script = `#!/bin/sh\necho "$@" > ${directory}/arguments\nexec socat - UNIX-CONNECT:${socket}\n`;
    await writeFile(program, script, { mode: 0o755 });
    const uri = `qemu+ssh://root@lab.invalid:2222/session?command=${program}&socket=${socket}&proxy=netcat`;
    const connection = t.use(await LibvirtConnection.open(uri));
    assert.deepEqual(await connection.domains(), []);
    const given = await readFile(join(directory, 'arguments'), 'utf8');
    assert.match(given, /-o BatchMode=yes/);
    assert.match(given, /lab\.invalid/);
  },
  { requires: ['socat'] },
);

test('an ssh that fails is LIBVIRT_CONNECT_FAILED', async (t) => {
  const program = join(await t.tempDir(), 'ssh');
  await writeFile(program, '#!/bin/sh\necho "Host key verification failed." >&2\nexit 255\n', { mode: 0o755 });
  await rejectsWith(
    LibvirtConnection.open(`qemu+ssh://lab.invalid/system?command=${program}`),
    'LIBVIRT_CONNECT_FAILED',
  );
});

test('a server that accepts and says nothing costs the time limit, and does not keep the process', async (t) => {
  const directory = await t.tempDir();
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket));
  await new Promise<void>((resolve) => server.listen(join(directory, 'silent'), resolve));
  t.use({
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
  const module = new URL('../../appliance/hypervisor/libvirt/connection.ts', import.meta.url).href;
  const uri = `qemu+unix:///session?socket=${join(directory, 'silent')}`;
  const script = join(directory, 'script.mjs');
  await writeFile(
    script,
    `const { LibvirtConnection } = await import(${JSON.stringify(module)});
     await LibvirtConnection.open(${JSON.stringify(uri)}, { timeoutMs: 300 }).catch((error) => console.log(error.code));`,
  );
  const startedAt = systemClock.elapsedMs();
  const result = await runProcess([process.execPath, script], { limitMs: 15_000 });
  assert.deepEqual([result.output.trim(), result.exitCode], ['TIMED_OUT', 0]);
  assert.ok(systemClock.elapsedMs() - startedAt < 10_000);
});

test(
  'qemu+tls works with certificates of the right authority and with no others',
  async (t) => {
    const directory = await t.tempDir();
    const good = await makeAuthority(join(directory, 'good'));
    const foreign = await makeAuthority(join(directory, 'foreign'));
    const port = await freePort();
    t.use(
      await PrivateLibvirt.start({
        tls: {
          port,
          authorityPath: join(good, 'cacert.pem'),
          certificatePath: join(good, 'servercert.pem'),
          keyPath: join(good, 'serverkey.pem'),
        },
      }),
    );
    const uri = (folder: string): string => `qemu+tls://localhost:${port}/session?pkipath=${folder}`;
    const connection = t.use(await LibvirtConnection.open(uri(good)));
    assert.deepEqual(await connection.domains(), []);
    assert.equal((await connection.versions()).type, 'QEMU');
    await rejectsWith(LibvirtConnection.open(uri(foreign)), 'LIBVIRT_DENIED');
  },
  { requires: ['certtool'] },
);
