// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../appliance/core/clock.ts';
import { runTool } from '../../appliance/hypervisor/tool.ts';
import { freePort } from './certificates.ts';
import type { TestContext } from './test-scope.ts';

/** Programs that a test with an sshd of its own needs. */
export const SSH_REQUIREMENTS: readonly string[] = ['sshd', 'ssh', 'ssh-keygen', 'socat', 'setpriv'];
const SSHD_TIMEOUT_MS = 20_000;

export interface SshdOptions {
  /** Lines of its configuration. */
  readonly settings?: readonly string[];
  /** Puts something between: given the port that sshd will listen on, the one that clients use. */
  readonly via?: (port: number) => Promise<number>;
}

export interface SshRig {
  /** For the socket of a daemon on the other side. */
  readonly uri: (socketPath: string) => string;
}

/** A server and a client of their own keys, who share nothing with those of the system. */
export async function startSshd(t: TestContext, options: SshdOptions = {}): Promise<SshRig> {
  const directory = await t.tempDir();
  const path = (name: string): string => join(directory, name);
  for (const name of ['host', 'user']) await runTool('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', path(name)]);
  await copyFile(path('user.pub'), path('authorized'));
  const port = await freePort();
  const seenPort = (await options.via?.(port)) ?? port;
  const hostKey = (await readFile(path('host.pub'), 'utf8')).trim();
  await writeFile(path('known'), `[localhost]:${seenPort} ${hostKey}\n`);
  const lines = [`Port ${port}`, 'ListenAddress 127.0.0.1', `HostKey ${path('host')}`, 'PidFile none', 'UsePAM no'];
  lines.push(
    `AuthorizedKeysFile ${path('authorized')}`,
    'StrictModes no',
    'PermitRootLogin yes',
    ...(options.settings ?? []),
  );
  await writeFile(path('sshd.conf'), `${lines.join('\n')}\n`);
  // libvirt's URI names a program that is ssh, and one that connects to a socket as `nc -U` does.
  const ssh = `#!/bin/sh\nexec ssh -F /dev/null -o UserKnownHostsFile=${path('known')} -o IdentitiesOnly=yes "$@"\n`;
  await writeFile(path('ssh'), ssh, { mode: 0o755 });
  const netcat = '#!/bin/sh\nfor last; do :; done\nexec socat - "UNIX-CONNECT:$last"\n';
  await writeFile(path('netcat'), netcat, { mode: 0o755 });
  await runSshd(t, path('sshd.conf'), port);
  return {
    uri: (socketPath) =>
      `qemu+ssh://${userInfo().username}@localhost:${seenPort}/session?socket=${socketPath}&proxy=netcat` +
      `&netcat=${path('netcat')}&command=${path('ssh')}&keyfile=${path('user')}`,
  };
}

async function runSshd(t: TestContext, config: string, port: number): Promise<void> {
  // As its own start script does it.
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true });
  const sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  sshd.stderr.setEncoding('utf8').on('data', (text: string) => {
    words += text;
  });
  t.use({
    close: async () => {
      const exited = once(sshd, 'exit');
      if (sshd.kill('SIGTERM')) await exited;
    },
  });
  const deadline = systemClock.elapsedMs() + SSHD_TIMEOUT_MS;
  while (!(await answers(port))) {
    assert.ok(sshd.exitCode === null && systemClock.elapsedMs() < deadline, `sshd does not answer: ${words}`);
    await delay(20);
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}
