// SPDX-License-Identifier: Apache-2.0
import { existsSync } from 'node:fs';
import { hasCode } from '../../core/errors.ts';
import type { CallOptions } from './call-channel.ts';
import type { LibvirtConnection } from './connection.ts';
import type { HostFacts } from './rewrite-plan.ts';

/** What this host has for a domain that is started here over `connection`, which must be a local one. */
export async function readHostFacts(connection: LibvirtConnection, options?: CallOptions): Promise<HostFacts> {
  const networks = await activeNetworks(connection, options);
  // A session daemon may not plug into bridges.
  const isSession = /^[^?]*\/session(\?|$)/.test(connection.uri);
  return {
    hasPath: (path) => existsSync(path),
    hasBridge: (name) => !isSession && existsSync(`/sys/class/net/${name}/bridge`),
    hasNetwork: (name) => networks.includes(name),
  };
}

/** A libvirt without its network driver has none. */
async function activeNetworks(connection: LibvirtConnection, options?: CallOptions): Promise<readonly string[]> {
  try {
    return await connection.activeNetworks(options);
  } catch (error) {
    if (hasCode(error, 'NOT_SUPPORTED', 'LIBVIRT_FAILED')) return [];
    throw error;
  }
}
