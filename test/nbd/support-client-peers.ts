// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { TestContext } from '../support/test-scope.ts';

/** A foreign NBD server on a unix socket; ended with the test. */
export interface PeerServer {
  readonly socket: string;
  readonly child: ChildProcess;
  /** URI of an export. */
  uri(exportName?: string): string;
  kill(signal: NodeJS.Signals): void;
  /** Settles when the process has ended. */
  readonly ended: Promise<unknown>;
}

const START_LIMIT_MS = 10_000;
const POLL_MS = 10;

export interface PeerOptions {
  /** Where to listen; default: in a directory of its own. */
  readonly socket?: string;
  /** Whether to connect once to see that it listens; default true. Otherwise the socket's file is enough. */
  readonly probe?: boolean;
}

/** nbdkit with these arguments (filters, plugin, parameters) in the foreground. */
export async function startNbdkit(
  t: TestContext,
  args: readonly string[],
  options: PeerOptions = {},
): Promise<PeerServer> {
  const socket = options.socket ?? join(await t.tempDir(), 's');
  return await startPeer(t, ['nbdkit', '-f', '-U', socket, ...args], { ...options, socket });
}

/** qemu-nbd with these arguments, which end with the image. */
export async function startQemuNbd(t: TestContext, args: readonly string[]): Promise<PeerServer> {
  const socket = join(await t.tempDir(), 's');
  return await startPeer(t, ['qemu-nbd', '-t', '-k', socket, ...args], { socket });
}

/** qemu-nbd with an empty memory-like image behind these TLS credentials. */
export async function startQemuNbdTls(t: TestContext, credentials: string): Promise<PeerServer> {
  const image = 'driver=null-co,size=1048576,read-zeroes=on';
  return await startQemuNbd(t, ['--object', credentials, '--tls-creds', 'tls0', '--image-opts', image]);
}

/** qemu-storage-daemon that serves its exports at the socket. */
export async function startStorageDaemon(t: TestContext, args: readonly string[]): Promise<PeerServer> {
  const path = join(await t.tempDir(), 's');
  const server = ['--nbd-server', `addr.type=unix,addr.path=${path}`];
  // Options count in order: block devices, then the server, then the exports.
  const exports = args.indexOf('--export');
  const command = ['qemu-storage-daemon', ...args.slice(0, exports), ...server, ...args.slice(exports)];
  return await startPeer(t, command, { socket: path });
}

async function startPeer(
  t: TestContext,
  command: readonly string[],
  { socket, probe = true }: PeerOptions & { readonly socket: string },
): Promise<PeerServer> {
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-4000);
  });
  const ended = once(child, 'close');
  t.use({
    close: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  });
  await eventually(`${command[0]} listens`, () => {
    if (child.exitCode !== null) throw new Error(`${command.join(' ')} ended: ${errors}`);
    return isListening(socket, probe);
  });
  return {
    socket,
    child,
    uri: (exportName = '') => `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socket}`,
    kill: (signal) => void child.kill(signal),
    ended,
  };
}

/** Waits, bounded, until the condition holds. */
export async function eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let waitedMs = 0; !(await condition()); waitedMs += POLL_MS) {
    if (waitedMs > START_LIMIT_MS) throw new Error(`it did not become true that ${what}`);
    await delay(POLL_MS);
  }
}

/** Runs a program to its end; fails when it fails. */
export async function runTool(...command: string[]): Promise<void> {
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`${command.join(' ')} failed with ${String(code)}: ${errors}`);
}

async function isListening(socket: string, probe: boolean): Promise<boolean> {
  const isThere = await access(socket).then(
    () => true,
    () => false,
  );
  if (!isThere || !probe) return isThere;
  const connection = connect(socket);
  const { promise, resolve } = Promise.withResolvers<boolean>();
  connection.once('data', () => resolve(true));
  connection.once('error', () => resolve(false));
  connection.once('close', () => resolve(false));
  const answer = await promise;
  connection.destroy();
  return answer;
}
