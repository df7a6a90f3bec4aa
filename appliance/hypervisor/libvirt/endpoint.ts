// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';

/** Where a libvirt URI leads to, and over what. */
export type Endpoint =
  | { readonly kind: 'local' }
  | { readonly kind: 'ssh'; readonly ssh: SshTarget }
  | { readonly kind: 'tls'; readonly host: string; readonly tls: LibvirtTls }
  | { readonly kind: 'tcp'; readonly host: string }
  | { readonly kind: 'other'; readonly transport: string };

export interface SshTarget {
  readonly host: string;
  readonly user: string | undefined;
  readonly port: number | undefined;
  /** `keyfile=`. */
  readonly keyFile: string | undefined;
  /** `command=`; default `ssh`. */
  readonly command: string;
  /** False with `no_verify=1`, or `known_hosts_verify=ignore`. */
  readonly isHostVerified: boolean;
}

export interface LibvirtTls {
  /** `pkipath=`: a directory with everything; otherwise libvirt's own places. */
  readonly pkiPath: string | undefined;
  /** False with `no_verify=1`. */
  readonly isHostVerified: boolean;
}

/** scheme, transport, user, host in brackets or not, port, path, query. (libvirt: uri.html) */
const SHAPE =
  /^[a-z]+(?:\+([a-z0-9]+))?:\/\/(?:([^@/?#]*)@)?(?:\[([^\]/]*)\]|([^:/?#[\]]*))(?::(\d+))?(?:\/[^?#]*)?(?:\?([^#]*))?$/i;

/**
 * As libvirt reads a URI: without a transport `unix` when there is no host, `tls` when there is one.
 * @throws ApplianceError BAD_ARGUMENT, also for the aliases of libvirt.conf: where they lead cannot be seen
 */
export function parseEndpoint(uri: string): Endpoint {
  const match = SHAPE.exec(uri);
  if (match === null) {
    throw new ApplianceError('BAD_ARGUMENT', `${JSON.stringify(uri)} is not a libvirt URI`, {
      hint: 'For example qemu:///system, qemu+ssh://root@host/system or qemu+tls://host/system; aliases of libvirt.conf are not known here.',
    });
  }
  const [, given, user, address, name = '', port, query = ''] = match;
  const host = address ?? decodeURIComponent(name);
  const transport = (given ?? (host === '' ? 'unix' : 'tls')).toLowerCase();
  const parameters = new URLSearchParams(query);
  const isHostVerified = parameters.get('no_verify') !== '1' && parameters.get('known_hosts_verify') !== 'ignore';
  switch (transport) {
    case 'unix':
      return host === '' ? { kind: 'local' } : { kind: 'other', transport };
    case 'ssh':
    case 'libssh':
    case 'libssh2':
      return {
        kind: 'ssh',
        ssh: {
          host: host === '' ? 'localhost' : host,
          user: user === undefined || user === '' ? undefined : decodeURIComponent(user),
          port: port === undefined ? undefined : Number(port),
          keyFile: parameters.get('keyfile') ?? undefined,
          command: (transport === 'ssh' ? parameters.get('command') : null) ?? 'ssh',
          isHostVerified,
        },
      };
    case 'tls':
      return {
        kind: 'tls',
        host: host === '' ? 'localhost' : host,
        tls: { pkiPath: parameters.get('pkipath') ?? undefined, isHostVerified },
      };
    case 'tcp':
      return { kind: 'tcp', host: host === '' ? 'localhost' : host };
    default:
      return { kind: 'other', transport };
  }
}

/** Whether the hypervisor runs on this host, so that paths mean the same there and here. @throws as `parseEndpoint` */
export function isLocal(uri: string): boolean {
  return parseEndpoint(uri).kind === 'local';
}
