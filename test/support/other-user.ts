// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

export interface OtherUser {
  readonly uid: number;
  readonly gid: number;
}

/** Users that own nothing here; only root can be one of them. */
export const QEMU_USER: OtherUser = { uid: 64_123, gid: 64_123 };
export const SERVICE_USER: OtherUser = { uid: 64_124, gid: 64_124 };
export const STRANGER: OtherUser = { uid: 64_125, gid: 64_125 };

const CONNECT = 'import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(len(s.recv(8)))';
const LIST = 'import os,sys\nos.listdir(sys.argv[1])';

/** Whether a user can connect to an NBD server's socket and is greeted, tried by a process of that user. */
export async function canConnect(path: string, user: OtherUser): Promise<boolean> {
  return (await runAs(user, CONNECT, path))?.trim() === '8';
}

export async function canList(directory: string, user: OtherUser): Promise<boolean> {
  return (await runAs(user, LIST, directory)) !== undefined;
}

/** Standard output of a Python script, or undefined when it failed. Without supplementary groups. */
export async function runAs(user: OtherUser, script: string, ...args: readonly string[]): Promise<string | undefined> {
  const who = ['--reuid', String(user.uid), '--regid', String(user.gid), '--clear-groups'];
  return promisify(execFile)('setpriv', [...who, '--', 'python3', '-c', script, ...args], {
    cwd: '/',
    // A Python of root's own would be out of reach.
    env: { PATH: '/usr/bin:/bin' },
  }).then(
    ({ stdout }) => stdout,
    () => undefined,
  );
}
