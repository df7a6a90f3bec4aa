// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { systemErrorCode } from './errors.ts';
import { getExtendedAttribute, setExtendedAttribute } from './libc.ts';

/** What one user may do, whatever owner, group and mode say: the sum of `MAY` values. */
export interface Grant {
  readonly uid: number;
  readonly rights: number;
}

export const MAY = { search: 1, write: 2, read: 4 } as const;

/** A POSIX access list as the kernel keeps it: <linux/posix_acl_xattr.h>; little-endian. */
const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const NO_ID = 0xffff_ffff;
/** In the order in which the kernel wants them. */
const TAG = { owner: 0x01, user: 0x02, group: 0x04, namedGroup: 0x08, mask: 0x10, other: 0x20 } as const;
const ACCESS = 'system.posix_acl_access';
const INHERITED = 'system.posix_acl_default';

interface Entry {
  readonly tag: number;
  readonly rights: number;
  readonly id: number;
}

/**
 * Gives one more user access to a file, socket or directory of ours; nobody else gains anything. (acl(5))
 * @throws Node's errors: EOPNOTSUPP when the file system keeps no access lists, EPERM when the file is not ours
 */
export async function grantAccess(path: string, grant: Grant): Promise<void> {
  const stored = getExtendedAttribute(path, ACCESS);
  const entries = stored === undefined ? entriesOfMode((await stat(path)).mode) : decodeAccessList(stored);
  setExtendedAttribute(path, ACCESS, encodeAccessList(withGrant(entries, grant)));
}

/** What is created in this directory from now on is its owner's and these users', and nobody else's. Throws as `grantAccess`. */
export function grantInherited(directory: string, grants: readonly Grant[]): void {
  const closed = entriesOfMode(0o700);
  const entries = grants.reduce((list, grant) => withGrant(list, grant), closed);
  setExtendedAttribute(directory, INHERITED, encodeAccessList(entries));
}

/**
 * The rights of a user without privileges and supplementary groups, as the kernel decides (acl(5)). @throws Node's errors
 */
export async function rightsOf(path: string, user: { readonly uid: number; readonly gid: number }): Promise<number> {
  const { mode, uid, gid } = await stat(path);
  const entries = storedAccessList(path) ?? entriesOfMode(mode);
  const rights = (tag: number, id: number = NO_ID): number | undefined =>
    entries.find((entry) => entry.tag === tag && entry.id === id)?.rights;
  if (uid === user.uid) return rights(TAG.owner) ?? 0;
  const named = rights(TAG.user, user.uid);
  if (named !== undefined) return named;
  const groups = [gid === user.gid ? rights(TAG.group) : undefined, rights(TAG.namedGroup, user.gid)];
  const ofGroups = groups.filter((each) => each !== undefined);
  return ofGroups.length > 0 ? ofGroups.reduce((sum, each) => sum | each, 0) : (rights(TAG.other) ?? 0);
}

function storedAccessList(path: string): Entry[] | undefined {
  try {
    const stored = getExtendedAttribute(path, ACCESS);
    return stored === undefined ? undefined : decodeAccessList(stored);
  } catch (error) {
    if (systemErrorCode(error) === 'EOPNOTSUPP') return undefined;
    throw error;
  }
}

function entriesOfMode(mode: number): Entry[] {
  return [
    { tag: TAG.owner, rights: Math.floor(mode / 0o100) % 8, id: NO_ID },
    { tag: TAG.group, rights: Math.floor(mode / 0o10) % 8, id: NO_ID },
    { tag: TAG.other, rights: mode % 8, id: NO_ID },
  ];
}

/** The mask limits all users and groups that are not the owner: it has to let the new one through. */
function withGrant(entries: readonly Entry[], { uid, rights }: Grant): Entry[] {
  const others = entries.filter(({ tag, id }) => tag !== TAG.mask && !(tag === TAG.user && id === uid));
  const limited = [...others, { tag: TAG.user, rights, id: uid }];
  const mask = limited
    .filter(({ tag }) => tag === TAG.user || tag === TAG.group || tag === TAG.namedGroup)
    .reduce((sum, entry) => sum | entry.rights, 0);
  return [...limited, { tag: TAG.mask, rights: mask, id: NO_ID }].sort((a, b) => a.tag - b.tag || a.id - b.id);
}

/** Exported for tests. */
export function encodeAccessList(entries: readonly Entry[]): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + entries.length * ENTRY_BYTES);
  bytes.writeUInt32LE(VERSION, 0);
  for (const [index, { tag, rights, id }] of entries.entries()) {
    const at = HEADER_BYTES + index * ENTRY_BYTES;
    bytes.writeUInt16LE(tag, at);
    bytes.writeUInt16LE(rights, at + 2);
    bytes.writeUInt32LE(id, at + 4);
  }
  return bytes;
}

/** Exported for tests. Rights that the old mask took away stay away. */
export function decodeAccessList(bytes: Buffer): Entry[] {
  const entries: Entry[] = [];
  for (let at = HEADER_BYTES; at + ENTRY_BYTES <= bytes.length; at += ENTRY_BYTES) {
    entries.push({ tag: bytes.readUInt16LE(at), rights: bytes.readUInt16LE(at + 2), id: bytes.readUInt32LE(at + 4) });
  }
  const mask = entries.find(({ tag }) => tag === TAG.mask)?.rights ?? 7;
  return entries.map((entry) =>
    entry.tag === TAG.owner || entry.tag === TAG.other ? entry : { ...entry, rights: entry.rights & mask },
  );
}
