// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createServer as createSocketServer } from 'node:net';
import { join } from 'node:path';
import { controlSocketPath, isListening, listenAt } from '../../appliance/api/control-socket.ts';
import { rejectsWith } from '../support/rejects-with.ts';
import { suite } from '../support/suite.ts';

const test = suite('control socket');

for (const subdirectory of ['', `${'long/'.repeat(60)}end`]) {
  const which = subdirectory === '' ? '' : ' at a long path';

  test(`a socket that nobody listens on is replaced${which}`, async (t) => {
    const directory = join(await t.tempDir(), subdirectory);
    await mkdir(directory, { recursive: true });
    const path = controlSocketPath(directory);
    // A process that was killed leaves its socket: bind through the same address, then close without unlinking.
    await leaveStaleSocket(directory);
    assert.equal((await stat(path)).isSocket(), true);
    assert.equal(await isListening(path), false);
    const server = createServer();
    t.use(await listenAt(server, path));
    t.use({ close: () => server.close() });
    assert.equal(await isListening(path), true);
  });
}

test('a file in place of the socket is left alone', async (t) => {
  const directory = await t.tempDir();
  await writeFile(controlSocketPath(directory), 'precious');
  const server = createServer();
  await rejectsWith(listenAt(server, controlSocketPath(directory)), 'IO_FAILED');
  assert.equal((await stat(controlSocketPath(directory))).size, 8);
});

/** A socket file without a listener. */
async function leaveStaleSocket(directory: string): Promise<void> {
  const workingDirectory = process.cwd();
  const server = createSocketServer();
  process.chdir(directory);
  await new Promise<void>((resolve) => server.listen('bound.sock', resolve));
  const { renameSync } = await import('node:fs');
  renameSync('bound.sock', 'control.sock');
  process.chdir(workingDirectory);
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}
