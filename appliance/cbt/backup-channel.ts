// SPDX-License-Identifier: Apache-2.0
import { randomInt } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { join } from 'node:path';
import { ApplianceError, hasCode, toError } from '../core/errors.ts';
import type { ChildProgram } from '../hypervisor/child-program.ts';
import type { BackupServer } from '../hypervisor/libvirt/backup-xml.ts';
import { readLibvirtCertificates } from '../hypervisor/libvirt/certificates.ts';
import type { Endpoint, SshTarget } from '../hypervisor/libvirt/endpoint.ts';
import { letQemuListen } from '../hypervisor/libvirt/qemu-access.ts';
import type { QemuOwner } from '../hypervisor/libvirt/qemu-owner.ts';
import { openSshTunnel } from '../hypervisor/ssh-tunnel.ts';
import { connectNbd } from '../nbd/client/connect.ts';
import type { NbdDevice } from '../nbd/client/nbd-device.ts';
import type { NbdTlsOptions } from '../nbd/client/options.ts';
import type { NbdTarget } from '../nbd/uri.ts';
import { connectWhenReady } from './connect-when-ready.ts';

/** Ports that QEMU listens on for backups from another host; a firewall there must let the appliance in. */
export const BACKUP_PORTS = { first: 10_850, last: 10_949 } as const;

const LOOPBACK = '127.0.0.1';
const SOCKET_NAME = 's';
const START_ATTEMPTS = 10;

export interface ChannelOptions {
  readonly endpoint: Endpoint;
  /** Who QEMU runs as, on this host. */
  readonly owner: QemuOwner | undefined;
  /** Of this run alone; mode 0700. */
  readonly directory: string;
  readonly signal: AbortSignal;
}

/** The way from QEMU's NBD server to us. */
export interface BackupChannel extends AsyncDisposable {
  /** Starts the job with a place for the server; `start` is called again when QEMU could not listen there. */
  begin(start: (server: BackupServer) => Promise<void>): Promise<void>;
  /** After `begin`. @throws ApplianceError BACKUP_UNREACHABLE, SSH_FAILED, those of `connectNbd` */
  connect(exportName: string, metaContexts: readonly string[]): Promise<NbdDevice>;
}

/**
 * Prepares a way that is as safe as libvirt's own connection: on this host a unix socket that is nobody's but ours; behind ssh the
 * loopback address there and a tunnel to it; for TLS a port with certificates on both sides; plain only where libvirt's
 * connection is plain.
 * @throws ApplianceError NOT_SUPPORTED, BACKUP_UNREACHABLE, LIBVIRT_DENIED, QEMU_ACCESS, IO_FAILED
 */
export async function openChannel(options: ChannelOptions): Promise<BackupChannel> {
  const { endpoint, directory, owner } = options;
  switch (endpoint.kind) {
    case 'local':
      await letQemuListen(directory, owner);
      return localChannel(options);
    case 'ssh':
      return sshChannel(options, endpoint.ssh);
    case 'tls': {
      const tls = { ...(await readLibvirtCertificates(endpoint.tls.pkiPath)), hostname: endpoint.host };
      return networkChannel(options, { host: endpoint.host, ...(await resolve(endpoint.host)), tls });
    }
    case 'tcp':
      return networkChannel(options, { host: endpoint.host, ...(await resolve(endpoint.host)), tls: undefined });
    case 'other':
      throw new ApplianceError('NOT_SUPPORTED', `running machines cannot be backed up over ${endpoint.transport}`, {
        hint: 'Connect with qemu:///, qemu+ssh:// or qemu+tls://.',
      });
  }
}

