// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { ApplianceError } from '../core/errors.ts';
import { ChildProgram } from './child-program.ts';
import type { SshTarget } from './libvirt/endpoint.ts';

export interface SshTunnelOptions {
  readonly target: SshTarget;
  /** A unix socket that is made here, for our user alone; its directory exists. */
  readonly socketPath: string;
  /** Where connections come out, as seen from the other host. */
  readonly remote: { readonly host: string; readonly port: number };
  readonly signal?: AbortSignal;
}

const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 5_000;

/**
 * Starts an `ssh` process that carries connections from a socket here to a port there, until it is closed. It asks nothing: keys
 * and known hosts are those that libvirt's own connection uses. It must not outlive us: the machine's disks are at its other end.
 * @throws ApplianceError TOOL_MISSING, SSH_FAILED with the program's message, TIMED_OUT, ABORTED
 */
export function openSshTunnel(options: SshTunnelOptions): Promise<ChildProgram> {
  const { target, socketPath, signal } = options;
  return ChildProgram.start({
    command: target.command,
    args: tunnelArguments(options),
    // ssh makes the socket when it has logged in.
    isReady: () => existsSync(socketPath),
    startTimeoutMs: START_TIMEOUT_MS,
    stopTimeoutMs: STOP_TIMEOUT_MS,
    onEnded: (stderr) =>
      new ApplianceError('SSH_FAILED', `ssh to ${target.host} failed: ${stderr}`, {
        details: { host: target.host, stderr },
      }),
    onLate: () => new ApplianceError('TIMED_OUT', `ssh to ${target.host} does not get through`),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** Exported for tests. As libvirt calls ssh, with a forwarding in place of a command. */
export function tunnelArguments({ target, socketPath, remote }: SshTunnelOptions): string[] {
  const remoteHost = remote.host.includes(':') ? `[${remote.host}]` : remote.host;
  const args = ['-N', '-T', '-e', 'none', '-o', 'BatchMode=yes', '-o', 'ExitOnForwardFailure=yes'];
  args.push('-o', 'StreamLocalBindMask=0177', '-o', 'ControlPath=none', '-o', 'Compression=no');
  if (!target.isHostVerified) args.push('-o', 'StrictHostKeyChecking=no');
  if (target.user !== undefined) args.push('-l', target.user);
  if (target.port !== undefined) args.push('-p', String(target.port));
  if (target.keyFile !== undefined) args.push('-i', target.keyFile);
  return [...args, '-L', `${socketPath}:${remoteHost}:${remote.port}`, '--', target.host];
}
