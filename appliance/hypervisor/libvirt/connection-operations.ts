// SPDX-License-Identifier: Apache-2.0
import { ApplianceError } from '../../core/errors.ts';
import type { Version } from './protocol.ts';
import type { Handlers, Session } from './session.ts';

type ConnectionOperation =
  | 'versions'
  | 'capabilities'
  | 'isAlive'
  | 'listDomains'
  | 'lookup'
  | 'define'
  | 'createTransient'
  | 'activeNetworks'
  | 'storageVolume';

/** VIR_CONNECT_LIST_NETWORKS_ACTIVE. */
const LIST_ACTIVE_NETWORKS = 2;

/** Operations about the connection as a whole. Each blocks; libvirt-host.h, libvirt-domain.h, libvirt-storage.h. */
export const connectionOperations: Handlers<ConnectionOperation> = {
  versions: ({ api, connection }) => {
    const client = Buffer.alloc(8);
    const library = Buffer.alloc(8);
    const hypervisor = Buffer.alloc(8);
    api.virGetVersion(client, null, null);
    api.virConnectGetLibVersion(connection, library);
    api.virConnectGetVersion(connection, hypervisor);
    return {
      client: readVersion(client),
      library: readVersion(library),
      hypervisor: readVersion(hypervisor),
      type: api.virConnectGetType(connection) ?? 'unknown',
      hostname: api.virConnectGetHostname(connection) ?? 'unknown',
    };
  },

  capabilities: (session) => session.expectString(session.api.virConnectGetCapabilities(session.connection)),

  isAlive: (session) => session.api.virConnectIsAlive(session.connection) === 1,

  listDomains: (session, { flags }) => {
    const { api } = session;
    const list = Buffer.alloc(8);
    const count = session.expectCount(api.virConnectListAllDomains(session.connection, list, flags));
    return session.takeHandles(list, count).map((domain) => {
      const isActive = api.virDomainIsActive(domain) === 1;
      const isPersistent = api.virDomainIsPersistent(domain) === 1;
      return { ...session.takeIdentity(domain), isActive, isPersistent };
    });
  },

  lookup: (session, { uuid, name }) => {
    const { api, connection } = session;
    if (uuid !== undefined) return session.takeIdentity(api.virDomainLookupByUUIDString(connection, uuid));
    if (name !== undefined) return session.takeIdentity(api.virDomainLookupByName(connection, name));
    throw new ApplianceError('BAD_ARGUMENT', 'a domain is looked up by uuid or by name');
  },

  define: (session, { xml, flags }) =>
    session.takeIdentity(session.api.virDomainDefineXMLFlags(session.connection, xml, flags)),

  createTransient: (session, { xml, flags }) =>
    session.takeIdentity(session.api.virDomainCreateXML(session.connection, xml, flags)),

  activeNetworks: (session) => {
    const { api } = session;
    const list = Buffer.alloc(8);
    const count = session.expectCount(api.virConnectListAllNetworks(session.connection, list, LIST_ACTIVE_NETWORKS));
    return session.takeHandles(list, count).map((network) => {
      const name = api.virNetworkGetName(network) ?? '';
      api.virNetworkFree(network);
      return name;
    });
  },

  storageVolume: (session, { pool, volume }) => {
    const { api } = session;
    const poolHandle = session.expectHandle(api.virStoragePoolLookupByName(session.connection, pool));
    try {
      const handle = session.expectHandle(api.virStorageVolLookupByName(poolHandle, volume));
      try {
        const path = session.expectString(api.virStorageVolGetPath(handle));
        return { path, xml: session.expectString(api.virStorageVolGetXMLDesc(handle, 0)) };
      } finally {
        api.virStorageVolFree(handle);
      }
    } finally {
      api.virStoragePoolFree(poolHandle);
    }
  },
};

/** libvirt packs versions as major * 1,000,000 + minor * 1,000 + release. */
function readVersion(buffer: Buffer): Version {
  const packed = Number(buffer.readBigUInt64LE(0));
  return [Math.floor(packed / 1_000_000), Math.floor(packed / 1000) % 1000, packed % 1000];
}

/** Opens the session's connection; throws `LibvirtCallError`. */
export function openSession(session: Session, uri: string): void {
  session.connection = session.expectHandle(session.api.virConnectOpen(uri));
}