function localChannel({ directory, signal }: ChannelOptions): BackupChannel {
  const path = join(directory, SOCKET_NAME);
  return {
    begin: (start) => start({ kind: 'unix', socketPath: path }),
    connect: (exportName, metaContexts) => connectTo({ kind: 'unix', path, exportName }, { metaContexts, signal }),
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** The tunnel is dug with the first connection: a guest that is frozen for `begin` does not wait for it. */
function sshChannel({ directory, signal }: ChannelOptions, target: SshTarget): BackupChannel {
  const path = join(directory, SOCKET_NAME);
  let port = 0;
  let tunnel: Promise<ChildProgram> | undefined;
  return {
    begin: async (start) => {
      port = await beginOnAnyPort({ addresses: [LOOPBACK], isTls: false, start });
    },
    connect: async (exportName, metaContexts) => {
      tunnel ??= openSshTunnel({ target, socketPath: path, remote: { host: LOOPBACK, port }, signal });
      const dug = await tunnel;
      try {
        return await connectTo({ kind: 'unix', path, exportName }, { metaContexts, signal });
      } catch (cause) {
        if (!hasCode(cause, 'NBD_CONNECT_FAILED', 'NBD_CONNECTION_LOST', 'TIMED_OUT')) throw cause;
        throw unreachable(`the disks cannot be read through ssh to ${target.host}: ${dug.lastWords || cause.message}`, {
          cause,
          hint: `Let sshd on ${target.host} forward ports to ${LOOPBACK} for that user (AllowTcpForwarding, PermitOpen), or use qemu+tls://.`,
        });
      }
    },
    [Symbol.asyncDispose]: async () => {
      const [opened] = await Promise.allSettled([tunnel]);
      if (opened?.status === 'fulfilled') await opened.value?.close();
    },
  };
}

interface NetworkPlace {
  readonly host: string;
  readonly address: string;
  readonly family: number;
  readonly tls: NbdTlsOptions | undefined;
}

function networkChannel({ signal }: ChannelOptions, place: NetworkPlace): BackupChannel {
  const { host, address, tls } = place;
  const isTls = tls !== undefined;
  let port = 0;
  return {
    begin: async (start) => {
      const everywhere = place.family === 6 ? '::' : '0.0.0.0';
      port = await beginOnAnyPort({ addresses: [address, everywhere], isTls, start });
    },
    connect: async (exportName, metaContexts) => {
      const target = {
        kind: 'tcp',
        host: address,
        port,
        exportName,
        tls: { mode: isTls ? 'require' : 'never' },
      } as const;
      try {
        return await connectTo(target, { metaContexts, signal, ...(tls === undefined ? {} : { tls }) });
      } catch (cause) {
        if (!hasCode(cause, 'NBD_CONNECT_FAILED', 'TIMED_OUT', 'NBD_TLS_FAILED')) throw cause;
        const hint = hasCode(cause, 'NBD_TLS_FAILED')
          ? `QEMU's certificate there must be of the same authority as libvirt's and name ${host}; or use qemu+ssh://.`
          : `Let the appliance reach the ports ${BACKUP_PORTS.first} to ${BACKUP_PORTS.last} of ${host}, or use qemu+ssh://, which needs none of them.`;
        throw unreachable(`the disks cannot be read from ${host} (${address}), port ${port}: ${cause.message}`, {
          cause,
          hint,
        });
      }
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function connectTo(
  target: NbdTarget,
  options: { readonly metaContexts: readonly string[]; readonly signal: AbortSignal; readonly tls?: NbdTlsOptions },
): Promise<NbdDevice> {
  return connectWhenReady(() => connectNbd(target, { ...options, reconnect: false }), options.signal);
}

async function resolve(host: string): Promise<{ address: string; family: number }> {
  try {
    return await lookup(host);
  } catch (cause) {
    throw unreachable(`the name ${host} has no address here`, { cause });
  }
}

interface PortSearch {
  /** To listen on; the next one when the host does not have it (address translation). */
  readonly addresses: readonly string[];
  readonly isTls: boolean;
  readonly start: (server: BackupServer) => Promise<void>;
}

/** libvirt leaves the port to us, and we do not see which are free there: tries some, each on the first address that is there. */
async function beginOnAnyPort({ addresses, isTls, start }: PortSearch): Promise<number> {
  let [address = '', ...others] = addresses;
  for (let attempt = 1; ; attempt++) {
    const port = randomInt(BACKUP_PORTS.first, BACKUP_PORTS.last + 1);
    try {
      await start({ kind: 'tcp', address, port, isTls });
      return port;
    } catch (error) {
      // libvirt has no codes for what QEMU says.
      const { message } = toError(error);
      if (!hasCode(error, 'LIBVIRT_FAILED') || attempt === START_ATTEMPTS) throw error;
      if (/cannot assign requested address/i.test(message) && others.length > 0) [address = '', ...others] = others;
      else if (isTls && /tls|x509|credentials|certificate/i.test(message)) throw withoutCertificates(error, message);
      else if (!/address already in use|find an available port/i.test(message)) throw error;
    }
  }
}

function withoutCertificates(cause: unknown, message: string): ApplianceError {
  return unreachable(`QEMU there cannot serve the disks over TLS: ${message}`, {
    cause,
    hint: 'Give it certificates (backup_tls_x509_cert_dir in /etc/libvirt/qemu.conf: ca-cert.pem, server-cert.pem, server-key.pem), or use qemu+ssh://.',
  });
}

function unreachable(message: string, more: { readonly cause: unknown; readonly hint?: string }): ApplianceError {
  return new ApplianceError('BACKUP_UNREACHABLE', message, more);
}
