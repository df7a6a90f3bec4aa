// SPDX-License-Identifier: Apache-2.0
import type { Handle } from './library.ts';
import type { Handlers, Session } from './session.ts';
import { attributeOf, find, parseXml, textOf } from './xml.ts';

type StorageOperation = 'storagePool' | 'createVolume' | 'deleteVolume';

/** `struct _virStoragePoolInfo`: an int, padding, three 64-bit numbers: capacity, allocation, available. */
const POOL_INFO_LENGTH = 32;
const AVAILABLE_OFFSET = 24;

/** Storage pools and their volumes. Each blocks; libvirt-storage.h. */
export const storageOperations: Handlers<StorageOperation> = {
  storagePool: (session, { pool }) =>
    withPool(session, pool, (handle) => {
      const { api } = session;
      // What others put there since the last time must be seen: a volume is never made over it.
      session.expectCount(api.virStoragePoolRefresh(handle, 0));
      const info = Buffer.alloc(POOL_INFO_LENGTH);
      session.expectCount(api.virStoragePoolGetInfo(handle, info));
      const xml = parseXml(session.expectString(api.virStoragePoolGetXMLDesc(handle, 0)));
      return {
        type: attributeOf(xml, 'type') ?? 'unknown',
        availableBytes: Number(info.readBigUInt64LE(AVAILABLE_OFFSET)),
        path: textOf(find(xml, 'target/path')) ?? null,
      };
    }),

  createVolume: (session, { pool, xml }) =>
    withPool(session, pool, (handle) => {
      const { api } = session;
      const volume = session.expectHandle(api.virStorageVolCreateXML(handle, xml, 0));
      try {
        const path = session.expectString(api.virStorageVolGetPath(volume));
        return { path, xml: session.expectString(api.virStorageVolGetXMLDesc(volume, 0)) };
      } finally {
        api.virStorageVolFree(volume);
      }
    }),

  deleteVolume: (session, { pool, volume: name }) =>
    withPool(session, pool, (handle) => {
      const { api } = session;
      const volume = session.expectHandle(api.virStorageVolLookupByName(handle, name));
      try {
        session.expectCount(api.virStorageVolDelete(volume, 0));
      } finally {
        api.virStorageVolFree(volume);
      }
    }),
};

function withPool<T>(session: Session, pool: string, use: (handle: Handle) => T): T {
  const handle = session.expectHandle(session.api.virStoragePoolLookupByName(session.connection, pool));
  try {
    return use(handle);
  } finally {
    session.api.virStoragePoolFree(handle);
  }
}
