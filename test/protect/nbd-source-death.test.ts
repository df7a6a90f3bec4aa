// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupReport } from '../../appliance/api/operations.ts';
import { ApplianceProcess, assertSameBytes, errorOf, untilThere } from '../support/appliance-process.ts';
import { LiveProcess } from '../support/live-process.ts';
import { stopProcess } from '../support/process-state.ts';
import { suite } from '../support/suite.ts';
import type { TestContext } from '../support/test-scope.ts';

const test = suite('an NBD server that dies in mid-backup', { timeoutMs: 90_000 });
const MIB = 1024 * 1024;

const SERVERS = {
  'qemu-nbd': (socket: string, disk: string) => ['qemu-nbd', '-t', '-e', '4', '-r', '-f', 'raw', '-k', socket, disk],
  nbdkit: (socket: string, disk: string) => ['nbdkit', '-f', '-r', '-U', socket, 'file', disk],
} as const;

async function serve(t: TestContext, name: keyof typeof SERVERS, socket: string, disk: string): Promise<LiveProcess> {
  await rm(socket, { force: true });
  const [program, ...args] = SERVERS[name](socket, disk);
  const server = t.use(new LiveProcess([program ?? '', ...args]));
  await untilThere(socket);
  return server;
}

for (const name of ['qemu-nbd', 'nbdkit'] as const) {
  test(
    `${name} is killed: no point, and with another disk in its place not one made of both`,
    async (t) => {
      const directory = await t.tempDir();
      const appliance = new ApplianceProcess(t, join(directory, 'state'));
      await appliance.ask('init');
      const disk = join(directory, 'disk');
      const socket = join(directory, 's');
      const uri = `nbd+unix:///?socket=${socket}`;
      const first = randomBytes(48 * MIB);
      await writeFile(disk, first);
      const server = await serve(t, name, socket, disk);
      const running = appliance.start('backup', uri, '--name', 'mail', '--json');
      await appliance.untilStaged(running, 2 * MIB);
      await stopProcess(running.pid);
      assert.ok((await appliance.stagedBytes()) < first.length);
      server.kill('SIGKILL');
      await server.result;
      // The same size, another content: nothing about the export tells that it is another disk.
      const other = randomBytes(first.length);
      await writeFile(disk, other);
      await serve(t, name, socket, disk);
      running.kill('SIGCONT');
      errorOf(await running.result, 'NBD_CONNECTION_LOST');
      assert.deepEqual(await appliance.points(), []);
      const next = await appliance.ask<BackupReport>('backup', uri, '--name', 'mail');
      assertSameBytes(await appliance.restored(next.point), other, 'the next point');
      await appliance.ask('check', '--read-data');
    },
    { requires: [name] },
  );
}

test(
  'a server that is gone for good ends the backup with a clear error, soon',
  async (t) => {
    const directory = await t.tempDir();
    const appliance = new ApplianceProcess(t, join(directory, 'state'));
    await appliance.ask('init');
    const disk = join(directory, 'disk');
    const socket = join(directory, 's');
    await writeFile(disk, randomBytes(32 * MIB));
    const server = await serve(t, 'nbdkit', socket, disk);
    const words = ['backup', `nbd+unix:///?socket=${socket}`, '--name', 'mail'];
    const running = appliance.start(...words, '--json');
    await appliance.untilStaged(running, MIB);
    server.kill('SIGKILL');
    const error = errorOf(await running.result, 'NBD_CONNECTION_LOST');
    assert.equal(error.exitCode, 6);
    assert.equal((await appliance.refused('NBD_CONNECT_FAILED', ...words)).exitCode, 6);
    assert.equal(await appliance.stagedBytes(), 0);
  },
  { requires: ['nbdkit'] },
);
